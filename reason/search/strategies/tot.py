"""Tree of Thoughts: the model proposes thoughts and values them itself, and a search chooses (Yao et al.,
https://arxiv.org/abs/2305.10601).

    value = sum over num_values answers of {sure: 20, likely: 1, impossible: 0.001}
    bfs     at each level the ``keep`` best thoughts of all are gone on from
    dfs     the best thought of each proposal first; those below ``threshold`` are not gone on from

A thought is a line of a proposal. Whatever the model writes is a node, and nothing else is: each proposal, and each
answer that values a thought, is an aside, so journal, budget and ledger know of it; which lines were gone on from is a
note of their proposal. Below a proposal come first the values of its thoughts, in order, then what goes on from those
that were chosen, best first. The last of the ``steps`` writes the solution out, which is valued too; only solutions are
candidates.

As in the original, a thought that was proposed before is worth 0, thoughts about which the same would be asked are
valued once, and ties go to the first. We depart from it in answering with the best-valued solution (its figures for the
game of 24 count a puzzle as solved if any of ``keep`` solutions is right); in never going on from a repeated thought;
in writing a solution from every thought that the last level keeps, finished or not, and where nothing more is proposed;
in stopping "dfs" after ``keep`` solutions. Its evaluator by votes is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

from reason.errors import UsageError
from reason.search.strategies.decoding import Decoding, check_at_least
from reason.search.strategies.scoring import missing_scores
from reason.search.tree import ROOT, Action, Expand, Node, Room, Tree
from reason.search.voting import Selection, vote
from reason.tasks.thoughts import Messages, PromptSet, ThoughtPrompts, read_value, thought_prompts
from reason.types import Answer

__all__ = ["TreeOfThoughts"]

_ASKED = "value-prompt"


class _Group(NamedTuple):
    """What goes on from one state: proposals, or the solution that concludes it."""

    node: int  # the nodes are children of
    first: int  # the place of the first among them
    size: int
    thoughts: tuple[str, ...]  # the state
    concludes: bool

    def nodes(self, tree: Tree) -> list[Node]:
        return tree.children(self.node)[self.first : self.first + self.size]


class _Thought(NamedTuple):
    """A line of a proposal."""

    value: float
    node: int
    line: int


@dataclass(frozen=True, kw_only=True)
class TreeOfThoughts(Decoding):
    """See the module's docstring.

    Args:
        search: breadth first or depth first.
        steps: of a path, its solution the last of them.
        keep: thoughts to go on from at each level; in "dfs" solutions to end with.
        generate: "propose" asks for several thoughts in one text, "sample" for one thought in each of several.
        num_proposals: thoughts to ask for from each state. The game of 24's proposals list what they find.
        verifier: who values thoughts and solutions: the model itself, asked ``num_values`` times, or with "sample" any
            verifier of steps.
        num_values: answers that make a value.
        threshold: in "dfs" the least value to go on from; 0.01 rules out what is never called better than impossible.
        prompts: what the model is asked; see ``reason.tasks.thoughts``.
        max_proposal_tokens: limit of each proposal.
        max_value_tokens: limit of each answer that values.
    """

    select: ClassVar[Selection] = "best"
    breadth: ClassVar[str] = "keep"

    search: Literal["bfs", "dfs"] = "bfs"
    steps: int = 4
    keep: int = 5
    generate: Literal["propose", "sample"] = "propose"
    num_proposals: int = 5
    verifier: str = _ASKED
    num_values: int = 3
    threshold: float = 0.01
    prompts: PromptSet = "auto"
    max_proposal_tokens: int = 512
    max_value_tokens: int = 256
    temperature: float = 0.7

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, "steps", "keep", "num_proposals", "num_values")
        check_at_least(self, 1, "max_proposal_tokens", "max_value_tokens")
        name, settings, _ = self.verifier.partition(":")
        if name == _ASKED and settings:
            raise UsageError(f"give {_ASKED} no settings here, but num_values, temperature and max_value_tokens")
        if name == "agreement":
            raise UsageError("agreement compares finished solutions, not steps; use another verifier")
        if name != _ASKED and self.generate == "propose":
            raise UsageError(f"a verifier scores whole texts, not lines of a proposal; use generate=sample or {_ASKED}")

    @property
    def measures(self) -> tuple[str, ...]:
        return () if self.verifier == _ASKED else (self.verifier,)

    def ask(self, tree: Tree, room: Room) -> Sequence[Action]:
        actions: list[Action] = []
        written: list[Node] = []
        parents: set[int] = set()
        for group in self._under_way(tree):
            nodes = group.nodes(tree)
            written += nodes
            missing = group.size - len(nodes)
            if missing and group.node not in parents:
                # One prompt at a time below a node: its children's places say what they were asked, and a budget may
                # refuse one prompt and admit a shorter one after it.
                parents.add(group.node)
                actions.append(self._go_on(tree, group, missing))
        if self.verifier == _ASKED:
            return actions + [asked for node in written for asked in self._question(tree, node)]
        return actions + missing_scores(tree, [node for node in written if _scorable(node)], self.verifier)

    def tell(self, tree: Tree, done: Sequence[int]) -> None:
        for node in done:
            self._read(tree, tree[node])
        groups = self._under_way(tree)
        nodes = [node for group in groups for node in group.nodes(tree)]
        if any(group.concludes for group in groups):
            for solution in nodes:
                if solution.finished and (value := self._value(tree, solution, 0)) is not None:
                    tree.note(solution.id, score=value)
        elif len(nodes) == sum(group.size for group in groups) and all("proposals" in node.notes for node in nodes):
            self._choose(tree, groups, nodes)

    def answer(self, tree: Tree) -> Answer:
        valued = [leaf for leaf in tree.finished() if "score" in leaf.notes]
        return vote(tree, self.select, valued if any(leaf.answer is not None for leaf in valued) else None)

    # -- where the search is -----------------------------------------------------------------------------------------

    def _under_way(self, tree: Tree) -> list[_Group]:
        """The groups that the search works on: a level, or the head of a path. Empty when it is done."""
        start = self._group(ROOT, 0, (), concludes=self.steps == 1)
        return self._level(tree, [start]) if self.search == "bfs" else self._head(tree, start)

    def _level(self, tree: Tree, level: list[_Group]) -> list[_Group]:
        while True:
            nodes = [node for group in level for node in group.nodes(tree)]
            if not nodes or not all("chosen" in node.notes for node in nodes):
                return level
            level = self._next(tree, nodes)

    def _head(self, tree: Tree, start: _Group) -> list[_Group]:
        waiting, solved = [start], 0
        while waiting and solved < self.keep:
            group = waiting.pop()
            nodes = group.nodes(tree)
            if len(nodes) < group.size or not all(_settled(node) for node in nodes):
                return [group]
            solved += group.concludes and any(node.answer is not None for node in nodes)
            waiting += reversed(self._next(tree, nodes))
        return []

    def _next(self, tree: Tree, nodes: Sequence[Node]) -> list[_Group]:
        """The groups that go on from proposals, those from the best thoughts first."""
        found = [(value, group) for node in nodes for value, group in self._below(node)]
        return [group for _, group in sorted(found, key=lambda each: -each[0])]

    def _below(self, node: Node) -> Iterator[tuple[float, _Group]]:
        """The groups below a proposal, in order, with the values of the thoughts that they go on from."""
        notes, first = node.notes, self._values_below(node)
        for line in notes.get("chosen", ()):
            thoughts = (*notes["thoughts"], *(() if line is None else [notes["proposals"][line]]))
            group = self._group(node.id, first, thoughts, concludes=line is None or len(thoughts) >= self.steps - 1)
            first += group.size
            yield 0.0 if line is None else notes["values"][line], group

    def _group(self, node: int, first: int, thoughts: tuple[str, ...], *, concludes: bool) -> _Group:
        size = 1 if concludes or self.generate == "propose" else self.num_proposals
        return _Group(node, first, size, thoughts, concludes)

    def _values_below(self, node: Node) -> int:
        """How many of a node's children are there to value it; they come first."""
        if self.verifier != _ASKED or node.id == ROOT:
            return 0
        return self.num_values * (len(_own(node)) if node.aside else 1)

    # -- what is asked -----------------------------------------------------------------------------------------------

    def _prompts(self, tree: Tree) -> ThoughtPrompts:
        return thought_prompts(self.prompts, tree.problem)

    def _go_on(self, tree: Tree, group: _Group, num_samples: int) -> Expand:
        prompts, problem = self._prompts(tree), tree.problem
        if group.concludes:
            prompt, limit = prompts.conclude(problem, group.thoughts), self.max_tokens
        else:
            prompt = prompts.propose(problem, group.thoughts, self._each)
            limit = min(self.max_proposal_tokens, self.max_tokens)
        return Expand(
            node=group.node,
            num_samples=num_samples,
            max_tokens=limit,
            prompt=prompt,
            sampling=self.sampling,
            aside=not group.concludes,
        )

    @property
    def _each(self) -> int:
        """Thoughts to ask for in one text."""
        return self.num_proposals if self.generate == "propose" else 1

    def _question(self, tree: Tree, node: Node) -> Iterator[Expand]:
        """What is to be asked next about a proposal's thoughts, or a solution."""
        questions = len(_own(node)) if node.aside else int(node.answer is not None)
        place, begun = divmod(len(tree.children(node.id)), self.num_values)
        if place >= questions:
            return
        if node.aside:
            prompt = self._about(tree, node, _own(node)[place])
        else:
            prompt = self._prompts(tree).judge(tree.problem, node.text, node.answer)
        yield Expand(
            node=node.id,
            num_samples=self.num_values - begun,
            max_tokens=min(self.max_value_tokens, self.max_tokens),
            prompt=prompt,
            sampling=self.sampling,
            aside=True,
        )

    def _about(self, tree: Tree, node: Node, line: int) -> Messages:
        """The question about a thought."""
        return self._prompts(tree).value(tree.problem, [*node.notes["thoughts"], node.notes["proposals"][line]])

    # -- what is made of it ------------------------------------------------------------------------------------------

    def _read(self, tree: Tree, node: Node) -> None:
        """Annotates an aside that has ended: an answer that values, or a proposal."""
        if not node.aside or node.parent is None or "proposals" in node.notes:
            return
        parent = tree[node.parent]
        place = tree.children(parent.id).index(node)
        if place < self._values_below(parent):
            tree.note(node.id, score=0.0 if node.failed else read_value(node.text))
            return
        groups = (group for _, group in self._below(parent) if group.first <= place < group.first + group.size)
        group = next(groups, None)
        thoughts = group.thoughts if group is not None else ()
        text = node.text.rpartition("\n")[0] if node.finish_reason == "length" else node.text  # no half a thought
        lines = [] if node.failed else self._prompts(tree).read_proposals(text, self._each)
        tree.note(node.id, thoughts=list(thoughts), proposals=lines)
        tree.note(node.id, valued_at=self._valued_at(tree, node))

    def _valued_at(self, tree: Tree, node: Node) -> list[list[int] | None]:
        """For each thought of a proposal the node below which, and the place at which, its value is asked for: those of
        the first thought about which the same is asked. None for a thought that was proposed before."""
        seen: set[tuple[str, ...]] = set()
        asked: dict[str, list[int]] = {}
        places: list[list[int] | None] = []
        for other in tree.nodes[: node.id + 1]:
            places, own = [], 0
            for line, thought in enumerate(other.notes.get("proposals", ())):
                path = (*other.notes["thoughts"], thought)
                question = repr(self._about(tree, other, line))
                repeated = path in seen
                if not repeated and question not in asked:
                    asked[question] = [other.id, own]
                    own += 1
                places.append(None if repeated else asked[question])
                seen.add(path)
        return places

    def _value(self, tree: Tree, node: Node, line: int) -> float | None:
        """The value of a proposal's thought, or of a solution; None while it is not known."""
        at = node.notes["valued_at"][line] if node.aside else [node.id, 0]
        if at is None or (not node.aside and node.answer is None):
            return 0.0
        if self.verifier != _ASKED:
            scores = node.scores.get(self.verifier)
            return None if scores is None else scores[-1]
        answers = tree.children(at[0])[at[1] * self.num_values : (at[1] + 1) * self.num_values]
        if len(answers) < self.num_values or not all("score" in answer.notes for answer in answers):
            return None
        return math.fsum(answer.notes["score"] for answer in answers)

    def _choose(self, tree: Tree, groups: Sequence[_Group], nodes: Sequence[Node]) -> None:
        """Decides what to go on from, once the value of every thought is known."""
        values = {node.id: [self._value(tree, node, i) for i in range(len(node.notes["proposals"]))] for node in nodes}
        known = {node: [value for value in found if value is not None] for node, found in values.items()}
        if any(len(known[node]) < len(found) for node, found in values.items()):
            return
        thoughts = [_Thought(value, node, line) for node, found in known.items() for line, value in enumerate(found)]
        fresh = [thought for thought in thoughts if tree[thought.node].notes["valued_at"][thought.line] is not None]
        ranked = sorted(fresh, key=lambda thought: -thought.value)
        kept = ranked[: self.keep] if self.search == "bfs" else [t for t in ranked if t.value >= self.threshold]
        ends = {group.nodes(tree)[0].id for group in groups} if not thoughts else ()
        for node in nodes:
            chosen = [None] if node.id in ends else [thought.line for thought in kept if thought.node == node.id]
            tree.note(node.id, values=known[node.id], chosen=chosen)
            if known[node.id]:
                tree.note(node.id, score=max(known[node.id]))
            tree.note(node.id, **({"kept": len(chosen)} if chosen else {"pruned": True}))


def _own(node: Node) -> list[int]:
    """The thoughts of a proposal that are asked about below it, by place."""
    lines: dict[int, int] = {}
    for line, at in enumerate(node.notes.get("valued_at", ())):
        if at is not None and at[0] == node.id:
            lines.setdefault(at[1], line)
    return list(lines.values())


def _scorable(node: Node) -> bool:
    """It is a thought, or a solution with an answer."""
    return bool(node.notes.get("proposals")) if node.aside else node.answer is not None


def _settled(node: Node) -> bool:
    """The search goes on from it, or does not."""
    return "chosen" in node.notes or (not node.aside and ("score" in node.notes or node.failed))
