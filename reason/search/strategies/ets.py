"""ETS: efficient tree search (Hooper et al., https://arxiv.org/abs/2502.13575): REBASE with a price on KV.

    max_S  sum_{i in S} O_i - lambda_b cost(S and all above it) + lambda_d |clusters covered by S| / |clusters|

over sets S of a depth's candidates, which are then allocated the whole remaining width as REBASE does. O_i is REBASE's
share for i; clusters are of steps that say the same, by average linkage over their embeddings. How the program is
solved: ``cost_model``.

We depart from the paper's code, where a lambda_b of 0 became a bonus and the prompt counted as two tokens: 0 is REBASE
here, and the prompt is held in any case. The paper's nodes all cost the same, and so do ours unless told otherwise;
"tokens" charges what our cache, which is addressed by content, really holds: samples that say the same in the same
words are held once. Embeddings are the policy's own hidden states, or a sentence encoder's where those cannot be had,
not those of a mathematical BERT.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from reason.errors import UsageError
from reason.search.cost_model import Held, Program, Solver, best_leaves, held_tokens
from reason.search.measuring import vectors
from reason.search.merging import clusters
from reason.search.strategies.decoding import check_at_least
from reason.search.strategies.rebase import REBASE
from reason.search.tree import ROOT, Action, Measure, Node, Tree
from reason.verifiers import EMBEDDERS, VERIFIERS
from reason.verifiers.embeddings import DEFAULT_EMBEDDER, embedding_of

__all__ = ["ETS"]


@dataclass(frozen=True, kw_only=True)
class ETS(REBASE):
    """See the module's docstring. Notes: on candidates their ``weight`` O_i and ``cluster``, on the root the
    ``programs`` solved.

    Args:
        kv_weight: lambda_b. 0 is REBASE. The paper has 1 to 2, with a reward model's scores. Ours suits value heads;
            self-certainty tells steps apart less, so that it takes more, about 2.5, to give one up.
        diversity_weight: lambda_d; the paper has 1.5 at width 16, 1.4 at 64, 1.45 at 256. 0 needs no embeddings.
        node_cost: what counts as cost, as a share of what all candidates hold: nodes, "uniform"; or "tokens", once
            wherever paths are equal. Tokens make long steps dear, and what is left of short ones takes more of them.
        embedder: whose vectors say how alike two steps are; "auto" is hidden where the engine tells hidden states, else
            minilm.
        distance: up to this mean cosine distance steps are of one cluster. The paper's suits our embedders too: of 15
            steps of a 0.5B model it makes 4 clusters by hidden states, where 0.01, at which steps say the very same,
            makes 11 and prunes little.
        solver: of what is not decided by passes over the tree: HiGHS, or CBC through PuLP.
    """

    kv_weight: float = 1.5
    diversity_weight: float = 1.5
    node_cost: Literal["uniform", "tokens"] = "uniform"
    embedder: str = DEFAULT_EMBEDDER
    distance: float = 0.05
    solver: Solver = "highs"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 0, "kv_weight", "diversity_weight")
        if self.embedder.partition(":")[0].strip().lower() in VERIFIERS:
            raise UsageError(f"{self.embedder} scores steps; embedders are {', '.join(EMBEDDERS)}")
        if not 0 <= self.distance <= 2:
            raise UsageError(f"distance must be in [0, 2], got {self.distance}")

    @property
    def measures(self) -> tuple[str, ...]:
        return (self.verifier, self._embedding) if self.kv_weight * self.diversity_weight > 0 else (self.verifier,)

    @property
    def _embedding(self) -> str:
        """What the vectors are measured under."""
        return embedding_of(self.embedder)

    def due(self, tree: Tree, level: Sequence[Node]) -> list[Action]:
        candidates = [node for node in level if node.open]
        due = tuple(
            node.id
            for node in candidates
            if self._clustered(candidates)
            and self._embedding not in node.embeddings
            and (node.id, self._embedding) not in tree.measuring
        )
        return [*super().due(tree, level), *([Measure(nodes=due, name=self._embedding)] if due else [])]

    def ready(self, tree: Tree, candidates: Sequence[Node]) -> bool:
        if any(self._embedding in node.scores for node in candidates):
            raise UsageError(f"{self.embedder!r} gave scores, not vectors: it is no embedder")
        return not self._clustered(candidates) or all(self._embedding in node.embeddings for node in candidates)

    def shares(self, tree: Tree, candidates: Sequence[Node], rewards: Sequence[float]) -> list[int]:
        shares = super().shares(tree, candidates, rewards)
        program = self.program(tree, candidates, [share / sum(shares) for share in shares])
        kept = best_leaves(program, solver=self.solver)
        final = dict(zip(kept, self.allocate(tree, [rewards[leaf] for leaf in kept]), strict=True))
        for leaf, node in enumerate(candidates):
            tree.note(node.id, weight=shares[leaf] / sum(shares), cluster=program.clusters[leaf])
        solved = {"depth": candidates[0].depth, "candidates": len(candidates), "worth": len(kept)}
        programs = [*tree[ROOT].notes.get("programs", []), {**solved, "objective": program.value(kept)}]
        tree.note(ROOT, programs=programs)
        return [final.get(leaf, 0) for leaf in range(len(candidates))]

    def program(self, tree: Tree, candidates: Sequence[Node], weights: Sequence[float]) -> Program:
        """What of a depth's candidates to keep."""
        groups, diversity_weight = [list(range(len(candidates)))], 0.0
        if self._clustered(candidates):
            points = vectors(tree, [node.id for node in candidates], self._embedding)
            groups = clusters(points, self.distance)
            diversity_weight = self.diversity_weight
        cluster = {leaf: number for number, group in enumerate(groups) for leaf in group}
        if self.node_cost == "tokens":
            held = held_tokens([node.context for node in candidates], len(tree[ROOT].context))
        else:
            held = _held_nodes(tree, candidates)
        labels = [cluster[leaf] for leaf in range(len(candidates))]
        return held.program(weights, labels, kv_weight=self.kv_weight, diversity_weight=diversity_weight)

    def _clustered(self, candidates: Sequence[Node]) -> bool:
        """Whether it matters which candidates say the same."""
        return self.kv_weight * self.diversity_weight > 0 and len({node.text for node in candidates}) > 1


def _held_nodes(tree: Tree, leaves: Sequence[Node]) -> Held:
    """By nodes, each of size 1, the root among them."""
    above = sorted({step.id for leaf in leaves for step in tree.path(leaf.id)[:-1]})
    place = {node: i for i, node in enumerate([ROOT, *above])}
    return Held(
        parents=[-1, *(place[tree[node].parent or ROOT] for node in above)],
        sizes=[1] * len(place),
        above=[place[leaf.parent or ROOT] for leaf in leaves],
        own=[1] * len(leaves),
    )
