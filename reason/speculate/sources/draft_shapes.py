"""What a draft model computes: which places of a stream's draft, how many levels of them, and how users write that.

A *place* is a path of drafted tokens beyond a stream's end; level l are the places l tokens deep, computed together.
A shape chooses, among the candidates at the places of one level, the tokens behind which the next level is computed:

    chain          the best one                                        (SpS, https://arxiv.org/abs/2302.01318)
    rsd-c:B1,B2    the best B_l of each place                          (RSD-C, https://arxiv.org/abs/2402.14160)
    rsd-s:W        the W of best path value over the whole level       (RSD-S, the same paper)
    dyspec:N       all of path value above 1 / N                       (DySpec, https://arxiv.org/abs/2410.11744)

A candidate's estimate is how likely it is to be what comes (``Ranking``), its path value the product of the estimates
on its path. Under ``coupled`` estimates are made of log q + G with G the position's own noise, so the best are those
that are likeliest to be the plain sample, and whatever is left out is lossless: the output is a function of p and G.

Departures. RSD and DySpec draw their children from q; here children are ranked, and where a rejection rule draws them
(``rules.drawing``), shapes only decide what is computed before it asks. RSD-S conditions the noise of children on their
parents' to sample paths without replacement; the coupled noise is given, and a product ranks. DySpec's value of a later
sibling, v (1 - R[y]) times its share of the rest, is v times its own R.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from reason.errors import UnknownName, UsageError
from reason.runtime.forest import Branch
from reason.speculate.draft import Distribution, State
from reason.speculate.policy.ranking import Candidate

__all__ = ["MAX_LEVELS", "SHAPES", "Choice", "DraftOptions", "Place", "Shape", "best_length", "make_shape"]

MAX_LEVELS = 8
"""Levels that are chosen at most; ``length`` may ask for more."""

_WIDEST = 8  # candidates that ranking looks at
_GRAMMAR = "draft-model:NAME[,shape=chain|rsd-c:B1,B2|rsd-s:W|dyspec:N][,length=L][,stop=H][,ngram=true|false]"


@dataclass(slots=True, eq=False)
class Place:
    """A path of drafted tokens beyond a stream's end; the root is the empty one."""

    token: int = -1  # the path's last
    parent: Place | None = None
    depth: int = 0
    value: float = 1.0  # the product of the estimates on the path
    distribution: Distribution | None = None  # once it is computed
    candidates: Sequence[Candidate] = ()  # of the next token, best first
    kept: list[int] = field(default_factory=list)  # the tokens that the shape chose of them
    children: dict[int, Place] = field(default_factory=dict)
    claim: Branch | None = None  # in the draft model's forest; the root is the stream's branch
    copied: State = None  # where the n-gram source stands

    def child(self, token: int) -> Place:
        """The place one token further on; made if it is not there."""
        found = self.children.get(token)
        if found is None:
            found = self.children[token] = Place(token, self, self.depth + 1)
        return found


class Choice(NamedTuple):
    """A token that is drafted at a place."""

    place: Place
    candidate: Candidate

    @property
    def value(self) -> float:
        """Of the path with the token."""
        return self.place.value * self.candidate.estimate


class Shape(Protocol):
    """Chooses what is drafted, level by level."""

    name: str

    def width(self, depth: int) -> float:
        """About how many tokens of that depth it chooses, until that is known; 1 is the next token's depth. 0 if it
        chooses none."""
        ...

    def choose(self, level: Sequence[Place]) -> list[Choice]:
        """The tokens to draft behind the computed places of one level."""
        ...


class Chain:
    """The best candidate, one after the other."""

    name = "chain"

    def width(self, depth: int) -> float:
        return 1

    def choose(self, level: Sequence[Place]) -> list[Choice]:
        return [Choice(place, place.candidates[0]) for place in level if place.candidates]


class ConstantBranching:
    """The best ``branching[l]`` candidates of each place of level l."""

    name = "rsd-c"

    def __init__(self, branching: Sequence[int]) -> None:
        self._branching = tuple(branching)

    def width(self, depth: int) -> float:
        return math.prod(self._branching[:depth]) if depth <= len(self._branching) else 0

    def choose(self, level: Sequence[Place]) -> list[Choice]:
        return [
            Choice(place, candidate)
            for place in level
            for candidate in place.candidates[: sum(self._branching[place.depth : place.depth + 1])]
        ]


class Beam:
    """The ``size`` candidates of best path value over a level."""

    name = "rsd-s"

    def __init__(self, size: int) -> None:
        self._size = size

    def width(self, depth: int) -> float:
        return min(self._size, float(_WIDEST**depth))

    def choose(self, level: Sequence[Place]) -> list[Choice]:
        return _by_value(level)[: self._size]


class Threshold:
    """The candidates whose path value is above 1 / ``nodes``."""

    name = "dyspec"

    def __init__(self, nodes: int) -> None:
        self._nodes = nodes

    def width(self, depth: int) -> float:
        return math.log2(self._nodes)  # some ten levels have them all

    def choose(self, level: Sequence[Place]) -> list[Choice]:
        return [choice for choice in _by_value(level) if choice.value * self._nodes > 1.0]


SHAPES = ("chain", "rsd-c:B1,B2", "rsd-s:W", "dyspec:N")


def make_shape(text: str) -> Shape:
    """A shape as users write it.

    Raises:
        UnknownName: no such shape.
        UsageError: its numbers are missing or not allowed.
    """
    kind, _, argument = text.partition(":")
    if kind == "chain" and not argument:
        return Chain()
    if kind == "rsd-c":
        return ConstantBranching([_whole(text, number, 1, _WIDEST) for number in argument.split(",")])
    if kind == "rsd-s":
        return Beam(_whole(text, argument, 1, 64))
    if kind == "dyspec":
        return Threshold(_whole(text, argument, 2, 512))
    raise UnknownName("draft shape", text, SHAPES)


@dataclass(frozen=True, slots=True)
class DraftOptions:
    """What is written behind "draft-model:".

        NAME[,shape=S][,length=L][,stop=H][,ngram=true|false]

    A part without "=" belongs to the one before it, so that rsd-c may have commas. ``length`` fixes the number of
    levels, which is chosen by what pays otherwise. ``stop`` computes nothing behind a path on which a rejection is
    likelier than that (SpecDec++). ``ngram`` has copies of earlier text speed up a chain.
    """

    model: str
    shape: Shape
    length: int | None = None
    stop: float | None = None
    ngram: bool = True

    @classmethod
    def parse(cls, text: str) -> DraftOptions:
        """Reads the grammar above.

        Raises:
            UsageError: a part of it is unknown, twice there, or out of range.
        """
        parts: list[str] = []
        for part in text.split(","):
            if parts and "=" not in part:
                parts[-1] += "," + part
            else:
                parts.append(part)
        model, given = parts[0].strip(), {}
        for part in parts[1:]:
            option, _, value = part.partition("=")
            if option.strip() in given:
                raise UsageError(f"{option.strip()!r} is given twice in 'draft-model:{text}'")
            given[option.strip()] = value.strip()
        if not model or (unknown := given.keys() - {"shape", "length", "stop", "ngram"}):
            problem = f"knows no option {sorted(unknown)[0]!r}" if model else "needs the name of a model"
            raise UsageError(f"a draft model {problem}, in 'draft-model:{text}'; it is written {_GRAMMAR}")
        shape = make_shape(given.get("shape", "chain"))
        ngram = given.get("ngram", "true" if isinstance(shape, Chain) else "false")
        if ngram not in ("true", "false") or (ngram == "true" and not isinstance(shape, Chain)):
            raise UsageError(f"ngram is true or false, and true for shape=chain only, got {ngram!r} for {shape.name}")
        length = _whole("length", given["length"], 1, 32) if "length" in given else None
        return cls(model, shape, length, _share("stop", given["stop"]) if "stop" in given else None, ngram == "true")


def best_length(acceptance: float, draft_seconds: Sequence[float], target_seconds: Sequence[float]) -> int:
    """SmartSpec's length (https://arxiv.org/abs/2406.14066): the L that maximises

        (1 - a^(L + 1)) / (1 - a) / (seconds of L levels + seconds of a target forward that verifies them)

    Args:
        acceptance: a, of a drafted token whose predecessors were accepted.
        draft_seconds: of each level.
        target_seconds: by L, from 0 on; one more than levels.
    """
    assert len(target_seconds) == len(draft_seconds) + 1
    best, best_goodput, tokens, drafting = 0, 0.0, 0.0, 0.0
    for length, verifying in enumerate(target_seconds):
        tokens += acceptance**length
        drafting += draft_seconds[length - 1] if length else 0.0
        if tokens / (drafting + verifying) > best_goodput:
            best, best_goodput = length, tokens / (drafting + verifying)
    return best


def _by_value(level: Sequence[Place]) -> list[Choice]:
    choices = [Choice(place, candidate) for place in level for candidate in place.candidates]
    return sorted(choices, key=lambda choice: -choice.value)


def _whole(what: str, text: str, least: int, most: int) -> int:
    if not text.strip().isdecimal() or not least <= int(text) <= most:
        raise UsageError(f"{what!r} wants whole numbers from {least} to {most}, got {text!r}")
    return int(text)


def _share(what: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 < value < 1.0:
        raise UsageError(f"{what!r} wants a number between 0 and 1, got {text!r}")
    return value
