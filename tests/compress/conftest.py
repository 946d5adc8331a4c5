"""Scorers and traces without models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import pytest

from reason.compress.importance import Relevance

PROBLEM = "What is 6 × 7?"
STEPS = tuple(f"Step {letter}." for letter in "ABCDEFGHIJKLMNOP")
TRACE = "<think>\n" + "\n\n".join(STEPS) + "\n</think>\n\nSo it is \\boxed{42}."


class FixedScorer:
    """A ``Scorer`` whose attention is given by the step's text, 1 where it is not; two steps a batch."""

    name = "fixed"

    def __init__(self, attention: Mapping[str, float] | None = None) -> None:
        self._attention = dict(attention or {})
        self.read: list[tuple[str, str]] = []

    def relevance(self, steps: Sequence[str], text: str, cue: str) -> Iterator[Sequence[tuple[int, Relevance]]]:
        self.read.append((text, cue))
        for first in range(0, len(steps), 2):
            yield [
                (place, Relevance(self._attention.get(step, 1.0), 1.0, 10))
                for place, step in enumerate(steps[first : first + 2], start=first)
            ]


@pytest.fixture
def scorer() -> FixedScorer:
    """Of the steps of ``TRACE``, B matters most, then H, N, E and K, none of which is beside another's span."""
    return FixedScorer({"Step B.": 9.0, "Step H.": 8.0, "Step N.": 7.0, "Step E.": 6.0, "Step K.": 5.0})
