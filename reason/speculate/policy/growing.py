"""Growing draft trees node by node, best first, over all branches at once."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from reason.runtime.noise import StreamNoise
from reason.speculate.draft import DraftTree, Source, State, Stream, Template
from reason.speculate.policy.ranking import Candidate, Ranking

__all__ = ["Growth"]


class Growth:
    """The trees of one iteration while they grow.

    Candidates of all branches wait in one heap by their path's probability (the product of the estimates). ``take``
    adds the best to its tree and asks the source about the place behind it. A node comes after its parent, so cutting
    them back to the first n nodes leaves trees again.
    """

    def __init__(
        self, streams: Sequence[Stream], source: Source, ranking: Ranking, *, max_depth: int, floor: float
    ) -> None:
        self.trees = [DraftTree([stream.tokens[-1]]) for stream in streams]
        self.states: list[list[State]] = []  # by tree and node
        self.buckets: list[list[int]] = []  # by tree and node, the calibration's
        self.order: list[int] = []  # the tree of each node in the order of adding
        self._streams = streams
        self._source = source
        self._ranking = ranking
        self._max_depth = max_depth
        self._floor = floor
        self._noise = [StreamNoise(stream.seed, stream.key) for stream in streams]
        self._heap: list[tuple[float, int, int, int, Candidate]] = []
        self._tie = 0
        for tree, stream in enumerate(streams):
            self.states.append([source.state(stream)])
            self.buckets.append([0])
            if stream.room > 0:
                self._expand(tree, 0, 1.0)

    @property
    def best(self) -> float:
        """The path probability of the best candidate; 0 if there is none."""
        return -self._heap[0][0] if self._heap else 0.0

    def take(self) -> float:
        """Adds the best candidate; returns its path probability."""
        negated, _, tree, parent, candidate = heapq.heappop(self._heap)
        node = self._add(tree, parent, candidate)
        if self.trees[tree].depths[node] < min(self._max_depth, self._streams[tree].room):
            self._expand(tree, node, -negated)
        return -negated

    def follow(self, template: Template) -> None:
        """Adds what a template has, as far as there are candidates; for a growth on which ``take`` was not called."""
        offered: list[dict[int, list[Candidate]]] = [{} for _ in self.trees]  # by tree and parent, in order
        for _, _, tree, parent, candidate in sorted(self._heap, key=lambda entry: entry[1]):
            offered[tree].setdefault(parent, []).append(candidate)
        for tree, stream in enumerate(self._streams):
            places: dict[tuple[int, ...], int] = {(): 0}
            for path in template:
                parent = places.get(path[:-1], -1)
                if parent < 0 or len(path) > stream.room:
                    continue
                if parent not in offered[tree]:
                    offered[tree][parent] = self._offers(tree, parent)
                if path[-1] < len(offered[tree][parent]):
                    places[path] = self._add(tree, parent, offered[tree][parent][path[-1]])
        self._heap.clear()

    def cut(self, count: int) -> None:
        """Leaves the first ``count`` nodes."""
        while len(self.order) > count:
            tree = self.order.pop()
            grown = self.trees[tree]
            node = len(grown.tokens) - 1
            grown.children[grown.parents[node]].remove(node)
            for column in (grown.tokens, grown.parents, grown.depths, grown.estimates, grown.proposers, grown.children):
                column.pop()
            self.states[tree].pop()
            self.buckets[tree].pop()

    def _add(self, tree: int, parent: int, candidate: Candidate) -> int:
        node = self.trees[tree].add(parent, candidate.token, candidate.estimate, candidate.proposer)
        state = self.states[tree][parent]
        self.states[tree].append(None if state is None else self._source.step(state, candidate.token))
        self.buckets[tree].append(candidate.bucket)
        self.order.append(tree)
        return node

    def _expand(self, tree: int, node: int, probability: float) -> None:
        for candidate in self._offers(tree, node, self._floor / probability):
            self._tie += 1
            entry = (-probability * candidate.estimate, self._tie, tree, node, candidate)
            heapq.heappush(self._heap, entry)

    def _offers(self, tree: int, node: int, floor: float = 0.0) -> list[Candidate]:
        state = self.states[tree][node]
        if state is None:
            return []
        depth = self.trees[tree].depths[node] + 1
        expected = self._source.distribution(state)
        return self._ranking.candidates(self._streams[tree], self._noise[tree], depth, expected, floor)
