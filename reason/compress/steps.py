"""A trace as steps, and states: the sets of steps that a compressed trace may consist of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from reason.models.thinking import MARKS

__all__ = ["State", "Trace", "joined", "span", "split_steps", "split_trace", "touches", "union"]

State: TypeAlias = tuple[int, ...]
"""Indices of steps, ascending: a state is always read in the trace's own order."""


class Trace(NamedTuple):
    """What a reasoning model wrote: its thinking, and what it said after that ("" if it said nothing)."""

    thought: str
    solution: str


def split_trace(text: str) -> Trace:
    """Takes a text apart at its marks of thinking; one without them is all thought.

    The opening mark is often part of the prompt, so that only the closing one is in the text.
    """
    for start, end in MARKS:
        thought, closed, solution = text.partition(end)
        opened = thought.lstrip().startswith(start)
        if closed or opened:
            thought = thought.lstrip().removeprefix(start) if opened else thought
            return Trace(thought.strip(), solution.strip())
    return Trace(text.strip(), "")


def split_steps(thought: str, delimiter: str = "\n\n") -> tuple[str, ...]:
    """The steps between delimiters, without line breaks around them; blank ones are none."""
    return tuple(step.strip("\n") for step in thought.split(delimiter) if step.strip())


def span(centre: int, num_steps: int) -> State:
    """A step and its neighbours, as far as there are any."""
    return tuple(range(max(0, centre - 1), min(num_steps, centre + 2)))


def union(state: State, other: State) -> State:
    """All steps of both."""
    return tuple(sorted({*state, *other}))


def touches(centre: int, state: State) -> bool:
    """Whether a neighbour of ``centre`` is in the state; so it is for every step of a span."""
    return centre - 1 in state or centre + 1 in state


def joined(steps: Sequence[str], state: State, delimiter: str = "\n\n") -> str:
    """The text of a state."""
    return delimiter.join(steps[index] for index in state)
