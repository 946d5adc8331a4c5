"""RethinkMCTS: Monte Carlo tree search over thoughts on how to write a program, which are rethought where the program
fails (Li et al., https://arxiv.org/abs/2409.09584).

    select     argmax Q + c P sqrt(ln N_parent) / (1 + N),   c = ln((N_parent + ucb_base + 1) / ucb_base) + ucb_constant
    expand     by ``width`` thoughts with prior scores P; the model is told what failed with the thoughts so far
    evaluate   the program that the thoughts amount to: r is the share of the public tests that it passes
    rethink    where r < 1 the model writes another thought in the last one's place, with P = 1, and a program for it
    value      r, or (1 - w) + w e where r = 1, e in [-1, 1] being how right the model thinks the program is
    back up    the best of the values below, discounted by ``discount`` for each thought

A list of thoughts, a rethought one and an evaluation are asides, programs are solutions. Below a list come the programs
for those of its thoughts that were selected, in that order (its note ``chosen``); below a program an evaluation or a
rethought thought (as its note ``then`` says), then the list of what is thought next. The program that stands for a
thought, the last one written for it, has the statistics: ``value``, ``visits``, ``q``, ``prior``. Programs are run by
the verifier alone.

As in the original code, a rethought thought stays even if its program is worse, thoughts begin anew with no visits when
they are rethought, and the answer is the best program of all that were written, the earliest of equals; a node's N
counts one visit that it has from the beginning. We depart from it in two things that change nothing but the cost: a
list is asked for when selection first comes to its node, and a program that is worth 1 ends the search, as none is
better. We also depart from it in scaling priors so that they sum to 1; in writing no program where a thought was
rethought in the same words; in what the model is told of a failure: the calls that a test made and what came of them,
without a verdict of the model's on each block of the program. Where several rollouts are under way at once, each counts
as a visit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from reason.errors import UsageError
from reason.search.bandits import Scale, p_ucb
from reason.search.strategies.backup import back_up, worth
from reason.search.strategies.decoding import Decoding, check_at_least
from reason.search.strategies.rating import read_rating
from reason.search.strategies.rethink_mcts_prompts import (
    EXAMPLES,
    ask_evaluation,
    ask_more_thoughts,
    ask_program,
    ask_rethought,
    ask_thoughts,
)
from reason.search.strategies.rethink_mcts_reading import Thought, priors, read_rethought, read_thoughts
from reason.search.strategies.rethink_mcts_states import (
    about_thoughts,
    available,
    is_expanded,
    list_above,
    list_below,
    selectable,
    standing,
    under_way,
)
from reason.search.strategies.scoring import missing_scores
from reason.search.tree import ROOT, Action, Cancel, Expand, Node, Room, Tree
from reason.search.voting import Selection, vote
from reason.tasks.answers import after_thinking
from reason.types import Answer, Message

__all__ = ["RethinkMCTS"]

_TESTS = "public-tests"

_CODE = ("\n```",)
"""Where an aside ends: thoughts and opinions have no code."""


@dataclass(frozen=True, kw_only=True)
class RethinkMCTS(Decoding):
    """Args:
    rollouts: thoughts to evaluate in all.
    width: thoughts asked for at once.
    in_flight: rollouts under way at once; in the paper's order 1.
    rule: which bound. "p_uct" has c = ucb_constant; "uct" also leaves out the priors.
    ucb_constant, ucb_base: of c.
    max_think_times: programs that are written for a thought, until one passes all tests: 2 is one rethink.
    backup: whether Q is the highest or the mean of the values below.
    discount: by which a value shrinks with each thought further up.
    evaluation_weight: the weight w of the model's own opinion; 0 does not ask for it.
    stop_value: end when a program is worth so much; 0 never.
    verifier: who scores programs, from 0 to 1, which passes.
    max_thought_tokens: limit of a list of thoughts, and of a rethought one.
    max_evaluation_tokens: limit of an evaluation.
    """

    select: ClassVar[Selection] = "best"
    breadth: ClassVar[str] = "rollouts"

    rollouts: int = 16
    width: int = 3
    in_flight: int = 1
    rule: Literal["uct", "p_uct", "var_p_uct"] = "var_p_uct"
    ucb_constant: float = 4.0
    ucb_base: float = 10.0
    max_think_times: int = 2
    backup: Literal["max", "mean"] = "max"
    discount: float = 0.9
    evaluation_weight: float = 0.2
    stop_value: float = 1.0
    verifier: str = _TESTS
    max_thought_tokens: int = 512
    max_evaluation_tokens: int = 256
    temperature: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, "rollouts", "width", "in_flight", "max_think_times")
        check_at_least(self, 1, "max_thought_tokens", "max_evaluation_tokens")
        check_at_least(self, 0, "ucb_constant", "stop_value")
        if not self.ucb_base > 0:
            raise UsageError(f"ucb_base must be more than 0, got {self.ucb_base}")
        if not 0 < self.discount <= 1:
            raise UsageError(f"discount must be in (0, 1], got {self.discount}")
        if not 0 <= self.evaluation_weight < 1:
            raise UsageError(f"evaluation_weight must be in [0, 1), got {self.evaluation_weight}")

    @property
    def measures(self) -> tuple[str, ...]:
        return (self.verifier,)

    # -- ask ---------------------------------------------------------------------------------------------------------

    def ask(self, tree: Tree, room: Room) -> Sequence[Action]:
        problem = tree.problem
        if not problem.tests and problem.entry_point is None and self.verifier.partition(":")[0] == _TESTS:
            raise UsageError(
                f"rethink-mcts is led by public tests, and problem {problem.id!r} has none; "
                "give the problem tests, or choose another strategy"
            )
        if "stopped" in tree[ROOT].notes:
            pending = tuple(node.id for node in tree.nodes if node.pending)
            return [Cancel(nodes=pending)] if pending else []
        programs = [node for node in tree.nodes[1:] if node.finished and not node.aside]
        actions = missing_scores(tree, programs, self.verifier)
        if room.expansions > 0:
            actions += [move for node in tree.nodes for move in self._lacking(tree, node)]
        return actions

    def _lacking(self, tree: Tree, node: Node) -> Iterator[Expand]:
        """What selections that came by a node want next below it."""
        below = tree.children(node.id)
        if "chosen" in node.notes:
            for line in node.notes["chosen"][len(below) :]:
                yield self._program(tree, node.id, [*node.notes["before"], node.notes["thoughts"][line]])
        elif "thought" in node.notes:
            if not below:
                yield self._program(tree, node.id, node.notes["thoughts"])
        elif "then" in node.notes and not below:
            yield self._about(tree, node)
        elif is_expanded(node) and list_below(tree, node) is None:
            yield self._list(tree, node)

    def _program(self, tree: Tree, node: int, thoughts: Sequence[str]) -> Expand:
        prompt = ask_program(tree.problem, thoughts)
        return Expand(node=node, prompt=prompt, max_tokens=self.max_tokens, sampling=self.sampling)

    def _about(self, tree: Tree, program: Node) -> Expand:
        """What is asked about a program that was scored."""
        if program.notes["then"] == "evaluate":
            return self._aside(tree, program.id, ask_evaluation(), self.max_evaluation_tokens, keep=True)
        prompt = ask_rethought(
            tree.problem, program.notes["thoughts"], _shown(program), feedback=self._feedback(program)
        )
        return self._aside(tree, program.id, prompt, self.max_thought_tokens)

    def _list(self, tree: Tree, state: Node) -> Expand:
        if state.id == ROOT:
            prompt = ask_thoughts(tree.problem, self.width)
        else:
            prompt = ask_more_thoughts(
                tree.problem,
                state.notes["thoughts"],
                _shown(state),
                passes=self._passed(state) >= 1,
                feedback=self._feedback(state),
                count=self.width,
            )
        return self._aside(tree, state.id, prompt, self.max_thought_tokens)

    def _aside(self, tree: Tree, node: int, prompt: tuple[Message, ...], limit: int, *, keep: bool = False) -> Expand:
        return Expand(
            node=node,
            prompt=prompt,
            keep=keep,
            aside=True,
            max_tokens=min(limit, self.max_tokens),
            sampling=self.sampling,
            stop=() if tree.thinking else _CODE,
        )

    def _feedback(self, program: Node) -> str:
        return program.feedback.get(self.verifier, "")

    def _passed(self, program: Node) -> float:
        """The share of the tests that a scored program passes."""
        return worth(program, program.scores[self.verifier][-1], Scale())

    # -- tell --------------------------------------------------------------------------------------------------------

    def tell(self, tree: Tree, done: Sequence[int]) -> None:
        for node in map(tree.__getitem__, done):
            parent = tree[node.parent or ROOT]
            if not node.aside:
                self._judge(tree, node, parent)
            elif "then" not in parent.notes or tree.children(parent.id)[0] is not node:
                self._read_list(tree, node, parent)
            elif "value" not in parent.notes:
                self._read_about(tree, node, parent)
        if "stopped" not in tree[ROOT].notes:
            self._select(tree)

    def _judge(self, tree: Tree, program: Node, parent: Node) -> None:
        """Scores a program; says what is asked about it, or backs up its value."""
        if not ("chosen" in parent.notes or "thought" in parent.notes):
            return  # not a rollout's: a limit had an unfinished program end
        if "thoughts" not in program.notes:
            tree.note(program.id, **about_thoughts(tree, program, parent))
        if "score" in program.notes or "value" in program.notes:
            return
        if program.failed:  # what stands for the thought is the program before it, if there was one
            before = tree[parent.parent or ROOT]
            self._settle(tree, before if "thought" in parent.notes else program)
        elif self.verifier in program.scores:
            passed = self._passed(program)
            passes = passed >= 1
            tree.note(program.id, score=self._with_evaluation(0.0) if passes else passed)
            if passes and self.evaluation_weight:
                tree.note(program.id, then="evaluate")
            elif not passes and program.notes["attempt"] < self.max_think_times:
                tree.note(program.id, then="rethink")
            else:
                self._settle(tree, program)

    def _read_about(self, tree: Tree, aside: Node, program: Node) -> None:
        """Reads an evaluation or a rethought thought."""
        if program.notes["then"] == "evaluate":
            evaluation = (None if aside.failed else read_rating(aside.text, 1)) or 0.0
            tree.note(aside.id, evaluation=evaluation)
            tree.note(program.id, score=self._with_evaluation(evaluation))
            self._settle(tree, program)
        elif "thought" not in aside.notes:
            *before, last = program.notes["thoughts"]
            thought = None if aside.failed else read_rethought(aside.text, before=[last, *EXAMPLES])
            if thought is None:
                self._settle(tree, program)
            else:
                tree.note(aside.id, thought=thought, thoughts=[*before, thought])

    def _with_evaluation(self, evaluation: float) -> float:
        """The value of a program that passes."""
        return 1 - self.evaluation_weight * (1 - evaluation)

    def _settle(self, tree: Tree, program: Node) -> None:
        """Backs up the value of the program that stands for a thought."""
        if "value" in program.notes:
            return
        value: float = program.notes.get("score", 0.0)
        tree.note(program.id, value=value)
        above = [program.id]
        while above[-1] != ROOT:
            above.append(list_above(tree, tree[above[-1]]).parent or ROOT)
        back_up(tree, above, self.discount * value, self.backup, self.discount)
        if self.stop_value and value >= self.stop_value:
            tree.note(ROOT, stopped=True)

    def _read_list(self, tree: Tree, node: Node, state: Node) -> None:
        """Reads a list of thoughts. Where there are none, the program is written anew from those before."""
        if "chosen" in node.notes:
            return
        before = state.notes.get("thoughts", [])
        cut = node.finish_reason == "length"
        known = [*before, *EXAMPLES]
        found = [] if node.failed else read_thoughts(node.text, self.width, before=known, cut=cut)
        found = found or [Thought("")]
        thoughts = [thought.text for thought in found]
        tree.note(node.id, before=before, thoughts=thoughts, priors=priors(found), chosen=[])

    # -- select ------------------------------------------------------------------------------------------------------

    def _select(self, tree: Tree) -> None:
        """Rollouts that asked for a list go on to a thought of it; then others begin."""
        for node in tree.nodes:
            if node.notes.get("chosen") == []:
                self._choose(tree, node, self._best(tree, node))
        while self._started(tree) < self.rollouts and under_way(tree, tree[ROOT]) < self.in_flight:
            if not available(tree, tree[ROOT]):
                return
            self._descend(tree)

    def _descend(self, tree: Tree) -> None:
        """Selects a thought that has no program, or a program below which nothing was thought of."""
        state = tree[ROOT]
        while (found := list_below(tree, state)) is not None:
            line = self._best(tree, found)
            below = standing(tree, found, line)
            if below is None:
                self._choose(tree, found, line)
                return
            state = below
        tree.note(state.id, expanded=True)

    def _choose(self, tree: Tree, found: Node, line: int) -> None:
        tree.note(found.id, chosen=[*found.notes["chosen"], line])

    def _best(self, tree: Tree, found: Node) -> int:
        """The line of a list with the highest bound, of those that selection may go on to; of equals the first."""
        lines = [line for line in range(len(found.notes["thoughts"])) if selectable(tree, found, line)]
        return max(lines, key=lambda line: (self.bound(tree, found, line), -line))

    def bound(self, tree: Tree, found: Node, line: int) -> float:
        """By which a thought of a list is selected."""
        state = tree[found.parent or ROOT]
        parent_visits = 1 + state.notes.get("visits", 0) + under_way(tree, state)
        program = standing(tree, found, line)
        value, visits, prior = 0.0, 0, found.notes["priors"][line]
        if program is not None:
            value, prior = program.notes["q"], program.notes["prior"]
            visits = program.notes["visits"] + under_way(tree, program)
        exploration = self.ucb_constant
        if self.rule == "var_p_uct":
            exploration += math.log((parent_visits + self.ucb_base + 1) / self.ucb_base)
        return p_ucb(value, visits, parent_visits, 1.0 if self.rule == "uct" else prior, exploration)

    def _started(self, tree: Tree) -> int:
        """Rollouts so far: one for each thought that was chosen, or whose list is asked for."""
        return sum(
            1 if (found := list_below(tree, node)) is None else max(1, len(found.notes.get("chosen", ())))
            for node in tree.nodes
            if is_expanded(node)
        )

    # -- answer ------------------------------------------------------------------------------------------------------

    def answer(self, tree: Tree) -> Answer:
        finished = tree.finished()
        scored = [node for node in finished if node.answer is not None and "score" in node.notes]
        if not scored:
            return vote(tree)
        best = max(scored, key=lambda node: (node.notes["score"], -node.id))
        same = sum(node.answer_class == best.answer_class for node in finished)
        return Answer(answer=best.answer, text=tree.text(best.id), confidence=same / len(finished))


def _shown(program: Node) -> str:
    """A program as it was run; where there is none, what was written in its place."""
    return next(after_thinking(program.text)) if program.answer is None else f"```python\n{program.answer.strip()}\n```"
