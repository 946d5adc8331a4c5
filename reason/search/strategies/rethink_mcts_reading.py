"""How RethinkMCTS (Li et al., https://arxiv.org/abs/2409.09584) reads what it asked for: thoughts with the scores that
make their priors, and one thought in another's place.

It takes what weak models write: numbered lines, bullets, JSON that is torn, scores in any place or none.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from reason.tasks.answers import after_thinking

__all__ = ["Thought", "priors", "read_rethought", "read_thoughts"]

MAX_CHARACTERS = 400
"""Of a thought; what is longer is cut at a word."""

_FENCED = re.compile(r"^[ \t]*(```|~~~).*?(?:^[ \t]*\1[^\n]*$|\Z)", re.MULTILINE | re.DOTALL)
_FENCE_LINE = re.compile(r"^[ \t]*(?:```|~~~)[^\n]*$", re.MULTILINE)
_LABEL = r"(?:(?:new|better|improved|revised|next|first|second|third|last) )*(?:thought|idea|step)s?"
_NUMBER = re.compile(rf"\s*[-*•>]?\s*(?:\(?\d{{1,2}}[.):](?!\d)|{_LABEL}\s*\d{{1,2}}\s*[.):-])\s*", re.IGNORECASE)
_BULLET = re.compile(r"[-*•>]\s+")
_VALUE = r"(?P<value>\d*\.\d+|\d+)\s*(?:(?P<percent>%)|/\s*(?P<of>\d+)|out of (?P<out>\d+))?"
_SAID = re.compile(
    rf"[\[(,;–-]*\s*\b(?:reasonableness|promising|score|prior|probability|confidence|likelihood|rating)\b"
    rf"(?:\s+(?:is|of))?\W{{0,4}}{_VALUE}\s*[\])]*",
    re.IGNORECASE,
)
_BRACKETED = re.compile(rf"[\[(]\s*{_VALUE}\s*[\])]\s*[.:,-]*")
_AT_END = re.compile(r"\s*[-–:|,]+\s*(?P<value>[01]?\.\d+|[01])\s*\.?$")
_AT_START = re.compile(r"^(?P<value>[01]?\.\d+)\s*[-–:|)\]]+\s*")
_PARAGRAPHS = re.compile(r"\n\s*\n")
_NEW = re.compile(rf"(?:^|\n|[*_#>\s])(?:{_LABEL})\W{{0,3}}:\W{{0,3}}(?=\w)", re.IGNORECASE)


class Thought(NamedTuple):
    """A thought, and how promising it was said to be, on a scale that nobody knows."""

    text: str
    score: float | None = None


def read_thoughts(text: str, count: int, *, before: Sequence[str] = (), cut: bool = False) -> list[Thought]:
    """The first thoughts in a text, each once, and none that is among those ``before``. May be empty.

    Args:
        cut: the text was cut off; half a thought at its end is left out, if there are others.
    """
    said = next(after_thinking(text))
    found = list(_of_json(said)) or list(_of_lines(said, cut=cut))
    seen = {_plain(thought) for thought in before}
    fresh: list[Thought] = []
    for thought, score in found:
        shown = _shortened(thought)
        if _plain(shown) and _plain(shown) not in seen:
            seen.add(_plain(shown))
            fresh.append(Thought(shown, score))
    return fresh[:count]


def read_rethought(text: str, *, before: Sequence[str] = ()) -> str | None:
    """The thought in a text that may give reasons for it first: what follows "new thought:", or the last paragraph.
    None where there is none, or it is among those ``before``."""
    said = _FENCED.sub("", next(after_thinking(text)))
    named = list(_NEW.finditer(said))
    if named:
        said = said[named[-1].end() :]
    paragraphs = [part for part in _PARAGRAPHS.split(said) if _plain(part) and not part.rstrip().endswith(":")]
    if not paragraphs:
        return None
    chosen = " ".join(paragraphs[0 if named else -1].replace("**", "").split())
    if begun := _NUMBER.match(chosen):
        chosen = chosen[begun.end() :]
    thought = _shortened(_score_in(chosen).text)
    return None if _plain(thought) in ("", *map(_plain, before)) else thought


def priors(thoughts: Sequence[Thought]) -> list[float]:
    """Prior scores that sum to 1. A thought without one is worth the mean of the others."""
    given = [score for _, score in thoughts if score is not None and score >= 0 and math.isfinite(score)]
    mean = math.fsum(given) / len(given) if given else 0.0
    scores = [mean if score is None or score < 0 or not math.isfinite(score) else score for _, score in thoughts]
    total = math.fsum(scores)
    return [score / total if total > 0 else 1 / len(thoughts) for score in scores]


def _of_json(text: str) -> Iterator[Thought]:
    """Thoughts in whatever is JSON in a text."""
    decoder, at = json.JSONDecoder(), 0
    while (place := _first(text, "[{", at)) >= 0:
        try:
            value, at = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            at = place + 1
            continue
        yield from _in_value(value)


def _in_value(value: object) -> Iterator[Thought]:
    if isinstance(value, str):
        if value.count(" ") >= 2:  # not the arguments of a call
            yield Thought(value)
    elif isinstance(value, list):
        for each in value:
            yield from _in_value(each)
    elif isinstance(value, dict):
        texts = [each for each in value.values() if isinstance(each, str) and each.count(" ") >= 2]
        numbers = [score for each in value.values() if (score := _number(each)) is not None]
        if texts:
            yield Thought(max(texts, key=len), numbers[0] if numbers else None)
        elif len(numbers) == len(value) and all(key.count(" ") >= 2 for key in value):
            yield from (Thought(key, score) for key, score in zip(value, numbers, strict=True))
        else:
            for each in value.values():
                if isinstance(each, (list, dict)):
                    yield from _in_value(each)


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def _of_lines(text: str, *, cut: bool) -> Iterator[Thought]:
    """Thoughts of numbered or bulleted lines with what belongs to them; where there are none, of all lines. What is
    fenced is code, unless nothing else is there."""
    outside = _FENCED.sub("", text)
    lines = [
        line.replace("**", "") for line in (outside if _plain(outside) else _FENCE_LINE.sub("", text)).splitlines()
    ]
    begins = next((form for form in (_NUMBER, _BULLET) if any(map(form.match, lines))), None)
    items = [line for line in lines if not line.rstrip().endswith(":")] if begins is None else _items(lines, begins)
    items = [item for item in items if _plain(item)]
    if cut and len(items) > 1:
        items.pop()
    return _with_scores(items)


def _items(lines: Iterable[str], begins: re.Pattern[str]) -> list[str]:
    """Lines that begin as items do, each with those that belong to it: up to a blank line, from there on what is
    indented, or says a score and no more."""
    items: list[str] = []
    blank = False
    for line in lines:
        if begun := begins.match(line):
            items.append(line[begun.end() :])
            blank = False
        elif not line.strip():
            blank = True
        elif items and (not blank or line[0].isspace() or not _plain(_score_in(line).text)):
            items[-1] += " " + _BULLET.sub("", line.strip(), count=1)
    return items


def _with_scores(items: Iterable[str]) -> Iterator[Thought]:
    """A line that is nothing but a score belongs to the thought before it."""
    last: Thought | None = None
    for item in items:
        found = _score_in(item)
        if _plain(found.text):
            if last is not None:
                yield last
            last = found
        elif last is not None and last.score is None:
            last = Thought(last.text, found.score)
    if last is not None:
        yield last


def _score_in(item: str) -> Thought:
    """A thought without the score that is said in it."""
    item = " ".join(item.split())
    for form in (_SAID, _BRACKETED, _AT_END, _AT_START):
        for found in reversed(list(form.finditer(item))):
            at_an_end = not _plain(item[: found.start()]) or not _plain(item[found.end() :])
            if form is _SAID or at_an_end:
                rest = f"{item[: found.start()]} {item[found.end() :]}".strip(" \t-–:|,;")
                return Thought(rest, _worth(found))
    return Thought(item)


def _worth(found: re.Match[str]) -> float:
    """A score; those of a known scale as a part of 1."""
    parts = found.groupdict()
    most = 100.0 if parts.get("percent") else float(parts.get("of") or parts.get("out") or 1)
    return float(parts["value"]) / most if most else 0.0


def _shortened(thought: str) -> str:
    thought = " ".join(thought.split()).strip("\"'` ")
    if len(thought) <= MAX_CHARACTERS:
        return thought
    return thought[:MAX_CHARACTERS].rpartition(" ")[0] or thought[:MAX_CHARACTERS]


def _plain(text: str) -> str:
    """Only its words, to compare by; "" where there are none."""
    words = " ".join(re.findall(r"\w+", text)).casefold()
    return words if any(character.isalpha() for character in words) else ""


def _first(text: str, characters: str, start: int) -> int:
    """The place of the first of ``characters`` from ``start`` on, -1 if there is none."""
    found = re.compile(f"[{re.escape(characters)}]").search(text, start)
    return -1 if found is None else found.start()
