"""ProbTree: a tree of questions, each answered in the way that the model is surest of (Cao et al.,
https://arxiv.org/abs/2311.13982).

One aside takes the question apart, into {question: [parts]}; a part's #k stands for the answer of the k-th part of its
list. From the leaves up, each question is answered from what the model knows, from passages, and from its parts:

    p(closed), p(open) = p(explanation)               p of tokens: the geometric mean of their probabilities
    p(child) = (p(explanation) p(list) prod_i p(part_i))^(1 / (parts + 2))           list: the parts, as it has them

The surest answer is the question's. The explanation is what precedes "So the answer is"; an answer that says that it
is unknown does not count. The passages are the problem's, ranked by BM25: for a question with parts, those of all
questions below it too. What waits for no answer is asked at the same time.

Departures from the authors' code (https://github.com/THU-KEG/ProbTree): attempts at the root are solutions, all else
is aside. An explanation that ends without an answer is made to say one. Where a part has no answer, what refers to it
is not asked, and its list's question is not answered from its parts (there both go on, at a log-probability of -100).
Lists are dropped if a part repeats another or a question above it, or refers to no part before it. Prompts are chat
turns in our words, and what fits is counted in characters, for a strategy has no tokenizer. Passages are looked for by
questions alone, not by a search engine too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from reason.search.strategies.decoding import Decoding, check_at_least
from reason.search.strategies.probtree_prompts import CHILD, CLOSED, DECOMPOSE, OPEN
from reason.search.strategies.question_tree import filled, question_tree
from reason.search.strategies.scoring import missing_scores
from reason.search.tree import ROOT, Action, Expand, Node, Room, Tree
from reason.search.voting import Selection, vote
from reason.tasks.bm25 import BM25
from reason.tasks.qa import extract_short_answer, fitting, is_unknown, numbered, stated_answer
from reason.types import Answer, Message, Problem

__all__ = ["ProbTree"]

ENDING = " So the answer is:"
ENDING_TOKENS = 48
EXPLANATION = "span-logprob:before=So the answer is"
LIST = "span-logprob:after=[,before=],index={}"


class Job(NamedTuple):
    """One expansion: a question's place in the question tree, and "closed", "open", "child" or "decompose"."""

    question: int
    kind: str


FIRST = (Job(0, "closed"), Job(0, "decompose"))


class Outcome(NamedTuple):
    """What a question has come to: nothing yet, or, if it is ``settled``, an answer or none."""

    settled: bool
    answer: str | None = None
    score: float = 0.0


@dataclass(frozen=True, kw_only=True)
class ProbTree(Decoding):
    """See the module's docstring.

    Args:
        max_tokens: limit of each answer, and of the decomposition.
        num_passages: passages of an open-book answer; fewer if they do not fit.
        num_part_passages: further ones, at most, for each question below.
        max_passage_characters: what they may come to.
        max_lists: lists of the decomposition that count, the first ones.
        max_questions: of the whole tree; lists that would make it larger are dropped.
        few_shot: worked examples before each prompt, as far as there are so many.
    """

    select: ClassVar[Selection] = "best"

    max_tokens: int = 256
    temperature: float = 0.0
    num_passages: int = 5
    num_part_passages: int = 3
    max_passage_characters: int = 8000
    max_lists: int = 4
    max_questions: int = 12
    few_shot: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, "num_passages", "max_passage_characters", "max_questions")
        check_at_least(self, 0, "num_part_passages", "max_lists", "few_shot")

    @property
    def measures(self) -> tuple[str, ...]:
        return (EXPLANATION, *(LIST.format(index) for index in range(self.max_lists)))

    def ask(self, tree: Tree, room: Room) -> Sequence[Action]:
        state = _State(self, tree)
        actions = missing_scores(tree, [node for node in state.nodes.values() if "said" in node.notes], EXPLANATION)
        for question in state.questions:
            if state.decomposition is not None and question.parts:
                actions += missing_scores(tree, [state.decomposition], LIST.format(question.list))
        if room.expansions > 0:
            actions += [self._end(node) for node in state.unsaid() if not tree.children(node.id)]
            actions += [self._expand(state, job) for job in state.jobs[len(state.nodes) :]]
        return actions

    def tell(self, tree: Tree, done: Sequence[int]) -> None:
        state = _State(self, tree)
        unsaid = [node.id for node in state.unsaid()]
        for job, node in state.nodes.items():
            if node.pending or node.id in unsaid or job.kind == "decompose":
                continue
            if "kind" not in node.notes:
                said = _said(_last(tree, node))
                found = {} if said is None else {"said": said}
                tree.note(node.id, kind=job.kind, question=state.text(job.question), **found)
            if "said" in node.notes and "score" not in node.notes and (score := state.score(job)) is not None:
                for scored in dict.fromkeys([node.id, _last(tree, node).id]):
                    tree.note(scored, score=score)
        state = _State(self, tree)
        # Which job a node is, its place among the nodes says. So the jobs begun stay in their order, and of the others
        # the one with the shortest prompt comes first, lest a KV limit refuse one and allow another behind it.
        begun, rest = state.jobs[: len(state.nodes)], state.jobs[len(state.nodes) :]
        rest += [job for job in state.ready() if job not in state.jobs]
        rest.sort(key=lambda job: sum(len(message["content"]) for message in self._prompt(state, job)))
        if [*begun, *rest] != state.jobs:
            tree.note(ROOT, jobs=[list(job) for job in (*begun, *rest)])

    def answer(self, tree: Tree) -> Answer:
        nodes = [node for job, node in _State(self, tree).nodes.items() if job.question == 0 and "score" in node.notes]
        if not nodes:
            return vote(tree, self.select)
        best = _last(tree, max(nodes, key=lambda node: (node.notes["score"], -node.id)))
        return Answer(answer=best.answer, text=tree.text(best.id), confidence=best.notes["score"])

    def _expand(self, state: _State, job: Job) -> Expand:
        above = ROOT if job in FIRST or state.decomposition is None else state.decomposition.id
        return Expand(
            node=above,
            max_tokens=self.max_tokens,
            prompt=self._prompt(state, job),
            sampling=self.sampling,
            aside=job.question != 0 or job.kind == "decompose",
            open_ended=job.kind != "decompose",
        )

    def _end(self, node: Node) -> Expand:
        """The answer after an explanation that ended without."""
        return Expand(
            node=node.id,
            max_tokens=min(ENDING_TOKENS, self.max_tokens - node.path_tokens),
            prompt=ENDING,
            sampling=self.sampling,
            stop=("\n",),
            aside=node.aside,
        )

    def _prompt(self, state: _State, job: Job) -> tuple[Message, ...]:
        question = state.text(job.question)
        if job.kind == "decompose":
            prompt, text = DECOMPOSE, question
        elif job.kind == "closed":
            prompt, text = CLOSED, question
        elif job.kind == "open":
            passages = self._passages(state.tree.problem.passages, question, list(state.below(job.question)))
            prompt, text = OPEN, f"{numbered(passages)}\n\nQuestion: {question}"
        else:
            parts = state.questions[job.question].parts
            lines = (f"{state.text(part)} {state.outcome(part).answer}" for part in parts)
            prompt, text = CHILD, "\n".join(lines) + f"\n\nQuestion: {question}"
        return prompt.messages(text, few_shot=min(self.few_shot, len(prompt.worked)))

    def _passages(self, passages: Sequence[str], question: str, below: Sequence[str]) -> Sequence[str]:
        """Those found for a question, and then for the questions below it: as many for each as fit together."""
        index = BM25(passages)
        found: list[str] = []
        for count in range(self.num_passages, 0, -1):
            places = index.best(question, count)
            for part in below:
                places += index.best(part, min(count, self.num_part_passages))
            found = [passages[place] for place in dict.fromkeys(places)]
            if sum(map(len, found)) <= self.max_passage_characters:
                return found
        return fitting(found, self.max_passage_characters)


class _State:
    """What a tree says, read anew each time.

    ``jobs`` are those begun and those to begin; ``nodes`` what has come of the former; ``decomposition`` is None until
    its text is there.
    """

    def __init__(self, strategy: ProbTree, tree: Tree) -> None:
        self.tree = tree
        self._max_tokens = strategy.max_tokens
        self.jobs = [Job(*job) for job in tree[ROOT].notes.get("jobs", FIRST)]
        begun = [node for node in tree.nodes[1:] if node.begins]  # all but endings
        self.nodes: dict[Job, Node] = dict(zip(self.jobs, begun, strict=False))
        node = self.nodes.get(Job(0, "decompose"))
        self.decomposition = None if node is None or node.pending else node
        self.questions = question_tree(
            _question(tree.problem),
            self.decomposition.text if self.decomposition is not None else "",
            max_lists=strategy.max_lists,
            max_questions=strategy.max_questions,
        )
        self._parents = {part: place for place, question in enumerate(self.questions) for part in question.parts}
        self._outcomes: dict[int, Outcome] = {}

    def outcome(self, place: int) -> Outcome:
        """Of the question at a place of the tree."""
        if place not in self._outcomes:
            self._outcomes[place] = self._outcome(place)
        return self._outcomes[place]

    def text(self, place: int) -> str:
        """A question with the answers it needs, all of which are there."""
        question = self.questions[place]
        if not question.needs:
            return question.text
        answers = {need: self.outcome(need).answer or "" for need in question.needs}
        return filled(question, self.questions[self._parents[place]].parts, answers)

    def below(self, place: int) -> Iterator[str]:
        """The questions below one, those left out that could not be asked."""
        for part in self.questions[place].parts:
            if self._can_be_asked(part):
                yield self.text(part)
            yield from self.below(part)

    def unsaid(self) -> list[Node]:
        """Explanations that want an ending, and those whose ending is under way."""
        found = []
        for job, node in self.nodes.items():
            if job.kind == "decompose" or node.pending or "kind" in node.notes:
                continue
            endings = self.tree.children(node.id)
            stated = node.answer is not None or stated_answer(node.text) is not None
            if any(ending.pending for ending in endings) or not (
                endings or stated or node.finish_reason not in ("eos", "stop") or node.path_tokens >= self._max_tokens
            ):
                found.append(node)
        return found

    def ready(self) -> Iterator[Job]:
        """All that can be asked by now, and what could be earlier."""
        for place in range(len(self.questions)):
            if self._can_be_asked(place):
                yield from (Job(place, kind) for kind in ("closed", *(self._further(place) or ())))

    def score(self, job: Job) -> float | None:
        """How sure the answer is; None if it has not been measured."""
        explanation = self.nodes[job].scores.get(EXPLANATION)
        if explanation is None or job.kind != "child":
            return None if explanation is None else explanation[-1]
        assert self.decomposition is not None
        question = self.questions[job.question]
        parts = self.decomposition.scores.get(LIST.format(question.list))
        if parts is None:
            return None
        factors = [explanation[-1], parts[-1], *(self.outcome(part).score for part in question.parts)]
        return math.prod(factors) ** (1 / len(factors))

    def _can_be_asked(self, place: int) -> bool:
        return all(self.outcome(need).answer is not None for need in self.questions[place].needs)

    def _further(self, place: int) -> tuple[str, ...] | None:
        """How a question is to be answered beside "closed"; None as long as that depends on others."""
        parts = [self.outcome(part) for part in self.questions[place].parts]
        if self.decomposition is None or not all(part.settled for part in parts):
            return None
        opened = ("open",) if self.tree.problem.passages else ()
        return (*opened, "child") if parts and all(part.answer is not None for part in parts) else opened

    def _outcome(self, place: int) -> Outcome:
        needs = [self.outcome(need) for need in self.questions[place].needs]
        if any(need.settled and need.answer is None for need in needs):
            return Outcome(settled=True)
        if not all(need.settled for need in needs) or (further := self._further(place)) is None:
            return Outcome(settled=False)
        nodes = [self.nodes.get(Job(place, kind)) for kind in ("closed", *further)]
        notes = [node.notes for node in nodes if node is not None and "kind" in node.notes]
        if len(notes) < len(nodes) or any("said" in note and "score" not in note for note in notes):
            return Outcome(settled=False)
        best = max((note for note in notes if "said" in note), key=lambda note: note["score"], default=None)
        return Outcome(True) if best is None else Outcome(True, best["said"], best["score"])


def _last(tree: Tree, node: Node) -> Node:
    """Where the text of an attempt ends: in itself, or in its ending."""
    return [node, *tree.children(node.id)][-1]


def _said(node: Node) -> str | None:
    """The answer that a text ends in, if it has one, was not cut off, and does not say that it is unknown."""
    if node.finish_reason not in ("eos", "stop"):
        return None
    answer = extract_short_answer(node.text) if node.aside else node.answer
    return None if answer is None or is_unknown(answer) else answer


def _question(problem: Problem) -> str:
    """What is asked, without the prompt around it if that is known."""
    if problem.question is not None:
        return problem.question
    return problem.content if isinstance(problem.content, str) else problem.content[-1]["content"]
