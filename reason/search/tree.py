"""The search tree: append-only, small integer ids, no clocks.

A node is a piece of text that extends its parent; node 0 is the problem. Its search ``parent`` says which move led to
it, its token ``context`` what the model reads before the next one: they part where a move rewrites instead of
extending. Such a node ``begins`` a text of its own. An ``aside`` (a critique, a plan, a decomposition) is no solution,
nor part of one. Strategies read the tree and annotate it (``note``); the driver adds nodes in the order in which they
were asked for and fills them in that order too, so equal seeds give equal trees.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

from reason.types import Answer, FinishReason, Message, Path, Problem, Sampling, Thinking, TokenLogprobs

__all__ = ["ROOT", "Action", "Cancel", "Expand", "Measure", "Node", "NodeEnd", "Room", "Strategy", "Tree"]

ROOT = 0

NodeEnd: TypeAlias = FinishReason | Literal["step"]
"""Why a node ended: as a completion does, or "step" at a step boundary or the step's own token limit, from where it may
be extended."""


@dataclass(slots=True, kw_only=True)
class Node:
    """One expansion's result. ``context`` is the whole token path that ends with this node."""

    id: int
    parent: int | None
    depth: int = 0
    context: Path = ()
    text: str = ""
    num_tokens: int = 0  # generated for this node
    path_tokens: int = 0  # generated for the text that ends here
    prompt_tokens: int = 0  # of the context, before that text begins
    turns_before: int = 0  # tokens of the context, of turns that were over before this one
    begins: bool = False  # that text begins here, instead of going on from the parent's
    aside: bool = False
    open_ended: bool = False  # asked for so; see ``Expand``
    thinking: bool = False  # its text ends in the middle of the model's thinking
    finish_reason: NodeEnd | None = None  # None: pending
    stopped_on: str | int | None = None  # the stop string or token that ended it
    logprobs: tuple[TokenLogprobs, ...] = ()
    answer: str | None = None
    answer_class: int | None = None  # equal for equivalent answers; numbered by first appearance
    error: str | None = None
    scores: dict[str, tuple[float, ...]] = field(default_factory=dict)  # by verifier, one for each step
    feedback: dict[str, str] = field(default_factory=dict)  # by verifier, see ``Review``
    embeddings: dict[str, bytes] = field(default_factory=dict)  # by embedder, of the last step; little-endian float16
    notes: dict[str, Any] = field(default_factory=dict)  # the strategy's annotations, JSON-able

    @property
    def pending(self) -> bool:
        return self.finish_reason is None

    @property
    def finished(self) -> bool:
        """The model ended its solution here, by itself or at the token limit."""
        return self.finish_reason in ("eos", "stop", "length")

    @property
    def failed(self) -> bool:
        """It came to nothing: an error, or it was dropped."""
        return self.finish_reason in ("error", "cancelled")

    @property
    def open(self) -> bool:
        """It ends at a step boundary and may be extended."""
        return self.finish_reason == "step"


class Tree:
    """Nodes by id. ``problem`` carries no reference answer: strategies cannot see one.

    Args:
        seed: of the run and the problem; what strategies toss their coins with.
        thinking: how the model marks its thinking; None if it does not.
        same_distance: by embedder, up to which cosine distance two steps say the same, of those that know it.
    """

    __slots__ = ("_changed", "_children", "measuring", "nodes", "problem", "same_distance", "seed", "thinking")

    def __init__(
        self,
        problem: Problem,
        nodes: Sequence[Node] = (),
        *,
        seed: int = 0,
        thinking: Thinking | None = None,
        same_distance: Mapping[str, float] | None = None,
    ) -> None:
        self.problem = problem
        self.seed = seed
        self.thinking = thinking
        self.same_distance = dict(same_distance or {})
        self.nodes: list[Node] = []
        self.measuring: set[tuple[int, str]] = set()  # (node, verifier) under way
        self._children: list[list[int]] = []
        self._changed: dict[int, dict[str, Any]] = {}
        for node in nodes:
            self.add(node)

    def __getitem__(self, node: int) -> Node:
        return self.nodes[node]

    def __len__(self) -> int:
        return len(self.nodes)

    def add(self, node: Node) -> None:
        """Appends a node; for the driver."""
        assert node.id == len(self.nodes) and (node.parent is None) == (node.id == ROOT)
        self.nodes.append(node)
        self._children.append([])
        if node.parent is not None:
            node.depth = self.nodes[node.parent].depth + 1
            self._children[node.parent].append(node.id)

    def children(self, node: int) -> list[Node]:
        """In the order in which they were asked for."""
        return [self.nodes[child] for child in self._children[node]]

    def leaves(self) -> Iterator[Node]:
        """Nodes without children, the root aside."""
        return (node for node in self.nodes[1:] if not self._children[node.id])

    def ends(self) -> Iterator[Node]:
        """Where solutions end so far: nothing goes on from there but texts of their own and asides."""
        return (node for node in self.nodes[1:] if not node.aside and not self._goes_on(node))

    def finished(self) -> list[Node]:
        """Whole solutions that nothing goes on from, or that were open-ended, in tree order."""
        return [
            node
            for node in self.nodes[1:]
            if node.finished and not node.aside and (node.open_ended or not self._goes_on(node))
        ]

    def _goes_on(self, node: Node) -> bool:
        return any(not (child.begins or child.aside) for child in self.children(node.id))

    def path(self, node: int) -> list[Node]:
        """From the first step below the root to ``node``."""
        path: list[Node] = []
        at: Node = self.nodes[node]
        while at.parent is not None:
            path.append(at)
            at = self.nodes[at.parent]
        return path[::-1]

    def steps(self, node: int) -> list[Node]:
        """The part of the path that makes up the text as far as ``node``."""
        path = self.path(node)
        return path[max((place for place, step in enumerate(path) if step.begins), default=0) :]

    def text(self, node: int) -> str:
        """The solution as far as ``node``."""
        return "".join(step.text for step in self.steps(node))

    def step_scores(self, node: int, verifier: str) -> list[float]:
        """The scores of every step of the text as far as ``node``."""
        return [score for step in self.steps(node) for score in step.scores.get(verifier, ())]

    def coins(self, *event: int | str) -> random.Random:
        """Random numbers that depend on the seed and on what they are for alone."""
        name = ":".join(map(str, (self.seed, *event))).encode()
        return random.Random(int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big"))

    def note(self, node: int, **values: Any) -> None:
        """Annotates a node; values are JSON-able and shown by the trace and the tree's viewers."""
        self.nodes[node].notes.update(values)
        self._changed.setdefault(node, {}).update(values)

    def take_changes(self) -> dict[int, dict[str, Any]]:
        """The annotations since the last call; for the driver's journal."""
        changed, self._changed = self._changed, {}
        return changed


@dataclass(frozen=True, slots=True, kw_only=True)
class Expand:
    """Extend ``node`` by ``num_samples`` independent samples.

    Args:
        until: "step" (the problem's step delimiter), "end", or a number of tokens.
        max_tokens: limit of each sample; the driver may grant less when the budget ends.
        prompt: text appended to the node's context (with the token that ended it, unless it was open-ended) before the
            samples begin, or messages. With messages a text of its own begins.
        keep: say the messages after the node's context, in a new turn, so that its KV is of use. Else they replace it.
        stop: strings that end the sample for good.
        aside: what is written is neither a solution nor a part of one: no answer is read from it, it is no candidate.
        open_ended: its text may be gone on with: what ends it (a stop string, the end of its turn) is left out of its
            context, a stop string ends it as a step, and a solution that ended by itself stays one when it is gone on
            with.
    """

    node: int
    num_samples: int = 1
    until: Literal["step", "end"] | int = "end"
    max_tokens: int = 1024
    prompt: str | tuple[Message, ...] = ""
    keep: bool = False
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    aside: bool = False
    open_ended: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """Have the verifier ``name`` score ``nodes``; ``by_step`` splits each node's text at the step delimiter first. Or
    have the embedder of that name embed their last steps."""

    nodes: tuple[int, ...]
    name: str
    by_step: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """Drop pending expansions: their nodes end as "cancelled"."""

    nodes: tuple[int, ...]


Action: TypeAlias = Expand | Measure | Cancel


@dataclass(frozen=True, slots=True)
class Room:
    """How many more samples may be in flight. A strategy may ask for more: the driver starts what fits, and asks
    again."""

    expansions: int


@runtime_checkable
class Strategy(Protocol):
    """A search method as a value: a frozen dataclass of hyper-parameters with pure methods over the tree. It never
    sees an engine, a model, a clock or a reference answer."""

    @property
    def measures(self) -> tuple[str, ...]:
        """The names of the verifiers and embedders it may ask for."""
        ...

    def ask(self, tree: Tree, room: Room) -> Sequence[Action]:
        """What to do next, given everything asked for so far (pending nodes are in the tree, pending measurements in
        ``tree.measuring``). Empty: wait for what is pending, or be done if nothing is."""
        ...

    def tell(self, tree: Tree, done: Sequence[int]) -> None:
        """``done`` nodes have ended, or been scored: prune, merge, back up, by annotating nodes."""
        ...

    def answer(self, tree: Tree) -> Answer:
        """The best answer that the finished leaves give; called once, also when a budget or Ctrl-C ended the run."""
        ...
