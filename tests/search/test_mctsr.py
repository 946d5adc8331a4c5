"""MCT Self-Refine: reading scores, the Q rule, what is refined next, and what hangs on a refinement."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from reason.errors import UsageError
from reason.search.strategies.mctsr import CRITIQUE, DUMMY, LOWEST, REWRITE, SCORE, MCTSr, read_score, value_of
from reason.search.tree import ROOT, Expand, Node, Room, Tree
from reason.types import Problem


class Game:
    """Plays a strategy, results in the order asked.

    Args:
        scores: what the answers are scored, in their order of appearance and then in the order asked; "?" cannot be
            read, "!" fails. Missing ones are 0.
        answers: the answers; "!" fails. Beyond them answer i is "a<i>".
        failing: critiques that fail, by their number.
    """

    def __init__(
        self,
        strategy: MCTSr,
        scores: Sequence[Sequence[int | str]] = (),
        *,
        answers: Sequence[str] = (),
        failing: Sequence[int] = (),
        room: int = 64,
    ) -> None:
        self.strategy = strategy
        self.tree = Tree(Problem(content="What?"), [Node(id=ROOT, parent=None, finish_reason="step")])
        self.refined: list[int] = []  # which answer, by its number; -1: the dummy
        self._scores = scores
        self._answers = answers
        self._failing = failing
        self._room = room
        self._work: deque[int] = deque()
        self._said: dict[int, str] = {}  # what the user said before a node
        self._number: dict[int, int] = {ROOT: -1}  # of answers, by node
        self._scored: dict[int, int] = {}

    def play(self) -> Game:
        self._ask()
        while self._work:
            self._end(self._work.popleft())
            self._ask()
        return self

    def answer(self, number: int) -> Node:
        return self.tree[next(node for node, found in self._number.items() if found == number)]

    def _ask(self) -> None:
        actions = self.strategy.ask(self.tree, Room(self._room - len(self._work)))
        assert self.strategy.ask(self.tree, Room(self._room - len(self._work))) == actions
        for action in actions:
            assert isinstance(action, Expand)
            for _ in range(min(action.num_samples, self._room - len(self._work))):
                node = Node(
                    id=len(self.tree),
                    parent=action.node,
                    begins=not isinstance(action.prompt, str),
                    aside=action.aside,
                )
                self._work.append(node.id)
                self._said[node.id] = "" if isinstance(action.prompt, str) else action.prompt[-1]["content"]
                assert action.keep == (action.node != ROOT)
                assert action.aside == (self._said[node.id] in (SCORE, CRITIQUE))
                self.tree.add(node)
                if self._said[node.id] == CRITIQUE:
                    self.refined.append(self._number[action.node])

    def _end(self, work: int) -> None:
        node: Node = self.tree[work]
        parent, said = node.parent or ROOT, self._said[work]
        node.text = "Wrong."
        ok = True
        if said == SCORE:
            number = self._number[parent]
            given = self._scores[number] if number < len(self._scores) else ()
            place = self._scored[number] = self._scored.get(number, -1) + 1
            score = given[place] if place < len(given) else 0
            ok = score != "!"
            node.text = f"Fair.\nScore: {score}"
        elif said == CRITIQUE:
            ok = (
                len(self.refined) == 0
                or sum(s == CRITIQUE for n, s in self._said.items() if n < work) not in self._failing
            )
        else:
            assert said.startswith(REWRITE if parent != ROOT else "")
            assert ("boxed" in said) == (parent != ROOT)
            number = len(self._number) - 1
            node.text = self._answers[number] if number < len(self._answers) else f"a{number}"
            ok = node.text != "!"
            if ok:
                node.answer, node.answer_class = node.text, number
            self._number[work] = number
        node.finish_reason = "eos" if ok else "error"
        self.strategy.tell(self.tree, [work])


def single(**fields: Any) -> MCTSr:
    return MCTSr(**{"in_flight": 1, "num_scores": 1, **fields})


# -- scores --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("It is fine.\nScore: 60", 60),
        ("Score: -35", -35),
        ("[Analyst] Wrong in step 2. [Score] 12", 12),
        ("**Score:** **85/100**", 85),
        ("I give a score of 70 out of 100.", 70),
        ("score = \\boxed{-5}", -5),
        ("Score: 10. On second thought, Score: 20", 20),
        ("Score: \u221240", -40),
        ("Score: 94", 94),
        ("Score: 95", 50),  # high ones are suppressed
        ("Score: 100", 50),
        ("Score: 120", None),
        ("Score: -101", None),
        ("Score (out of 100): 40", 40),
        ("Score (out of a possible 100): 40", 40),
        ("The score, out of 100, is 40", 40),
        ("Score (-100 to 100): -40", -40),
        ("**Score** (\u2212100 \u2013 100): 40", 40),
        ("Score: 40/100\nThis score reflects 3 mistakes.", 40),
        ("Score: 10, since step 2 is wrong", 10),
        ("out of 100", None),
        ("42", 42),
        (" -7. ", -7),
        ("There are 42 apples.", None),
        ("Score: none", None),
        ("", None),
    ],
)
def test_reading_scores(text: str, score: int | None) -> None:
    assert read_score(text) == score


def test_what_an_answer_is_worth() -> None:
    assert value_of([30]) == 30
    assert value_of([60, 20, 40]) == (20 + 40) / 2
    assert value_of([-100, 100]) == (-100 + 0) / 2
    assert value_of([]) == 0


# -- the search ----------------------------------------------------------------------------------------------------


def test_a_search_by_hand() -> None:
    """An answer is scored again when it is chosen, then its rewriting is scored.

    0: Q 10. Chosen. 0: [10, 20], Q 12.5; 1: [60], so Q' of 0 is 36.25.
    0: 36.25 + 1.4 sqrt(ln 1 / 2), 1: 60 + 1.4 sqrt(ln 3 / 1): 1. 1: [60, 40], Q 45; 2: [-20]. Q' of 1 and 0: 12.5.
    0: 12.5, 1: 12.5 + 1.4 sqrt(ln 3 / 2), 2: -20 + ..: 1 again. 1: [60, 40, 80], Q (40 + 60) / 2; 3: [30]; Q' of 1: 40.
    """
    game = Game(single(iterations=3), [[10, 20], [60, 40, 80], [-20], [30]]).play()
    assert game.refined == [0, 1, 1]
    notes = [game.answer(number).notes for number in range(4)]
    assert [note["rewards"] for note in notes] == [[10, 20], [60, 40, 80], [-20], [30]]
    assert [note["visits"] for note in notes] == [2, 3, 1, 1]
    assert [note["own"] for note in notes] == [12.5, 50.0, -20.0, 30.0]
    assert [note["q"] for note in notes] == [(12.5 + 40.0) / 2, 40.0, -20.0, 30.0]
    assert [note["score"] for note in notes] == [0.5625, 0.75, 0.4, 0.65]
    assert game.strategy.answer(game.tree).answer == "a1"
    assert len(game.tree) == 1 + 4 + 3 + 7  # answers, critiques, scores


def test_exploration() -> None:
    """After a refinement 0 has Q' = (10 + 0) / 2 and no parent, 1 has 0 and one visit below two: 5 or c sqrt(ln 3)."""
    edge = 5 / math.sqrt(math.log(3) / (1 + 1e-5))
    for exploration, chosen in ((edge - 0.01, 0), (edge + 0.01, 1)):
        game = Game(single(iterations=2, exploration=exploration), [[10, 10], [0]]).play()
        assert game.refined == [0, chosen]


def test_an_answer_is_closed_by_so_many_rewritings_and_a_better_one() -> None:
    worse = Game(single(iterations=4, max_children=2), [[50] * 9, [10], [20], [30], [40]]).play()
    assert worse.refined == [0, 0, 0, 0]
    better = Game(single(iterations=4, max_children=2), [[30] * 9, [-60], [31] * 9, [-90], [-90]]).play()
    # 1 is worse; 2 is better and closes 0. Then 2 has 31, and with its first rewriting (31 - 90) / 2; 1 has -60
    assert better.refined == [0, 0, 2, 2]


def test_refinements_under_way_count_as_the_lowest_score() -> None:
    strategy = single(iterations=9, max_children=9, exploration=0.0)
    tree = Game(single(iterations=1), [[40, 40], [20]]).play().tree  # Q' of 0: 30, of 1: 20
    first, second = (node.id for node in tree.nodes[1:] if not node.aside)
    for in_flight, nodes in ((1, [first]), (2, [first, second]), (3, [first, second, first])):
        # one under way: 0 has Q (-100 + (40 + 40 - 100) / 3) / 2 = -53.3, Q' -16.7; two: 0 -85 and 1 -70
        asked = replace(strategy, in_flight=in_flight).ask(tree, Room(64))
        assert [a.node for a in asked if isinstance(a, Expand) and _says(a) == CRITIQUE] == nodes


def _says(action: Expand) -> str:
    return "" if isinstance(action.prompt, str) else action.prompt[-1]["content"]


def test_no_more_than_max_children_are_begun_at_once() -> None:
    tree = Game(single(iterations=1), [[40, 40], [-100]]).play().tree
    first, second = (node.id for node in tree.nodes[1:] if not node.aside)
    asked = MCTSr(iterations=9, in_flight=8, num_scores=1, max_children=3).ask(tree, Room(64))
    begun = [action.node for action in asked if isinstance(action, Expand) and _says(action) == CRITIQUE]
    assert (begun.count(first), begun.count(second)) == (2, 3)


def test_what_cannot_be_read_counts_as_none() -> None:
    game = Game(MCTSr(iterations=1, in_flight=1, num_scores=2), [["?", 30, "!"], ["?", "?"]]).play()
    first, second = game.answer(0).notes, game.answer(1).notes
    assert (first["rewards"], first["visits"], first["own"]) == ([30], 3, 30)
    assert (second["rewards"], second["visits"], second["own"], second["score"]) == ([], 2, 0, 0.5)
    assert first["q"] == (30 + 0) / 2


def test_failures_cost_an_iteration() -> None:
    game = Game(single(iterations=3), [[10]], failing=[0], answers=["a0", "!", "a2"]).play()
    assert game.refined == [0, 0, 0]
    assert [node.answer for node in game.tree.finished()] == ["a0", "a2"]
    nothing = Game(single(iterations=3), answers=["!"]).play()
    assert len(nothing.tree) == 2


def test_the_dummy_is_refined_once_all_else_is_closed_or_as_bad() -> None:
    """Of equals the dummy is the first: 0 has -100, then both have (-100 - 100) / 2."""
    game = Game(single(iterations=2, dummy=True, exploration=0.0), [[LOWEST] * 9] * 9).play()
    assert game.refined == [-1, -1]
    assert Game(single(iterations=2, dummy=True, exploration=0.0), [[-90] * 9] * 9).play().refined == [0, 0]
    assert Game(single(iterations=2, exploration=0.0), [[LOWEST] * 9] * 9).play().refined == [0, 0]


def test_what_the_dummy_is_said_to_have_answered() -> None:
    strategy = single(iterations=1, dummy=True)
    tree = Tree(Problem(content="What?"), [Node(id=ROOT, parent=None, finish_reason="step")])
    tree.add(Node(id=1, parent=ROOT))
    assert strategy.ask(tree, Room(9)) == []  # the first answer comes first
    tree[1].finish_reason = "error"
    (critique,) = strategy.ask(tree, Room(9))
    assert isinstance(critique, Expand)
    assert isinstance(critique.prompt, tuple)
    assert [message["role"] for message in critique.prompt] == ["user", "assistant", "user"]
    assert "What?" in critique.prompt[0]["content"]
    assert critique.prompt[1]["content"] == DUMMY
    assert (critique.keep, critique.aside) == (False, True)


@pytest.mark.parametrize("room", [1, 2, 3])
@pytest.mark.parametrize("in_flight", [1, 3])
def test_a_narrow_room_gives_whole_refinements(room: int, in_flight: int) -> None:
    game = Game(MCTSr(iterations=5, in_flight=in_flight, num_scores=2), [[5, 9], [7, 3]], room=room).play()
    assert len(game.refined) == 5
    assert len(game.tree) == 1 + 6 + 5 + (6 * 2 + 5)
    assert all("score" in node.notes for node in game.tree.finished())


def test_half_a_refinement_is_made_whole_before_another() -> None:
    tree = Game(single(iterations=1), [[40, 40], [20]]).play().tree
    first = tree[1]
    tree.add(Node(id=len(tree), parent=first.id, aside=True, begins=True))  # the score that a refinement begins with
    (asked,) = single(iterations=9).ask(tree, Room(9))
    assert isinstance(asked, Expand)
    assert (asked.node, _says(asked)) == (first.id, CRITIQUE)


def test_answers_are_weighed_by_their_scores() -> None:
    game = Game(single(iterations=2), [[-80, -80], [-90], [90]], answers=["x", "x", "y"])
    game.play()
    for node in game.tree.finished():
        node.answer_class = 0 if node.answer == "x" else 1
    for select, answer in (("weighted", "y"), ("best", "y"), ("majority", "x")):
        assert MCTSr(select=select).answer(game.tree).answer == answer  # type: ignore[arg-type]


def test_an_answer_without_a_score_is_better_than_none() -> None:
    game = Game(single(iterations=1), [[10, 10], []], answers=["x", "y"])
    game.play()
    first, second = game.tree.finished()
    first.answer = first.answer_class = None
    second.notes.pop("score", None)
    assert "score" in first.notes
    assert MCTSr().answer(game.tree).answer == "y"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"iterations": 0}, "iterations must be at least 1, got 0"),
        ({"num_scores": 0}, "num_scores must be at least 1, got 0"),
        ({"max_children": 0}, "max_children must be at least 1, got 0"),
        ({"exploration": -1.0}, "exploration must be at least 0, got -1.0"),
        ({"select": "oracle"}, "select"),
    ],
)
def test_values_that_are_not_allowed(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        MCTSr(**fields)
