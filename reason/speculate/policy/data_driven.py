"""A data-driven template, after STAND (https://arxiv.org/abs/2506.04708): draft with a large tree on sample problems,
count how often each of its nodes is accepted, keep the best.

A node is accepted when the whole path to it is, so it is never accepted more often than its parent, and the best nodes
are a tree.
"""

from __future__ import annotations

from collections import Counter

from reason.speculate.draft import DraftTree, Template
from reason.speculate.policy.fixed import check_template

__all__ = ["NodeCounts", "wide_template"]


class NodeCounts:
    """How often each place of a template was accepted."""

    def __init__(self) -> None:
        self.drafts = 0
        self._accepted: Counter[tuple[int, ...]] = Counter()

    def count(self, tree: DraftTree, accepted: tuple[int, ...]) -> None:
        """One verified draft; ``accepted`` are its accepted nodes, root side first."""
        self.drafts += 1
        ranks: tuple[int, ...] = ()
        for node in accepted:
            ranks = (*ranks, tree.children[tree.parents[node]].index(node))
            self._accepted[ranks] += 1

    def best(self, nodes: int) -> Template:
        """The template of the ``nodes`` places that were accepted most often; shallow ones first among equals."""
        kept: set[tuple[int, ...]] = {(0,)}
        for path, _ in sorted(self._accepted.items(), key=lambda item: (-item[1], len(item[0]), item[0])):
            missing = _with_earlier(path) - kept
            if len(kept) + len(missing) <= nodes:
                kept |= missing
        return check_template(sorted(kept))


def wide_template(*, nodes: int = 625, depth: int = 20, width: int = 10) -> Template:
    """The tree to measure with: places in order of a guess at their acceptance, which halves with each rank and falls
    by a fifth with each level."""
    kept: list[tuple[int, ...]] = []
    waiting: list[tuple[float, tuple[int, ...]]] = [(1.0, (0,))]
    while waiting and len(kept) < nodes:
        waiting.sort()
        guess, path = waiting.pop()
        kept.append(path)
        if len(path) < depth:
            waiting.append((guess * 0.8, (*path, 0)))
        if path[-1] + 1 < width:
            waiting.append((guess * 0.5, (*path[:-1], path[-1] + 1)))
    return check_template(kept)


def _with_earlier(path: tuple[int, ...]) -> set[tuple[int, ...]]:
    """A path, its ancestors, and the earlier siblings of each: what a template needs to have it."""
    return {(*path[:depth], rank) for depth in range(len(path)) for rank in range(path[depth] + 1)}
