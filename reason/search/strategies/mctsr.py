"""MCT Self-Refine: Monte Carlo tree search over whole answers, each move a critique and a rewriting
(MCTSr; Zhang et al., https://arxiv.org/abs/2406.07394).

    R_1 .. R_N   the model's own scores of an answer, -100 to 100; from 95 up they count as 50
    Q(a)  = (min R + mean R) / 2
    Q'(a) = (Q(a) + max over rewritings of Q') / 2, or Q(a) without any
    refine argmax_a  Q'(a) + c sqrt(ln(N_parent + 1) / (N_a + 1e-5))

over all answers but the fully expanded: those with ``max_children`` rewritings of which one is better. An answer is
scored again whenever it is chosen. Critiques and scores are asides. Each turn is said after the conversation that led
to the answer, so that its KV is of use; the original repeats the last turn only, and scores in a conversation of its
own.

We depart from the original code in what it learns from the reference (it stops at a right answer, and its results count
any right one; here solutions vote), in backing up through all levels, as the paper has it, and in letting a score that
cannot be read count as none. c is in points, of which 1.4 explore next to nothing; it is theirs. Where several answers
are refined at once, each refinement under way counts as a score of -100.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from reason.search.strategies.decoding import Decoding, check_at_least
from reason.search.strategies.rating import read_rating
from reason.search.strategies.refining import ask_anew, say
from reason.search.tree import ROOT, Action, Expand, Node, Room, Tree
from reason.search.voting import Selection, vote
from reason.tasks.prompts import problem_messages
from reason.types import Answer, Message

__all__ = ["LOWEST", "MCTSr", "read_score", "value_of"]

LOWEST, HIGHEST = -100, 100
SUPPRESSED_FROM, SUPPRESSED_TO = 95, 50

CRITIQUE = (
    "Check your answer strictly, step by step. Name every mistake and every weakness, however small, and say how to "
    "put it right. Do not write a new answer yet."
)
REWRITE = "Now write a better solution in the light of this criticism, the whole of it."
SCORE = (
    "Be a strict examiner of your last answer. Look for every flaw and take points off for each; do not give full "
    'marks. Explain in a few sentences, then end with the line "Score: N", where N is a whole number from -100 '
    "(worthless) to 100 (perfect)."
)
DUMMY = "I don't know."


@dataclass(frozen=True, kw_only=True)
class MCTSr(Decoding):
    """Args:
    iterations: refinements in all.
    in_flight: refinements under way at once.
    num_scores: scores of each new answer.
    max_children: rewritings of an answer, from which on a better one among them closes it.
    exploration: the constant c, in points.
    dummy: also refine "I don't know", as if it were a first answer that scored -100.
    critique_tokens: limit of a critique.
    score_tokens: limit of a score with its explanation.
    select: how the answer is chosen; answers weigh (Q + 100) / 200.
    """

    breadth: ClassVar[str] = "iterations"

    iterations: int = 8
    in_flight: int = 4
    num_scores: int = 2
    max_children: int = 3
    exploration: float = 1.4
    dummy: bool = False
    critique_tokens: int = 512
    score_tokens: int = 256
    select: Selection = "weighted"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(
            self, 1, "iterations", "in_flight", "num_scores", "max_children", "critique_tokens", "score_tokens"
        )
        check_at_least(self, 0, "exploration")

    @property
    def measures(self) -> tuple[str, ...]:
        return ()

    def ask(self, tree: Tree, room: Room) -> Sequence[Action]:
        if room.expansions < 1:
            return []
        first = next((node for node in tree.children(ROOT) if not node.aside), None)
        if first is None:
            return [Expand(node=ROOT, max_tokens=self.max_tokens, sampling=self.sampling)]
        items = {item.node: item for item in self._items(tree)}
        moves = [move for item in items.values() for move in self._lacking(tree, item)]
        started = sum(item.started for item in items.values())
        under_way = {node: item.under_way for node, item in items.items()}
        free = self.in_flight - sum(under_way.values())
        planned = sum(move.num_samples for move in moves) if self._settled(first) else room.expansions
        bounds = {node: self.bound(item, under_way[node]) for node, item in items.items()}
        while bounds and planned < room.expansions and started < self.iterations and free > 0:
            node = max(bounds, key=bounds.__getitem__)  # of equals the first
            if bounds[node] == -math.inf:
                break
            new = self._refinement(tree, node)
            moves += new
            planned += len(new)
            started += 1
            free -= 1
            under_way[node] += 1
            bounds[node] = self.bound(items[node], under_way[node])
        return moves

    def tell(self, tree: Tree, done: Sequence[int]) -> None:
        for node in done:
            parent = tree[node].parent or ROOT
            if parent == ROOT or not tree[node].aside or tree[parent].aside:
                continue
            scores, _ = self._asides(tree, parent)
            if tree[node] not in scores:
                continue
            reward = None if tree[node].failed else read_score(tree[node].text)
            if reward is not None:
                tree.note(node, reward=reward)
            self._note(tree, parent, scores)

    def answer(self, tree: Tree) -> Answer:
        scored = [node for node in tree.finished() if "score" in node.notes]
        return vote(tree, self.select, scored if any(node.answer is not None for node in scored) else None)

    # -- statistics --------------------------------------------------------------------------------------------------

    def _note(self, tree: Tree, answer: int, scores: Sequence[Node]) -> None:
        """An answer's statistics, and what becomes of those above it."""
        ended = [node for node in scores if not node.pending]
        rewards = [node.notes["reward"] for node in ended if "reward" in node.notes]
        own = value_of(rewards)
        tree.note(answer, visits=len(ended), rewards=rewards, own=own)
        if len(ended) >= self.num_scores:
            tree.note(answer, score=(own - LOWEST) / (HIGHEST - LOWEST))
        at = answer
        while at != ROOT:
            below = [child.notes["q"] for child in self._rewritings(tree, at) if "q" in child.notes]
            own = tree[at].notes["own"]
            tree.note(at, q=(own + max(below)) / 2 if below else own)
            at = tree[tree[at].parent or ROOT].parent or ROOT  # the answer that its critique criticised

    def bound(self, item: Item, lost: int) -> float:
        """By which answers are chosen to be refined; -inf for one that is not scored, or is fully expanded.

        Args:
            lost: refinements of it under way.
        """
        full = len(item.rewritings) + lost >= self.max_children
        if not item.scored or (full and (lost or max(item.rewritings) > item.own)):
            return -math.inf
        own = value_of([*item.rewards, *[LOWEST] * lost])
        q = (own + item.best_below) / 2 if item.best_below is not None else own
        return q + self.exploration * math.sqrt(math.log(item.parent_visits + 1) / (item.visits + lost + 1e-5))

    def _items(self, tree: Tree) -> Iterator[Item]:
        """The answers, and the dummy."""
        if self.dummy:
            yield self._item(tree, tree[ROOT])
        for node in tree.nodes[1:]:
            if node.finished and not node.aside:
                yield self._item(tree, node)

    def _item(self, tree: Tree, node: Node) -> Item:
        scores, critiques = self._asides(tree, node.id)
        rewritings = [child for child in self._rewritings(tree, node.id) if "own" in child.notes]
        begun = sum(not self._over(tree, critique) for critique in critiques)
        extra = max(0, len(scores) - self.num_scores) if node.id != ROOT else 0
        above = tree[node.parent].parent if node.parent else None  # of a first answer there is none
        return Item(
            node=node.id,
            scored=node.id == ROOT or self._settled(node),
            rewards=[LOWEST] if node.id == ROOT else node.notes.get("rewards", []),
            own=LOWEST if node.id == ROOT else node.notes.get("own", 0.0),
            visits=1 if node.id == ROOT else node.notes.get("visits", 0),
            parent_visits=1 if above == ROOT else tree[above].notes.get("visits", 0) if above else 0,
            rewritings=[child.notes["own"] for child in rewritings],
            best_below=max((child.notes["q"] for child in rewritings), default=None),
            started=max(extra, len(critiques)),
            under_way=begun + max(0, extra - len(critiques)),
        )

    # -- what hangs on an answer: its first scores, then with each refinement a score and a critique -----------------

    def _asides(self, tree: Tree, answer: int) -> tuple[list[Node], list[Node]]:
        """Its scores and its critiques. Places tell them apart, as the driver starts nothing beyond what it refuses."""
        asides = [node for node in tree.children(answer) if node.aside]
        if answer == ROOT:
            return [], asides
        first = self.num_scores
        return asides[:first] + asides[first::2], asides[first + 1 :: 2]

    def _rewritings(self, tree: Tree, answer: int) -> list[Node]:
        _, critiques = self._asides(tree, answer)
        return [node for critique in critiques for node in tree.children(critique.id)]

    def _over(self, tree: Tree, critique: Node) -> bool:
        """Whether a refinement is over: its answer has its scores, or it failed."""
        if critique.failed:
            return True
        return any(self._settled(rewriting) for rewriting in tree.children(critique.id))

    def _settled(self, answer: Node) -> bool:
        """Whether an answer has its first scores, or failed."""
        return answer.failed or answer.notes.get("visits", 0) >= self.num_scores

    def _lacking(self, tree: Tree, item: Item) -> Iterator[Expand]:
        """What refinements under way want next."""
        scores, critiques = self._asides(tree, item.node)
        if item.node != ROOT:
            if len(scores) < self.num_scores:
                yield self._aside(item.node, SCORE, self.score_tokens, self.num_scores - len(scores))
            elif len(scores) - self.num_scores > len(critiques):
                yield self._aside(item.node, CRITIQUE, self.critique_tokens)
        for critique in critiques:
            if critique.finished and not tree.children(critique.id):
                yield Expand(
                    node=critique.id,
                    prompt=ask_anew(tree, REWRITE),
                    keep=True,
                    max_tokens=self.max_tokens,
                    sampling=self.sampling,
                )

    def _refinement(self, tree: Tree, node: int) -> list[Expand]:
        """Begins one."""
        if node != ROOT:
            return [self._aside(node, SCORE, self.score_tokens), self._aside(node, CRITIQUE, self.critique_tokens)]
        said = (*problem_messages(tree.problem), Message(role="assistant", content=DUMMY), *say(CRITIQUE))
        limit = min(self.critique_tokens, self.max_tokens)
        return [Expand(node=ROOT, prompt=said, aside=True, max_tokens=limit, sampling=self.sampling)]

    def _aside(self, node: int, request: str, limit: int, num_samples: int = 1) -> Expand:
        return Expand(
            node=node,
            num_samples=num_samples,
            prompt=say(request),
            keep=True,
            aside=True,
            max_tokens=min(limit, self.max_tokens),
            sampling=self.sampling,
        )


class Item(NamedTuple):
    """An answer, as selection sees it. Values are points."""

    node: int
    scored: bool
    rewards: list[int]
    own: float  # Q
    visits: int
    parent_visits: int
    rewritings: list[float]  # Q of those that are scored
    best_below: float | None  # the highest Q' among them
    started: int  # refinements
    under_way: int  # refinements


def value_of(rewards: Sequence[float]) -> float:
    """Q; in the middle without any."""
    return (min(rewards) + sum(rewards) / len(rewards)) / 2 if rewards else (LOWEST + HIGHEST) / 2


def read_score(text: str) -> int | None:
    """The reward that a text ends with, high ones suppressed; None if there is none or it is out of range."""
    rating = read_rating(text, HIGHEST)
    if rating is None:
        return None
    return SUPPRESSED_TO if rating >= SUPPRESSED_FROM else int(rating)
