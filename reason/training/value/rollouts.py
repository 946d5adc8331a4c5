"""Rollouts: solutions that the policy wrote, with outcomes, and the places in them whose states are learnt from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from reason.search.generation import split_steps
from reason.types import Path, Step, TextCodec

__all__ = ["FINAL", "INNER", "STEP", "Kind", "Place", "Rollout", "places"]

Kind: TypeAlias = Literal[0, 1, 2]
INNER: Kind = 0  # within a step
STEP: Kind = 1  # a step ends here
FINAL: Kind = 2  # the solution does


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One whole solution.

    Args:
        problem: the problem's id.
        answer_class: equal for equivalent answers of one problem; None where it says none.
        correct: whether its answer is right.
    """

    problem: str
    prompt: Path
    tokens: Path
    answer_class: int | None
    correct: bool


@dataclass(frozen=True, slots=True)
class Place:
    """A token of a rollout, by its number; the state is that which it was drawn from."""

    token: int
    kind: Kind


def places(codec: TextCodec, rollout: Rollout, delimiter: str, *, every: int) -> list[Place]:
    """Where a rollout's states are learnt from: the last token of each step, and within steps each ``every``-th token,
    because searches end steps at a limit too."""
    steps = split_steps(codec, Step(text="", tokens=rollout.tokens), delimiter)
    found: list[Place] = []
    begin = 0
    for number, step in enumerate(steps, start=1):
        end = begin + len(step.tokens)
        found += [Place(token, INNER) for token in range(begin + every - 1, end - 1, every)]
        found.append(Place(end - 1, FINAL if number == len(steps) else STEP))
        begin = end
    return found
