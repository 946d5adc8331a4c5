"""FETCH's state merging around any strategy (Wang et al., https://arxiv.org/abs/2502.11183): open siblings that say the
same are one state.

    clusters = agglomerative(embeddings of the last steps, average linkage, cosine distance <= distance)

Only siblings of one (hyper-)node are compared, once all samples asked for below it have ended. The best-scored member
of a cluster stands for it, the others look to the inner strategy like samples that failed, and an expansion of it is
shared out among them round-robin. Searches that rank states spend on others what they save; in REBASE and ETS a state
gets its share of the whole width, by its score and not by how many said it. In a particle filter too it weighs what
one particle does, so that what many said gets fewer copies. A subtree of DVTS whose first steps all say what another's
say ends with them. MCTS compares what it samples together: with two children a node there is at most one pair, and with
progressive widening, which samples one at a time, nothing is merged.

We depart from the original in its embedder, which was trained for the purpose; in merging no finished solutions (they
cost nothing more, and vote; theirs are merged where they are part of a beam); in leaving invalid steps to the inner
strategy; and in that MCTS gives a state no higher prior, and no more children, for how many said it. Our own strategies
that do not write step by step are not wrapped: they have nothing to merge.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from reason.errors import UsageError
from reason.search.merging import MergedTree, merge, spread, undecided
from reason.search.strategies.beam import Beam
from reason.search.strategies.decoding import Decoding, Stepwise, layers
from reason.search.tree import Action, Cancel, Expand, Measure, Node, Room, Strategy, Tree
from reason.types import Answer
from reason.verifiers import EMBEDDERS, VERIFIERS
from reason.verifiers.embeddings import DEFAULT_EMBEDDER, embedding_of, is_embedding

__all__ = ["Merge"]


@dataclass(frozen=True, kw_only=True)
class Merge:
    """Args:
    inner: the strategy that searches. The first verifier that it measures with chooses representatives.
    embedder: whose vectors say how alike two steps are; "auto" is hidden where the engine tells hidden states, else
        minilm.
    distance: up to this mean cosine distance steps are one; 0 takes the embedder's own.
    """

    inner: Strategy = field(default_factory=Beam)
    embedder: str = DEFAULT_EMBEDDER
    distance: float = 0.0

    def __post_init__(self) -> None:
        _check_steps(self.inner)
        if _kind(self.embedder) in VERIFIERS:
            raise UsageError(f"{self.embedder} scores steps; embedders are {', '.join(EMBEDDERS)}")
        if not 0 <= self.distance <= 2:
            raise UsageError(f"distance must be in [0, 2], got {self.distance}")
        if not self.distance and not is_embedding(self._embedding):
            raise UsageError(f"the embedder {self.embedder!r} has no distance of its own; give one")

    @property
    def measures(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.inner.measures, self._embedding)))

    @property
    def verifier(self) -> str | None:
        """Who chooses representatives."""
        return next((name for name in self.inner.measures if not is_embedding(name)), None)

    @property
    def _embedding(self) -> str:
        """What the vectors are measured under."""
        return embedding_of(self.embedder)

    def ask(self, tree: Tree, room: Room) -> Sequence[Action]:
        over = room.expansions <= 0 and not any(node.pending for node in tree.nodes)
        cancelled = set(range(len(tree)) if over else ())
        while True:  # until it does not give up any sample that has ended unseen
            view = MergedTree(tree, cancelled)
            actions = self.inner.ask(view, room)
            dropped = _dropped(actions) & view.hidden_nodes()
            if not dropped:
                break
            cancelled |= dropped
        translated = [each for action in actions for each in self._translated(view, action)]
        return [*self._measures(view, actions), *translated]

    def tell(self, tree: Tree, done: Sequence[int]) -> None:
        if all(undecided(tree[node]) and not _has(tree[node], self._embedding) for node in done):
            return  # nothing that the strategy sees, or that could be merged
        view = MergedTree(tree)
        hidden = view.hidden_nodes()
        if seen := [node for node in done if node not in hidden]:
            self.inner.tell(view, seen)
        shown = [node for siblings in view.hidden.values() for node in self._merge(tree, siblings)]
        if shown:
            self.inner.tell(MergedTree(tree), shown)

    def answer(self, tree: Tree) -> Answer:
        return self.inner.answer(MergedTree(tree, range(len(tree))))

    def _translated(self, view: MergedTree, action: Action) -> Iterator[Action]:
        """What an action on the view is on the real tree."""
        if isinstance(action, Expand):
            *_, innermost = layers(self.inner)
            yield from spread(view, action, innermost.max_tokens if isinstance(innermost, Decoding) else None)
        elif isinstance(action, Cancel):
            if pending := tuple(node for node in action.nodes if view.real[node].pending):
                yield Cancel(nodes=pending)
        else:
            yield action

    def _measures(self, view: MergedTree, actions: Sequence[Action]) -> Iterator[Measure]:
        """What has to be known of hidden siblings before they are merged, once the strategy wants no more of them."""
        wanted = {action.node for action in actions if isinstance(action, Expand)}
        names = [self._embedding] if self.verifier is None else [self._embedding, self.verifier]
        for parent, siblings in view.hidden.items():
            if parent in wanted or any(view.real[child.id].pending for child in view.children(parent)):
                continue
            for name in names:
                due = [node.id for node in siblings if not _has(node, name) and (node.id, name) not in view.measuring]
                if due:
                    yield Measure(nodes=tuple(due), name=name)

    def _merge(self, tree: Tree, siblings: Sequence[Node]) -> Sequence[int]:
        """Decides about hidden siblings as soon as all that was to be known of them is; returns them."""
        ready = [node.id for node in siblings if self._embedding in node.embeddings]
        if any(self._embedding in node.scores for node in siblings):
            raise UsageError(f"{self.embedder!r} gave scores, not vectors: it is no embedder")
        if not ready or any(self.verifier is not None and self.verifier not in tree[node].scores for node in ready):
            return ()
        distance = self.distance or self._same_distance(tree)
        merge(tree, ready, embedder=self._embedding, distance=distance, verifier=self.verifier)
        return ready

    def _same_distance(self, tree: Tree) -> float:
        distance = tree.same_distance.get(self._embedding)
        if distance is None:
            raise UsageError(f"the embedder given for {self._embedding!r} has no same_distance; give a distance")
        return distance


def _check_steps(inner: Strategy) -> None:
    """Raises UsageError if there is nothing to merge in a strategy, or it merges itself."""
    *_, innermost = inside = list(layers(inner))
    if any(isinstance(each, Merge) for each in inside):
        raise UsageError("what merge is to wrap merges already; one merge is enough")
    if isinstance(innermost, Decoding) and not isinstance(innermost, Stepwise):
        from reason.search.strategies import STRATEGIES

        names = ", ".join(name for name, kind in STRATEGIES.items() if issubclass(kind, Stepwise))
        kind = type(innermost).__name__
        raise UsageError(f"{kind} does not write step by step, so there is nothing to merge; merge wraps {names}")


def _kind(name: str) -> str:
    return name.partition(":")[0].strip().lower()


def _has(node: Node, name: str) -> bool:
    return name in node.embeddings or name in node.scores


def _dropped(actions: Sequence[Action]) -> set[int]:
    return {node for action in actions if isinstance(action, Cancel) for node in action.nodes}
