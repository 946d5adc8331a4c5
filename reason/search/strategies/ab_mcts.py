"""AB-MCTS-A: Thompson sampling decides whether to go wider or deeper (Inoue et al., https://arxiv.org/abs/2503.04412;
https://github.com/SakanaAI/treequest).

    at each node draw from the posteriors GEN and CONT; GEN is the higher: a new child here, else go on
    to the child that draws highest

A new solution's score counts for GEN of its parent, for CONT of all nodes further up, and for the posterior of every
node on its path, its own included. Below the root a child is a solution from nothing; below a solution it is an
improvement of that, said in a new turn after it, so that its KV is of use. Posteriors are ``Gaussian`` or ``Beta`` of
``reason.search.bandits``.

They suppose scores in [0, 1]. Others are spread over it by the lowest and highest so far, when posteriors are drawn
from; the notes ``gen``, ``cont`` and ``below`` hold the moments in the verifier's units, from which that is exact.

As in TreeQuest's batches, what is pending counts for nothing: draws of their own for each sample keep a batch from
going one way. A solution without an answer is worth the least seen so far.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

from reason.errors import UsageError
from reason.search.bandits import Beta, Drawer, Gaussian, How, Moments, Scale, scale_of
from reason.search.strategies.backup import worth
from reason.search.strategies.decoding import Decoding, check_at_least
from reason.search.strategies.refining import ask_anew
from reason.search.strategies.scoring import missing_scores
from reason.search.tree import ROOT, Action, Expand, Node, Room, Tree
from reason.search.voting import Selection, vote
from reason.types import Answer

__all__ = ["ABMCTS", "Arms"]

IMPROVE = "Check this solution for what is wrong or weak in it, then write an improved one, the whole of it."


@dataclass(frozen=True, kw_only=True)
class ABMCTS(Decoding):
    """Args:
    num_samples: solutions in all.
    in_flight: solutions under way at once.
    posterior: over what a choice is worth.
    scale: "auto" spreads scores over [0, 1] if any lies outside, "min-max" does in any case, "none" never.
    verifier: who scores solutions.
    select: how the answer is chosen among them; the original takes the best.
    """

    breadth: ClassVar[str] = "num_samples"

    num_samples: int = 16
    in_flight: int = 4
    posterior: Literal["gaussian", "beta"] = "gaussian"
    scale: How = "auto"
    verifier: str = "auto"
    select: Selection = "weighted"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, "num_samples", "in_flight")
        if self.verifier.partition(":")[0] == "agreement":
            raise UsageError("agreement compares solutions that are there together; use another verifier")

    @property
    def measures(self) -> tuple[str, ...]:
        return (self.verifier,)

    def ask(self, tree: Tree, room: Room) -> Sequence[Action]:
        unscored = [node for node in tree.nodes[1:] if not node.failed and "value" not in node.notes]
        actions = missing_scores(tree, [node for node in unscored if not node.pending], self.verifier)
        new = min(room.expansions, self.in_flight - len(unscored), self.num_samples - (len(tree) - 1))
        if new > 0:
            arms = Arms(tree, self._scale(tree, "value"), Beta() if self.posterior == "beta" else Gaussian())
            nodes = [arms.choose(tree.coins("ab-mcts", len(tree) + i)) for i in range(new)]
            samples = {node: self._sample(tree, node) for node in set(nodes)}
            actions += [samples[node] for node in nodes]
        return actions

    def tell(self, tree: Tree, done: Sequence[int]) -> None:
        new = [tree[node] for node in done if self.verifier in tree[node].scores and "value" not in tree[node].notes]
        for node in new:
            tree.note(node.id, score=node.scores[self.verifier][-1])
        for node in new:
            value = worth(node, node.notes["score"], self._scale(tree, "score", "value"))
            tree.note(node.id, value=value)
            _count(tree, node, value)

    def answer(self, tree: Tree) -> Answer:
        return vote(tree, self.select)

    def _scale(self, tree: Tree, *notes: str) -> Scale:
        return scale_of((node.notes[note] for node in tree.nodes for note in notes if note in node.notes), self.scale)

    def _sample(self, tree: Tree, node: int) -> Expand:
        if node == ROOT:
            return Expand(node=ROOT, max_tokens=self.max_tokens, sampling=self.sampling)
        said = ask_anew(tree, IMPROVE)
        return Expand(node=node, prompt=said, keep=True, max_tokens=self.max_tokens, sampling=self.sampling)


class _Choice(NamedTuple):
    """What is drawn from at a node."""

    gen: Drawer
    cont: Drawer
    children: list[int]  # scored ones
    below: list[Drawer]  # theirs


class Arms:
    """The posteriors of a tree.

    Args:
        prior: what they are without observations.
    """

    def __init__(self, tree: Tree, scale: Scale, prior: Gaussian | Beta) -> None:
        self._tree = tree
        self._scale = scale
        self._prior = prior
        self._posteriors: dict[tuple[int, str], Gaussian | Beta] = {}
        self._choices: dict[int, _Choice] = {}

    def of(self, node: int, note: str) -> Gaussian | Beta:
        """The posterior of a node's choice: "gen", "cont", or, for its parent's choice of it, "below"."""
        if (node, note) not in self._posteriors:
            seen = Moments(*self._tree[node].notes.get(note, ()))
            self._posteriors[node, note] = self._prior.after(seen.on(self._scale) if seen.number else seen)
        return self._posteriors[node, note]

    def choose(self, coins: random.Random) -> int:
        """The node that is to have a new child; ties go to new ones."""
        at = ROOT
        while (choice := self._choice(at)).children and choice.gen(coins) < choice.cont(coins):
            draws = [draw(coins) for draw in choice.below]
            at = choice.children[draws.index(max(draws))]
        return at

    def _choice(self, node: int) -> _Choice:
        """Made once: a batch comes to the same nodes again and again."""
        if node not in self._choices:
            scored = [child.id for child in self._tree.children(node) if "value" in child.notes]
            below = [self.of(child, "below").drawer() for child in scored]
            self._choices[node] = _Choice(self.of(node, "gen").drawer(), self.of(node, "cont").drawer(), scored, below)
        return self._choices[node]


def _count(tree: Tree, node: Node, value: float) -> None:
    """Adds a new solution's value to the moments along its path."""

    def add(at: int, note: str) -> None:
        tree.note(at, **{note: list(Moments(*tree[at].notes.get(note, ())).plus(value))})

    add(node.id, "below")
    at = node.parent or ROOT
    add(at, "gen")
    while at != ROOT:
        add(at, "below")
        at = tree[at].parent or ROOT
        add(at, "cont")
