"""Monte Carlo tree search over steps: UCT (Kocsis and Szepesvári, https://doi.org/10.1007/11871842_29) or PUCT
(Silver et al., https://doi.org/10.1038/nature24270), and two published forms of it for reasoning.

    select    from the root the child of the highest bound, down to a node that may have more children
    expand    it by next steps; or one step more, where its visits allow it (progressive widening)
    evaluate  v = (1 - alpha) V + alpha R: the verifier's score, and that of rollouts
    back up   v to all nodes above, by ``backup``

The original searches wait for each iteration; here ``in_flight`` run at once, and each that is under way counts as lost
visits of the nodes on its path: that is read off the pending nodes. Statistics are the notes ``value``, ``visits`` and
``q``; others (``rollouts``, ``descend``, ``completing``) say what is to be done at a node.

Bounds suppose values in [0, 1]. Scores that lie elsewhere (self-certainty is in nats) are spread over it by the lowest
and highest of the tree so far, at the moment of selection, as in MuZero; the notes keep the verifier's units.

We depart from the textbook in that selection leaves out what has nothing more to be found beneath it, finished
solutions above all, unless they are to be revisited; that where this leaves nothing, as with a model that writes
solutions in one step, an iteration expands the root anew; that a solution without an answer is worth the least seen so
far; that rollouts are solutions, which vote; and that, if all iterations came to no answer, the best leaf is written to
its end without randomness, as FETCH does (https://github.com/Soistesimmer/Fetch).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from reason.errors import UsageError
from reason.search.bandits import How, Scale, scale_of
from reason.search.strategies.backup import Backup, back_up, upwards, worth
from reason.search.strategies.decoding import Stepwise, check_at_least
from reason.search.strategies.mcts_view import Rule, View
from reason.search.strategies.scoring import note_scores
from reason.search.tree import ROOT, Action, Cancel, Expand, Measure, Node, Room, Tree
from reason.search.voting import Selection, vote
from reason.types import Answer, Sampling

__all__ = ["MCTS", "RStarMath", "ReSTMCTS"]


@dataclass(frozen=True, kw_only=True)
class MCTS(Stepwise):
    """Args:
    iterations: selections in all; fewer where all samples fail.
    in_flight: selections under way at once. 4 is ours: a batch, and yet most of 16 iterations know what others found.
    num_children: next steps sampled when a node is expanded.
    widening: the exponent a of progressive widening: a node of N visits may have num_children N^a children, each a
        selection of its own. 0 samples num_children at once and no more.
    rule: which bound. The prior of "puct" is the softmax of the siblings' values.
    exploration: its constant c.
    virtual_loss: lost visits that each selection under way counts as.
    simulate: which new nodes get rollouts: none, all, or the best of each expansion, which then is the one visited.
    num_rollouts: rollouts of such a node; R is their mean.
    rollout_steps: steps of a rollout, of which the best counts; 0 goes to the solution's end.
    alpha: weight of R.
    backup: how values are backed up.
    discount: by which a value shrinks with each level up.
    bootstrap: back up values of unfinished nodes too; otherwise these stay with their nodes.
    to_the_end: an iteration goes on from each expansion to its best open child, until there is none.
    revisit: selection may come to a finished solution, whose value is backed up again; that is an iteration without
        samples.
    stop_value: end when a solution is worth so much; 0 never. Without meaning where values are spread.
    scale: "auto" spreads values over [0, 1] if any lies outside, "min-max" does in any case, "none" never.
    verifier: who scores steps.
    aggregation: how step scores make a path's.
    select: how the answer is chosen among finished solutions.
    voters: only so many, the best-scored, are chosen among; 0 takes all.
    max_step_tokens: limit of one step.
    max_steps: after so many a solution is written to its end in one go.
    """

    breadth: ClassVar[str] = "iterations"

    iterations: int = 16
    in_flight: int = 4
    num_children: int = 2
    widening: float = 0.0
    rule: Rule = "uct"
    exploration: float = 1.0
    virtual_loss: float = 1.0
    simulate: Literal["none", "all", "best"] = "all"
    num_rollouts: int = 1
    rollout_steps: int = 0
    alpha: float = 0.5
    backup: Backup = "mean"
    discount: float = 1.0
    bootstrap: bool = True
    to_the_end: bool = False
    revisit: bool = False
    stop_value: float = 0.0
    scale: How = "auto"
    aggregation: Literal["last", "min", "mean", "prod"] = "last"
    select: Selection = "weighted"
    voters: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, "iterations", "in_flight", "num_children", "num_rollouts")
        check_at_least(self, 0, "exploration", "virtual_loss", "rollout_steps", "stop_value", "voters")
        for name in ("alpha", "widening"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        if not 0 < self.discount <= 1:
            raise UsageError(f"discount must be in (0, 1], got {self.discount}")
        if self.widening and (self.simulate == "best" or self.to_the_end):
            raise UsageError("simulate=best and to_the_end need whole expansions; use widening=0")

    def ask(self, tree: Tree, room: Room) -> Sequence[Action]:
        due = self._due(tree)
        if stopped := "stopped" in tree[ROOT].notes:
            due = tuple(node for node in due if tree[node].finished)  # they vote
        actions: list[Action] = [Measure(nodes=due, name=self.verifier)] if due else []
        if stopped:
            pending = tuple(node.id for node in tree.nodes if node.pending)
            actions += [Cancel(nodes=pending)] if pending else []
        elif room.expansions > 0:
            actions += self._expansions(tree, room)
        return actions

    def _due(self, tree: Tree) -> tuple[int, ...]:
        """What is to be scored; siblings that were sampled together are scored together."""
        writing = set() if self.widening else {node.parent for node in tree.nodes if node.pending}
        return tuple(
            node.id
            for node in tree.nodes[1:]
            if "score" not in node.notes
            and not node.pending
            and not node.failed
            and node.parent not in writing
            and self.verifier not in node.scores
            and (node.id, self.verifier) not in tree.measuring
        )

    def _expansions(self, tree: Tree, room: Room) -> list[Expand]:
        """What selections under way lack, then new ones."""
        view = self.view(tree)
        moves = [self.rollout(tree, node, count) for node, count in self._rollouts_due(tree, view)]
        moves += [self.step(tree, node, count) for node, count in view.unfilled]
        moves += [
            Expand(node=node, max_tokens=self.left(tree, node), sampling=Sampling(temperature=0.0))
            for node in view.completing
        ]
        planned = sum(move.num_samples for move in moves)
        while planned < room.expansions and view.started < self.iterations and view.under_way < self.in_flight:
            node = view.select()
            if node is None:
                break
            moves.append(self.step(tree, node, 1 if self.widening else self.num_children))
            planned += moves[-1].num_samples
            view.take(node)
        return moves

    def rollout(self, tree: Tree, node: int, num_samples: int) -> Expand:
        """Rollouts from a node, or the next step of one that ends there."""
        if self.rollout_steps:
            return self.step(tree, node, num_samples)
        return Expand(node=node, num_samples=num_samples, max_tokens=self.left(tree, node), sampling=self.sampling)

    def _rollouts_due(self, tree: Tree, view: View) -> list[tuple[int, int]]:
        """Where rollouts are to begin or to go on, and how many."""
        due: list[tuple[int, int]] = []
        for leaf in view.rolling:
            begun = tree.children(leaf)
            if missing := tree[leaf].notes["rollouts"] - len(begun):
                due.append((leaf, missing))
            due += [(chain[-1].id, 1) for chain in (_chain(tree, first) for first in begun) if self._goes_on(chain)]
        return due

    # -- tell --------------------------------------------------------------------------------------------------------

    def tell(self, tree: Tree, done: Sequence[int]) -> None:
        scored = note_scores(tree, done, self.verifier, self.aggregation)
        if any(self._suffices(tree, node) for node in scored):
            tree.note(ROOT, stopped=True)
        backed_up = False
        for node in done:
            leaf = _evaluated(tree, tree[node])
            if leaf is not None:
                backed_up |= self._evaluate(tree, leaf)
                self._descend(tree, leaf.parent or ROOT)
        if backed_up:
            self._revisit(tree)
        self._complete(tree)

    def _suffices(self, tree: Tree, node: Node) -> bool:
        """Whether the search may end with a scored solution."""
        if not self.stop_value or not node.finished or node.answer is None:
            return False
        score: float = node.notes["score"]
        return score >= self.stop_value and not self.scaled(tree, "score").relative

    def _evaluate(self, tree: Tree, leaf: Node) -> bool:
        """Evaluates a new node if all is there that it hangs on, and backs up its value. Whether it did."""
        if "value" in leaf.notes:
            return False
        if self.simulate == "best" and "rollouts" not in leaf.notes:
            return self._evaluate_best(tree, leaf.parent or ROOT)
        if "score" not in leaf.notes:
            return False
        if self.simulate == "all" and leaf.open and "rollouts" not in leaf.notes:
            tree.note(leaf.id, rollouts=self.num_rollouts)
        value = self._value(tree, leaf)
        if value is None:
            return False
        tree.note(leaf.id, value=value)
        path = upwards(tree, leaf.id) if self.bootstrap or leaf.finished else [leaf.id]
        back_up(tree, path, value, self.backup, self.discount)
        return True

    def _evaluate_best(self, tree: Tree, parent: int) -> bool:
        """Of an expansion that is wholly scored the best is chosen for rollouts; the others are worth their scores and
        stay unvisited."""
        siblings = self._whole(tree, parent, "score")
        if not siblings or any("rollouts" in node.notes for node in siblings):
            return False
        best = max(siblings, key=lambda node: (node.notes["score"], -node.id))
        for node in siblings:
            if node is not best:
                tree.note(node.id, value=self._worth(tree, node))
        tree.note(best.id, rollouts=self.num_rollouts if best.open else 0)
        return self._evaluate(tree, best)

    def _value(self, tree: Tree, leaf: Node) -> float | None:
        """What a scored node is worth; None if its rollouts are not over."""
        score, count = self._worth(tree, leaf), leaf.notes.get("rollouts", 0)
        if not count:
            return score
        chains = [_chain(tree, first) for first in tree.children(leaf.id)[:count]]
        if len(chains) < count or not all(self._over(chain) for chain in chains):
            return None
        found = [[self._worth(tree, node) for node in chain if "score" in node.notes] for chain in chains]
        best = [max(scores) for scores in found if scores]
        return (1 - self.alpha) * score + self.alpha * sum(best) / len(best) if best else score

    def _descend(self, tree: Tree, parent: int) -> None:
        """Where iterations go to the end: marks the best child of an expansion that is wholly evaluated."""
        siblings = self._whole(tree, parent, "value") if self.to_the_end else []
        is_open = [node.id for node in siblings if node.open]
        if is_open and not any("descend" in node.notes for node in siblings):
            tree.note(self.view(tree, family=parent).best(is_open), descend=True)

    def _whole(self, tree: Tree, parent: int, note: str) -> list[Node]:
        """The children that its last expansion gave a node, without those that failed, if all of them have a note."""
        siblings = tree.children(parent)[tree[parent].notes.get("rollouts", 0) :]
        siblings = siblings[(len(siblings) - 1) // self.num_children * self.num_children :]
        left = [node for node in siblings if not node.failed]
        whole = len(siblings) == self.num_children and all(note in node.notes for node in left)
        return left if whole else []

    def _revisit(self, tree: Tree) -> None:
        """As long as selection comes to finished solutions, they are visited again."""
        while self.revisit:
            view = self.view(tree, finished=True)
            node = view.select() if view.started < self.iterations else None
            if node is None or not tree[node].finished:
                return
            back_up(tree, upwards(tree, node), tree[node].notes["value"], self.backup, self.discount)
            tree.note(ROOT, revisits=tree[ROOT].notes.get("revisits", 0) + 1)

    def _complete(self, tree: Tree) -> None:
        """When all is done and no solution has an answer, the best leaf is to be written to its end."""
        if any(node.pending for node in reversed(tree.nodes)) or tree.measuring:
            return
        if any(node.answer is not None or "completing" in node.notes for node in tree.nodes) or self.ask(tree, Room(1)):
            return
        leaves = [node for node in tree.leaves() if node.open and "value" in node.notes]
        if leaves:
            tree.note(max(leaves, key=lambda node: (node.notes["value"], -node.id)).id, completing=True)

    # -- what both need ----------------------------------------------------------------------------------------------

    def answer(self, tree: Tree) -> Answer:
        if not self.voters:
            return vote(tree, self.select)
        answered = [node for node in tree.finished() if node.answer is not None and "score" in node.notes]
        best = sorted(answered, key=lambda node: (-node.notes["score"], node.id))[: self.voters]
        return vote(tree, self.select, sorted(best, key=lambda node: node.id) or None)

    def view(self, tree: Tree, *, finished: bool = False, family: int | None = None) -> View:
        return View(
            tree,
            scale=self.scaled(tree, "value", "q"),
            rule=self.rule,
            exploration=self.exploration,
            virtual_loss=self.virtual_loss,
            num_children=self.num_children,
            widening=self.widening,
            finished=finished,
            family=family,
        )

    def scaled(self, tree: Tree, *notes: str) -> Scale:
        """The scale of some notes of the nodes so far."""
        found = [node.notes[note] for note in notes for node in tree.nodes if note in node.notes]
        return scale_of(found, self.scale)

    def _worth(self, tree: Tree, node: Node) -> float:
        score: float = node.notes["score"]
        known = node.answer is not None or not node.finished  # saves a look at the whole tree
        return score if known else worth(node, score, self.scaled(tree, "score", "value"))

    def _goes_on(self, chain: Sequence[Node]) -> bool:
        """Whether a rollout wants another step."""
        return chain[-1].open and "score" in chain[-1].notes and len(chain) < self.rollout_steps

    def _over(self, chain: Sequence[Node]) -> bool:
        return chain[-1].failed or ("score" in chain[-1].notes and not self._goes_on(chain))


@dataclass(frozen=True, kw_only=True)
class ReSTMCTS(MCTS):
    """MCTS* of ReST-MCTS* (Zhang et al., https://arxiv.org/abs/2406.03816), with its constants: three children, of
    which the best is simulated for three steps; a node is worth the mean of its children, weighed by visits.

    We depart from it in its ends. The original stops at any node that is worth 0.9, finished or not, since its value
    model also says how far a solution has come; we stop at a finished one. It comes back to solutions, which uses up
    its iterations on the best of them; see ``revisit``. A solution is over when the model ends it, not when it says so
    on being asked. In its order, ``in_flight`` is 1.
    """

    num_children: int = 3
    exploration: float = 0.7 * math.sqrt(2)  # their bound is V + 0.7 sqrt(2 ln N_parent / N)
    simulate: Literal["none", "all", "best"] = "best"
    rollout_steps: int = 3
    backup: Backup = "children"

    stop_value: float = 0.9
    select: Selection = "best"
    temperature: float = 0.7


@dataclass(frozen=True, kw_only=True)
class RStarMath(MCTS):
    """The search of rStar-Math at inference (Guan et al., https://arxiv.org/abs/2501.04519), as in its code, with the
    smaller of the two sizes that its authors use: each iteration goes to the end, a step's value stays with it and
    a solution's is backed up to the root, and the best-valued solutions vote.

    What the code calls PUCT has no prior. Their c = 2 is for values in [-1, 1], which is 1 for ours. We depart from it
    in that steps are text, not executed code, and that an end without an answer counts for the nodes above it too. How
    many vote is our choice, as they do not say.
    """

    iterations: int = 8
    num_children: int = 16
    simulate: Literal["none", "all", "best"] = "none"
    bootstrap: bool = False
    to_the_end: bool = True
    select: Selection = "majority"
    voters: int = 8
    max_steps: int = 16
    temperature: float = 1.0


def _chain(tree: Tree, first: Node) -> list[Node]:
    """The steps of a rollout so far."""
    chain = [first]
    while below := tree.children(chain[-1].id):
        chain.append(below[0])
    return chain


def _evaluated(tree: Tree, node: Node) -> Node | None:
    """The node whose evaluation hangs on this one: the first above that is not part of a rollout, or itself. Notes
    which nodes are parts of rollouts."""
    parent = tree[node.parent or ROOT]
    if "completing" in parent.notes:
        return None
    if "rollout" in parent.notes or node.id in [
        r.id for r in tree.children(parent.id)[: parent.notes.get("rollouts", 0)]
    ]:
        tree.note(node.id, rollout=True)
        return _evaluated(tree, parent)
    return node
