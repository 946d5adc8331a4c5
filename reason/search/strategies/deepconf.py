"""DeepConf online: samples that lose confidence are cut short, and the vote ends when it is clear
(Fu et al., https://arxiv.org/abs/2508.15260).

    threshold = quantile_(1 - keep) over the warm-up's lowest group confidences
    a later sample is dropped as soon as its own falls below; answers are weighed by it; done at ``consensus``

The paper watches every token and calls ``keep`` = 0.9 "high" and 0.1 "low". We watch at the end of every ``chunk``
tokens, so that samples stay in the common batch, and default to groups of 64 tokens, fit for short solutions: the
paper's are of 2048. The warm-up's own samples all vote.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from reason.errors import UsageError
from reason.search.strategies.decoding import Decoding, check_at_least
from reason.search.strategies.scoring import note_scores, scores_due
from reason.search.tree import ROOT, Action, Cancel, Expand, Measure, Node, Room, Tree
from reason.search.voting import vote
from reason.types import Answer

__all__ = ["DeepConf"]


@dataclass(frozen=True, kw_only=True)
class DeepConf(Decoding):
    """Args:
    num_samples: solutions to begin, the warm-up's among them.
    warmup: solutions that are always finished, and set the threshold.
    keep: the share of the warm-up that the threshold would have kept.
    consensus: stop when the leading answer has this share of all weight.
    chunk: tokens between two looks at a sample's confidence.
    in_flight: samples under way at once.
    verifier: who measures confidence over the path so far.
    """

    breadth: ClassVar[str] = "num_samples"

    num_samples: int = 16
    warmup: int = 4
    keep: float = 0.9
    consensus: float = 0.95
    chunk: int = 64
    in_flight: int = 4
    verifier: str = "confidence:variant=lowest,window=64"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, "num_samples", "warmup", "chunk", "in_flight")
        if self.warmup > self.num_samples:
            raise UsageError(f"warmup must be at most num_samples, got {self.warmup} and {self.num_samples}")
        for name in ("keep", "consensus"):
            if not 0 < getattr(self, name) <= 1:
                raise UsageError(f"{name} must be in (0, 1], got {getattr(self, name)}")

    @property
    def measures(self) -> tuple[str, ...]:
        return (self.verifier,)

    def ask(self, tree: Tree, room: Room) -> Sequence[Action]:
        pending = [node for node in tree.nodes if node.pending]
        if "decided" in tree[ROOT].notes:
            return [Cancel(nodes=tuple(node.id for node in pending))] if pending else []
        leaves = [leaf for leaf in tree.leaves() if not leaf.pending and leaf.finish_reason != "cancelled"]
        due = scores_due(tree, leaves, self.verifier)
        actions: list[Action] = [Measure(nodes=due, name=self.verifier)] if due else []
        begun = tree.children(ROOT)
        if len(begun) < self.warmup:
            first = Expand(
                node=ROOT, num_samples=self.warmup - len(begun), max_tokens=self.max_tokens, sampling=self.sampling
            )
            return [first, *actions]
        if "threshold" not in tree[ROOT].notes:
            return actions
        going = [leaf.id for leaf in leaves if leaf.open and "kept" in leaf.notes]
        free = min(room.expansions, self.in_flight - len(pending) - len(tree.measuring) - len(due)) - len(going)
        new = min(free, self.num_samples - len(begun))
        actions += [self._chunk(tree, node, 1) for node in going]
        return [*actions, self._chunk(tree, ROOT, new)] if new > 0 else actions

    def tell(self, tree: Tree, done: Sequence[int]) -> None:
        import numpy as np

        for node in note_scores(tree, done, self.verifier, "last"):
            self._judge(tree, node)
        warm = tree.children(ROOT)[: self.warmup]
        if "threshold" not in tree[ROOT].notes and len(warm) == self.warmup and all(map(_settled, warm)):
            scores = [node.notes["score"] for node in warm if "score" in node.notes]
            tree.note(ROOT, threshold=float(np.quantile(scores, 1 - self.keep)) if scores else 0.0)
        if "threshold" in tree[ROOT].notes and "decided" not in tree[ROOT].notes and self._decided(tree):
            tree.note(ROOT, decided=True)

    def answer(self, tree: Tree) -> Answer:
        return vote(tree, "weighted", _voters(tree))

    def _judge(self, tree: Tree, node: Node) -> None:
        if node.depth > 1 or node.id not in {child.id for child in tree.children(ROOT)[: self.warmup]}:
            tree.note(node.id, **{"kept" if node.notes["score"] >= tree[ROOT].notes["threshold"] else "pruned": True})

    def _decided(self, tree: Tree) -> bool:
        weights: dict[int | None, float] = {}
        for leaf in _voters(tree):
            weights[leaf.answer_class] = weights.get(leaf.answer_class, 0.0) + leaf.notes.get("score", 0.0)
        total = sum(weights.values())
        leader = max((weight for answer, weight in weights.items() if answer is not None), default=0.0)
        return total > 0 and leader / total >= self.consensus

    def _chunk(self, tree: Tree, node: int, count: int) -> Expand:
        left = self.max_tokens - tree[node].path_tokens
        last = left <= self.chunk
        return Expand(
            node=node,
            num_samples=count,
            until="end" if last else self.chunk,
            max_tokens=max(1, left if last else self.chunk),
            sampling=self.sampling,
        )


def _voters(tree: Tree) -> list[Node]:
    return [leaf for leaf in tree.finished() if "pruned" not in leaf.notes]


def _settled(node: Node) -> bool:
    return node.failed or "score" in node.notes
