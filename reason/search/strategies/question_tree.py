"""A question and the questions it is taken apart into, as a model writes them: a JSON object {question: [parts]}."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Question", "filled", "question_tree"]

_REFERENCE = re.compile(r"#(\d{1,3})|<(\d{1,3})>")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question of a tree, which is a tuple of them, the root first and every list's parts one after the other.

    Args:
        text: as it was written; #k or <k> stands for the answer of the k-th part of the same list.
        needs: the places in the tree of the parts referred to.
        parts: the places of what it is taken apart into.
        list: which of the text's lists that is; None without parts.
    """

    text: str
    needs: tuple[int, ...] = ()
    parts: tuple[int, ...] = ()
    list: int | None = None


def question_tree(question: str, text: str, *, max_lists: int, max_questions: int) -> tuple[Question, ...]:
    """The tree that a text takes a question apart into; the question alone where the text has no such object.

    The root's list is the one under the question, or else the first. A question that refers to others has no list of
    its own. A list is left out if a part of it repeats another or a question above it, or refers to no part before it.

    Args:
        max_lists: lists that count, from the first of the text on.
        max_questions: lists that would make the tree larger are left out.
    """
    lists = _lists(text)
    known = {_key(name): (index, parts) for index, (name, parts) in reversed([*enumerate(lists)])}
    if lists and _key(question) not in known:
        known[_key(question)] = (0, lists[0][1])
    nodes = [Question(text=question)]
    above = [{_key(question)}]  # of each node, itself included
    place = 0
    while place < len(nodes):
        node = nodes[place]
        index, parts = known.get(_key(node.text), (0, ()))
        fits = index < max_lists and len(nodes) + len(parts) <= max_questions
        if parts and fits and not _references(node.text) and _sound(parts, above[place]):
            first = len(nodes)
            for part in parts:
                nodes.append(Question(text=part, needs=tuple(first + k - 1 for k in _references(part))))
                above.append(above[place] | {_key(part)})
            nodes[place] = Question(text=node.text, needs=node.needs, parts=tuple(range(first, len(nodes))), list=index)
        place += 1
    return tuple(nodes)


def filled(question: Question, siblings: Sequence[int], answers: Mapping[int, str]) -> str:
    """A question's text with answers for references.

    Args:
        siblings: the places of its list's parts.
        answers: by place, of at least all that it needs.
    """
    return _REFERENCE.sub(lambda found: answers[siblings[_number(found) - 1]], question.text)


def _lists(text: str) -> list[tuple[str, tuple[str, ...]]]:
    """The object's questions with their parts, in order; nothing if it cannot be said which bracket is whose."""
    start = text.find("{")
    if start < 0:
        return []
    try:
        pairs, end = json.JSONDecoder(strict=False, object_pairs_hook=_Pairs).raw_decode(text, start)
    except (ValueError, RecursionError):
        return []
    if text[:end].count("[") != len(pairs):
        return []
    if not all(isinstance(parts, list) and all(isinstance(part, str) for part in parts) for _, parts in pairs):
        return []
    return [(name, tuple(" ".join(part.split()) for part in parts)) for name, parts in pairs]


class _Pairs(list[tuple[str, Any]]):
    """An object's items; unlike a list that was a list in the text, and unlike a dictionary with equal names."""


def _key(question: str) -> str:
    """What equal questions have in common."""
    return re.sub(r"\W+", " ", question.casefold()).strip()


def _references(question: str) -> list[int]:
    """The numbers of the parts that it refers to, from 1 on."""
    return [_number(found) for found in _REFERENCE.finditer(question)]


def _number(found: re.Match[str]) -> int:
    return int(found[1] or found[2])


def _sound(parts: Sequence[str], above: set[str]) -> bool:
    keys = {_key(part) for part in parts}
    if len(keys) < len(parts) or "" in keys or keys & above:
        return False
    return all(1 <= k < number for number, part in enumerate(parts, start=1) for k in _references(part))
