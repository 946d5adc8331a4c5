"""Best-of-N with majority vote: self-consistency (Wang et al., https://arxiv.org/abs/2203.11171).

    answer = argmax_a  #{i : answer(sample_i) == a},   samples i.i.d. from the model

Answers are grouped by mathematical equivalence; samples without an answer abstain. Ties go to the answer that was
asked for first. The winning text is the shortest finished one of its class.
"""

from __future__ import annotations

from dataclasses import dataclass

from reason.errors import UsageError
from reason.search.tree import ROOT, Expand, Node, Tree
from reason.types import Answer, Sampling

__all__ = ["BestOfN"]


@dataclass(frozen=True, kw_only=True)
class BestOfN:
    """Args:
    num_samples: completions to draw, and to vote over.
    max_tokens: limit of each completion.
    temperature, top_k, top_p, min_p: see ``Sampling``.
    """

    num_samples: int = 8
    max_tokens: int = 1024
    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        for name in ("num_samples", "max_tokens"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.temperature >= 0:
            raise UsageError(f"temperature must be at least 0, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top_p must be in (0, 1], got {self.top_p}")
        if not 0 <= self.min_p < 1:
            raise UsageError(f"min_p must be in [0, 1), got {self.min_p}")
        if self.top_k < 0:
            raise UsageError(f"top_k must be at least 0, got {self.top_k}")

    def ask(self, tree: Tree) -> list[Expand]:
        missing = self.num_samples - len(tree.children(ROOT))
        if missing <= 0:
            return []
        sampling = Sampling(temperature=self.temperature, top_k=self.top_k, top_p=self.top_p, min_p=self.min_p)
        return [Expand(node=ROOT, num_samples=missing, max_tokens=self.max_tokens, sampling=sampling)]

    def answer(self, tree: Tree) -> Answer:
        leaves = [node for node in tree.leaves() if not node.pending]
        voters: dict[int, list[Node]] = {}
        for node in leaves:
            if node.answer_class is not None:
                voters.setdefault(node.answer_class, []).append(node)
        if not voters:
            longest = max(leaves, key=lambda node: node.num_tokens, default=None)
            return Answer(answer=None, text=longest.text if longest else "")
        winners = max(voters.values(), key=lambda nodes: (len(nodes), -nodes[0].id))
        best = min(winners, key=lambda node: (not node.finished, node.num_tokens, node.id))
        return Answer(answer=winners[0].answer, text=best.text, confidence=len(winners) / len(leaves))
