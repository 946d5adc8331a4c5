"""Scores that a model gives its own solutions in words: what MCTSr (https://arxiv.org/abs/2406.07394) and RethinkMCTS
(https://arxiv.org/abs/2409.09584) read."""

from __future__ import annotations

import re

__all__ = ["read_rating"]

_NUMBER = r"(-?(?:\d+(?:\.\d+)?|\.\d+))"

_FORMS = (
    re.compile(rf"score\W*?{_NUMBER}", re.IGNORECASE),
    re.compile(rf"score\D{{0,30}}?{_NUMBER}", re.IGNORECASE),
    re.compile(rf"^\W*?{_NUMBER}\W*$"),
)
"""What says a score, from the surest."""


def read_rating(text: str, limit: int) -> float | None:
    """The score from -limit to limit that a text ends with; None if there is none or it is out of range."""
    text = _range(limit).sub("", text.replace("\u2212", "-"))
    found = next((all_found for form in _FORMS if (all_found := form.findall(text))), None)
    if found is None:
        return None
    score = float(found[-1])
    return score if -limit <= score <= limit else None


def _range(limit: int) -> re.Pattern[str]:
    """What says how high scores may be: "out of 100", "/100", "-100 to 100"."""
    whole = r"(\.0+)?"
    return re.compile(rf"(out of( \w+){{0,3}}|/|-?\d+{whole} ?(to|and|,|-|\u2013)) ?\+?{limit}{whole}\b", re.IGNORECASE)
