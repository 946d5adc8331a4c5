"""State merging: siblings that say the same become one hyper-node, in a view of the tree (FETCH,
https://arxiv.org/abs/2502.11183).

The real tree stays a tree. What was merged stands in two notes: a representative's ``members`` (itself first, by
falling score), and ``merged_into`` on each of the others. The view shows hyper-nodes as a strategy should see them.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from reason.search.measuring import vectors
from reason.search.tree import Expand, Node, NodeEnd, Tree

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["MergedTree", "clusters", "merge", "spread", "undecided"]


class MergedTree(Tree):
    """A tree as it looks after merging, made anew from ``real`` whenever it is needed; ids are the same.

    A merged node looks like a sample that failed, and what was sampled below it has the representative for a parent.
    An open sibling about which nothing is decided yet is ``hidden``: it looks pending. Texts, and the scores along
    them, are the real ones; notes go to the real tree.

    Args:
        cancelled: of what would be hidden, these look cancelled.
    """

    __slots__ = ("hidden", "real")

    def __init__(self, real: Tree, cancelled: Container[int] = ()) -> None:
        for name in Tree.__slots__:
            setattr(self, name, getattr(real, name))
        self.real = real
        self.hidden: dict[int, list[Node]] = {}  # by the hyper-node above them
        self.nodes = list(real.nodes)
        self._children = list(real._children)
        above: dict[int, int] = {}  # from a merged node to its representative
        moved: dict[int, list[int]] = {}  # what was sampled below merged nodes, by representative
        for node in real.nodes[1:]:
            assert node.parent is not None
            parent, end = above.get(node.parent, node.parent), node.finish_reason
            if "merged_into" in node.notes:
                above[node.id], end = node.notes["merged_into"], "error"
            elif undecided(node):
                if node.id in cancelled:
                    end = "cancelled"
                else:
                    end = None
                    self.hidden.setdefault(parent, []).append(node)
            if parent != node.parent:
                moved.setdefault(parent, []).append(node.id)
            if parent != node.parent or end != node.finish_reason:
                self.nodes[node.id] = _Shown(node, parent, end)
        for node_id in above:
            self._children[node_id] = []
        for node_id, more in moved.items():
            self._children[node_id] = sorted(self._children[node_id] + more)

    def hidden_nodes(self) -> set[int]:
        return {node.id for siblings in self.hidden.values() for node in siblings}

    def steps(self, node: int) -> list[Node]:
        return self.real.steps(node)


def undecided(node: Node) -> bool:
    """Whether it is open and may yet be merged. What begins a text of its own, and asides, are left alone."""
    return (
        node.finish_reason == "step"
        and "members" not in node.notes
        and "merged_into" not in node.notes
        and not node.begins
        and not node.aside
        and node.parent is not None
    )


def clusters(points: npt.NDArray[np.float32], distance: float) -> list[list[int]]:
    """Agglomerative clustering with average linkage: rows of ``points`` [points, size], all of length 1, in groups
    whose mean cosine distances are at most ``distance``. Groups, and rows in them, in order."""
    if len(points) == 1:
        return [[0]]
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    apart = (1.0 - points @ points.T).clip(min=0.0)
    labels = fcluster(linkage(squareform(apart, checks=False), method="average"), t=distance, criterion="distance")
    found: dict[int, list[int]] = {}
    for row, label in enumerate(labels):
        found.setdefault(label, []).append(row)
    return list(found.values())


def merge(tree: Tree, siblings: Sequence[int], *, embedder: str, distance: float, verifier: str | None) -> None:
    """Notes which of some embedded siblings say the same. The best by ``verifier``, or the first, stands for them: by
    the last step's score, whatever the strategy's aggregation, as what comes before it is one state."""

    def rank(node: int) -> tuple[float, int]:
        return (0.0 if verifier is None else -tree[node].scores[verifier][-1], node)

    for rows in clusters(vectors(tree, siblings, embedder), distance):
        members = sorted((siblings[row] for row in rows), key=rank)
        tree.note(members[0], members=members)
        for merged in members[1:]:
            tree.note(merged, merged_into=members[0])


def spread(view: MergedTree, expand: Expand, longest: int | None = None) -> Iterator[Expand]:
    """An expansion of a hyper-node as expansions of its members: the j-th sample below it comes from member j mod
    |members|. What begins a text of its own, or is an aside, is asked of the representative.

    Args:
        longest: limit of a solution. A member that has no more left than a step may have is written to its end; without
            it, a step is a step wherever it begins. Samples that go to an end are to end where the representative's do.
    """
    best = view[expand.node]
    members = [(member, _rest(view, best, member, expand, longest)) for member in best.notes.get("members", ())]
    members = [(member, rest) for member, rest in members if rest > 0]
    if len(members) < 2 or expand.aside or not isinstance(expand.prompt, str):
        yield expand
        return
    begun = sum(not child.aside and not child.begins for child in view.children(best.id))
    for place in range(begun, begun + expand.num_samples):
        member, rest = members[place % len(members)]
        until = "end" if rest <= expand.max_tokens else expand.until
        yield replace(expand, node=member, num_samples=1, until=until, max_tokens=min(rest, expand.max_tokens))


def _rest(view: MergedTree, best: Node, member: int, expand: Expand, longest: int | None) -> int:
    """How many tokens there may be below a member."""
    if expand.until == "end":
        longest = best.path_tokens + expand.max_tokens
    return expand.max_tokens + 1 if longest is None else longest - view.real[member].path_tokens


class _Shown(Node):
    """A node as the view has it: what differs and what strategies look at most is its own, all else is ``real``'s. If
    its end is another, nothing was measured of it."""

    __slots__ = ("real",)

    def __init__(self, real: Node, parent: int, end: NodeEnd | None) -> None:
        self.real = real
        self.id = real.id
        self.parent = parent
        self.finish_reason = end
        self.notes = real.notes
        if end != real.finish_reason:
            self.scores, self.embeddings = {}, {}

    def __getattr__(self, name: str) -> Any:  # of slots that were not filled
        return getattr(self.real, name)
