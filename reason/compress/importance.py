"""How important a step is: the bidirectional importance score (BIS) of A*-Thought (https://arxiv.org/abs/2505.24550).

    BIS(t) = ((1 - alpha) A(q|t) + alpha A(s|t)) / ((1 - alpha) NLL(q|t) + alpha NLL(s|t))

for a step t, the question q and the solution s. A scorer reads the step and then q: NLL(q|t) is the mean of -log p over
the tokens of q; A(q|t) is what the tokens of q attend to those of t in the last layer, summed over heads and positions,
over the number of tokens of t. The same for s. Each is followed by a sentence that says what it has to do with the
step, as in LongLLMLingua (https://arxiv.org/abs/2310.06839). It counts as part of it: a causal model would not see it
otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from reason.errors import UsageError

__all__ = ["QUESTION_CUE", "SOLUTION_CUE", "Relevance", "Scorer", "bidirectional", "check_alpha"]

QUESTION_CUE = " We can get the solution to this question in the given thought step."
SOLUTION_CUE = " We can get this solution from the given thought step."

_LEAST_NLL = 1e-9


class Relevance(NamedTuple):
    """How a step bears on a text that is read after it."""

    attention: float  # A(text|step)
    nll: float  # NLL(text|step), nats per token
    num_tokens: int  # of step and text


@runtime_checkable
class Scorer(Protocol):
    """Reads each step before a text. ``AttentionScorer`` is one."""

    @property
    def name(self) -> str: ...

    def relevance(self, steps: Sequence[str], text: str, cue: str) -> Iterator[Sequence[tuple[int, Relevance]]]:
        """Yields a batch of (index of the step, its relevance) for each forward, in any order; each step once. Blocks
        while it computes, and is called from other threads than it was made in, one at a time.

        Args:
            text: the question or the solution.
            cue: the sentence that follows it.
        """
        ...


def bidirectional(
    to_question: Sequence[Relevance], to_solution: Sequence[Relevance], alpha: float
) -> tuple[float, ...]:
    """BIS of every step."""
    return tuple(
        ((1 - alpha) * q.attention + alpha * s.attention) / max((1 - alpha) * q.nll + alpha * s.nll, _LEAST_NLL)
        for q, s in zip(to_question, to_solution, strict=True)
    )


def check_alpha(alpha: float) -> None:
    """Raises:
    UsageError: it is no weight.
    """
    if not 0 <= alpha <= 1:
        raise UsageError(f"alpha must be in [0, 1] (0: the question alone counts, 1: the solution alone), got {alpha}")
