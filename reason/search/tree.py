"""The search tree: append-only, small integer ids, no clocks.

A node is a piece of text that extends its parent. Node 0 is the problem. Strategies read the tree and never change
it; the driver adds nodes in the order in which they were asked for, so equal seeds give equal trees.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from reason.types import Answer, FinishReason, Path, Problem, Sampling, TokenLogprobs

__all__ = ["ROOT", "Expand", "Node", "Strategy", "Tree"]

ROOT = 0


@dataclass(slots=True, kw_only=True)
class Node:
    """One expansion's result. ``context`` is the whole token path that ends with this node."""

    id: int
    parent: int | None
    context: Path
    text: str = ""
    num_tokens: int = 0
    finish_reason: FinishReason | None = None  # None: still being generated
    logprobs: tuple[TokenLogprobs, ...] = ()
    answer: str | None = None
    answer_class: int | None = None  # equal for equivalent answers; numbered by first appearance
    error: str | None = None

    @property
    def pending(self) -> bool:
        return self.finish_reason is None

    @property
    def finished(self) -> bool:
        """The model ended its answer here, by itself or at the token limit."""
        return self.finish_reason in ("eos", "stop", "length")


@dataclass(slots=True)
class Tree:
    """Nodes by id. ``problem`` carries no reference answer: strategies cannot see one."""

    problem: Problem
    nodes: list[Node] = field(default_factory=list)

    def __getitem__(self, node: int) -> Node:
        return self.nodes[node]

    def __len__(self) -> int:
        return len(self.nodes)

    def children(self, node: int) -> list[Node]:
        """In the order in which they were asked for."""
        return [n for n in self.nodes if n.parent == node]

    def leaves(self) -> Iterator[Node]:
        """Nodes without children, the root aside."""
        parents = {n.parent for n in self.nodes}
        return (n for n in self.nodes if n.id not in parents and n.id != ROOT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expand:
    """Extend ``node`` by ``num_samples`` independent samples of at most ``max_tokens`` each."""

    node: int
    num_samples: int
    max_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()


@runtime_checkable
class Strategy(Protocol):
    """A search method as a value: a frozen dataclass of hyper-parameters with pure methods over the tree. It never
    sees an engine, a model, a clock or a reference answer."""

    def ask(self, tree: Tree) -> list[Expand]:
        """What to do next, given everything asked for so far (pending nodes are in the tree). Empty: wait for what is
        pending, or be done if nothing is."""
        ...

    def answer(self, tree: Tree) -> Answer:
        """The best answer that the finished leaves give; called once, also when a budget or Ctrl-C ended the run."""
        ...
