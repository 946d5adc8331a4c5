"""The vocabulary of token speculation: what sources are asked, what a draft tree is, what they learn from.

Three independent parts meet here. A *source* says what it expects to come next; a *policy* decides which nodes of
which branches are worth a row of the forward; a *rule* decides which drafted tokens stand. Sources answer node by
node (a distribution at a state, a step to the next state), so any of them can be mixed, and a tree is grown only as
far as the policy wants it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from reason.runtime.sampler import TOP_TOKENS as TOP
from reason.types import Path

if TYPE_CHECKING:
    from reason.runtime.runner import ModelRunner
    from reason.speculate.tables import Ahead, Table

__all__ = ["CONTEXT", "NOTHING", "TOP", "Distribution", "DraftTree", "Rows", "Source", "State", "Stream", "Template"]

CONTEXT = 4
"""Tokens of context that come with a verified row."""

Template: TypeAlias = tuple[tuple[int, ...], ...]
"""The shape of a draft tree: paths of ranks, a node's parent and its earlier siblings before it."""

State: TypeAlias = Any
"""Where a source stands on a path; its own kind of value. None: it has nothing to say from here on."""


class Distribution(NamedTuple):
    """What is expected next: distinct tokens, likeliest first, and their probabilities, whose sum is at most 1.

    ``proposers[i]`` names the source that vouches most for ``tokens[i]``; empty where there is only one.
    """

    tokens: Sequence[int]
    probabilities: Sequence[float]
    proposers: Sequence[str] = ()


NOTHING = Distribution((), ())


@dataclass(slots=True, eq=False)
class Stream:
    """One request as sources see it.

    Args:
        tokens: the whole path so far, prompt included; it grows.
        prompt_length: how many of them the request came with.
        temperature: the request's; 0 is greedy.
        seed, key: of its sampling noise.
        room: tokens that may be drafted beyond its end, without overshooting a limit.
        ahead: what tables on the device say beyond the end; of those that were asked.
    """

    tokens: list[int]
    prompt_length: int
    temperature: float
    seed: int = 0
    key: int = 0
    room: int = 1 << 30
    ahead: Mapping[Table, Ahead] = field(default_factory=dict)


@dataclass(slots=True)
class Rows:
    """Rows of the target model, drafted and rejected places included, each place once.

    ``probabilities`` are the row's after its request's temperature (1 for greedy ones), before truncation.
    """

    contexts: npt.NDArray[np.int64]  # [rows, CONTEXT], the path's last tokens up to the row's own; -1 before its start
    tokens: npt.NDArray[np.int64]  # [rows, TOP], most likely first
    probabilities: npt.NDArray[np.float64]  # [rows, TOP]


class Source(Protocol):
    """Says what comes next. Sources never decide what is emitted: being wrong costs time, nothing else.

    States are values: ``step`` makes a new one and leaves the old one good, until the next ``observe``, or the next
    ``extend`` of their stream. The methods that learn do nothing by default.
    """

    name: str
    stochastic: bool = False
    """Whether its distributions may be drawn from under a rejection rule: true probabilities, frozen when asked."""
    reads_rows: bool = True
    """Whether ``observe`` learns anything: rows are fetched and described for those alone of whom that is so."""
    tables: Sequence[Table] = ()
    """What it keeps on the model's device."""

    def state(self, stream: Stream) -> State:
        """Where the source stands at the end of ``stream.tokens``."""
        ...

    def step(self, state: State, token: int) -> State:
        """The state one token further on; None if the source has nothing to say there."""
        ...

    def distribution(self, state: State) -> Distribution:
        """What is expected at a state that is not None."""
        ...

    def prepare(self, streams: Sequence[Stream]) -> None:
        """Called before an iteration's drafts, under every rule, with all streams that will be asked about: for sources
        that work in batches."""
        return

    def settle(self, state: State, token: int) -> None:
        """At a state that a draft came to, ``token`` came: for estimates that learn how good they are. The distribution
        there was asked for or not: nobody asks where a draft had to end, and what comes there teaches as much."""
        return

    def observe(self, rows: Rows) -> None:
        """Learns from verified rows."""
        return

    def begin(self, stream: Stream) -> None:
        """A request starts; ``stream.tokens`` are its prompt."""
        return

    def extend(self, stream: Stream, count: int) -> None:
        """The last ``count`` of ``stream.tokens`` are new: generated, from the first one on."""
        return

    def end(self, stream: Stream) -> None:
        """A request is over; what was learnt from it is kept, within the source's bounds."""
        return

    def asked_tables(self) -> Sequence[Table]:
        """Those of ``tables`` that the next drafts will look at."""
        return self.tables

    def reset(self) -> None:
        """Forgets everything that was learnt."""
        return

    def runners(self) -> Sequence[ModelRunner]:
        """The models that it computes with, none by default. Whoever closes the engine releases them."""
        return ()

    def watch_forwards(self, watcher: Callable[[Sequence[Stream]], None]) -> None:
        """Has ``watcher`` called after each forward of such a model, with the streams that had rows in it."""
        return


@dataclass(slots=True)
class DraftTree:
    """The draft of one branch. Node 0 is the branch's last token; parents come before their children, and the children
    of a node are in the order in which they were drawn."""

    tokens: list[int]
    parents: list[int] = field(default_factory=lambda: [-1])
    depths: list[int] = field(default_factory=lambda: [0])
    estimates: list[float] = field(default_factory=lambda: [1.0])  # P(accepted | its parent is)
    proposers: list[str] = field(default_factory=lambda: [""])
    children: list[list[int]] = field(default_factory=lambda: [[]])
    drawn_from: dict[int, Distribution] = field(default_factory=dict)
    """By node: what its (sampled) children were drawn from, for the rejection rules."""
    fixed: dict[int, int] = field(default_factory=dict)
    """By node: how many of its first children were put there, not drawn (rule ``mixed``)."""

    def __len__(self) -> int:
        """Drafted nodes, the root not counted."""
        return len(self.tokens) - 1

    def add(self, parent: int, token: int, estimate: float = 1.0, proposer: str = "") -> int:
        """Adds a child, last among its siblings; returns its index."""
        index = len(self.tokens)
        self.tokens.append(token)
        self.parents.append(parent)
        self.depths.append(self.depths[parent] + 1)
        self.estimates.append(estimate)
        self.proposers.append(proposer)
        self.children.append([])
        self.children[parent].append(index)
        return index

    def child(self, node: int, token: int) -> int | None:
        """The first child of ``node`` with that token."""
        return next((child for child in self.children[node] if self.tokens[child] == token), None)

    def path(self, node: int) -> Path:
        """The drafted tokens from below the root to ``node``."""
        tokens: list[int] = []
        while node:
            tokens.append(self.tokens[node])
            node = self.parents[node]
        return tuple(reversed(tokens))
