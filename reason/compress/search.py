"""The search of A*-Thought (https://arxiv.org/abs/2505.24550) over which steps of a trace to keep. Pure: what states
cost and whether one suffices is asked of ``Costs``.

    f(state) = g + h,   g = beta * mean -log p(thought | question),   h = mean -log p(solution | question, thought)

Steps queue by importance, the greatest first, ties in the trace's order. The state begins as the span of the first: the
step and its two neighbours. Each iteration *drops* a step or *expands*: the spans of the next ``branching`` steps are
each joined with the state, and the union of least f is the next state (of equals that of the more important step). A
step is dropped if a neighbour of it is in the state. Both are iterations: after ``k_min`` of them states are validated,
and the first that suffices is the result; after ``k_max`` the whole trace is.

There is one state at a time and no way back, so this is greedy best-first search, which the paper calls A*. What it
leaves open, we decide so: either neighbour suffices to drop a step, and of the next ``branching`` steps the most
important is dropped first; spans that lost stay in the queue; a state that failed is not validated a second time; where
the queue is empty before ``k_min`` the state is validated then, and if that fails the whole trace is the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

from reason.compress.steps import State, span, touches, union
from reason.errors import UsageError

__all__ = ["Candidate", "Cost", "Costs", "Ended", "Found", "Move", "SearchOptions", "ranked", "search"]

Ended: TypeAlias = Literal["validated", "unchecked", "k_max", "exhausted"]
"""Why a search ended. "validated": the answer sampled after the state is right; "unchecked": there was nothing to
check, so the state at ``k_min`` was taken; "k_max" and "exhausted": no state sufficed before the limit, or before there
was nothing left to add, so the whole trace is kept."""


class Cost(NamedTuple):
    """What a state costs, in nats per token."""

    thought: float  # mean -log p(thought | question)
    solution: float  # mean -log p(solution | question, thought)


class Costs(Protocol):
    """What a search asks of a model."""

    async def costs(self, states: Sequence[State]) -> Sequence[Cost]:
        """One for each state."""
        ...

    async def suffices(self, state: State) -> bool | None:
        """Whether the right answer is reached from a state; None if that cannot be checked."""
        ...


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """The search's hyper-parameters; the paper's values.

    Args:
        k_min: iterations before the first validation.
        k_max: iterations after which the whole trace is kept.
        branching: spans that an expansion compares (the paper's W).
        beta: weight of the thought's cost beside the solution's.
    """

    k_min: int = 5
    k_max: int = 20
    branching: int = 2
    beta: float = 0.1

    def __post_init__(self) -> None:
        if self.k_min < 0:
            raise UsageError(f"k_min must be at least 0, got {self.k_min}")
        if self.k_max <= self.k_min:
            raise UsageError(
                f"k_max must be more than k_min ({self.k_min}), or no state is ever validated; got {self.k_max}"
            )
        if self.branching < 1:
            raise UsageError(f"branching must be at least 1, got {self.branching}")
        if not 0 <= self.beta < float("inf"):
            raise UsageError(f"beta must be at least 0, got {self.beta}")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A span that an expansion compared, by its middle step, and what the state with it would cost."""

    centre: int
    f: float
    g: float
    h: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """One thing that a search did.

    Args:
        kind: "start", "drop" and "expand" are about ``centre``, "validate" about the state.
        k: iterations before it.
        size: steps in the state after it.
        candidates: of an expansion, the more important first.
        suffices: of a validation; None if there was nothing to check.
    """

    kind: Literal["start", "drop", "expand", "validate"]
    k: int
    size: int
    centre: int | None = None
    candidates: tuple[Candidate, ...] = ()
    suffices: bool | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON: what its kind has nothing to say about is left out."""
        said = {name: value for name, value in asdict(self).items() if value not in (None, ())}
        return said | ({"suffices": self.suffices} if self.kind == "validate" else {})


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a search came to."""

    kept: State
    ended: Ended
    record: tuple[Move, ...]


def ranked(importance: Sequence[float]) -> list[int]:
    """Steps in the order of the queue: by importance, the greatest first; ties in the trace's order."""
    return sorted(range(len(importance)), key=lambda step: (-importance[step], step))


async def search(importance: Sequence[float], costs: Costs, options: SearchOptions) -> Found:
    """See the module. There is at least one step."""
    everything: State = tuple(range(len(importance)))
    queue = ranked(importance)
    first = queue.pop(0)
    state = span(first, len(importance))
    record = [Move(kind="start", k=0, size=len(state), centre=first)]
    failed: State | None = None
    k = 0
    while state != everything and k < options.k_max:
        if (k >= options.k_min or not queue) and state != failed:
            suffices = await costs.suffices(state)
            record.append(Move(kind="validate", k=k, size=len(state), suffices=suffices))
            if suffices is not False:
                return Found(kept=state, ended="validated" if suffices else "unchecked", record=tuple(record))
            failed = state
        if not queue:
            break
        window = queue[: options.branching]
        near = next((centre for centre in window if touches(centre, state)), None)
        if near is not None:
            queue.remove(near)
            record.append(Move(kind="drop", k=k, size=len(state), centre=near))
        else:
            candidates = await _candidates(state, window, len(importance), costs, options.beta)
            best = min(candidates, key=lambda candidate: candidate.f)  # the first of equals
            queue.remove(best.centre)
            state = union(state, span(best.centre, len(importance)))
            record.append(Move(kind="expand", k=k, size=len(state), centre=best.centre, candidates=candidates))
        k += 1
    ended: Ended = "k_max" if state != everything and k >= options.k_max else "exhausted"
    return Found(kept=everything, ended=ended, record=tuple(record))


async def _candidates(
    state: State, window: Sequence[int], num_steps: int, costs: Costs, beta: float
) -> tuple[Candidate, ...]:
    found = await costs.costs([union(state, span(centre, num_steps)) for centre in window])
    weighed = [(beta * cost.thought, cost.solution) for cost in found]
    return tuple(Candidate(centre, g + h, g, h) for centre, (g, h) in zip(window, weighed, strict=True))
