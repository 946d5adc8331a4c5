"""Steps, states and the search over them, by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reason.compress.search import Cost, Found, SearchOptions, ranked, search
from reason.compress.steps import State, joined, span, split_steps, split_trace, touches, union
from reason.errors import UsageError

EVEN = Cost(1.0, 1.0)


class Scripted:
    """Costs by state, or one for all; which states suffice."""

    def __init__(
        self, costs: Mapping[State, Cost] | Cost = EVEN, suffices: Sequence[State] | bool | None = False
    ) -> None:
        self._costs, self._suffices = costs, suffices
        self.validated: list[State] = []
        self.asked: list[State] = []

    async def costs(self, states: Sequence[State]) -> Sequence[Cost]:
        self.asked += states
        return [self._costs if isinstance(self._costs, Cost) else self._costs[state] for state in states]

    async def suffices(self, state: State) -> bool | None:
        self.validated.append(state)
        given = self._suffices
        return given if given is None or isinstance(given, bool) else state in given


def moves(found: Found) -> list[tuple[str, int, int | None]]:
    return [(move.kind, move.k, move.centre) for move in found.record]


def test_steps() -> None:
    thought = "One.\n\nTwo,\nstill two.\n\n\n\n  \n\nThree.\n"
    assert split_steps(thought) == ("One.", "Two,\nstill two.", "Three.")
    assert split_steps(" \n\n ") == ()
    assert split_steps("a;b;;c", ";") == ("a", "b", "c")
    assert joined(split_steps(thought), (0, 2)) == "One.\n\nThree."


@pytest.mark.parametrize(
    ("text", "thought", "solution"),
    [
        ("a\n\nb", "a\n\nb", ""),
        ("<think>\na\n</think>\n\nThe answer", "a", "The answer"),
        ("a\n</think>\nThe answer", "a", "The answer"),
        ("<think>cut off", "cut off", ""),
        ("[THINK]a[/THINK]b", "a", "b"),
        ("", "", ""),
    ],
)
def test_what_is_thought(text: str, thought: str, solution: str) -> None:
    assert split_trace(text) == (thought, solution)


def test_spans_and_states() -> None:
    assert [span(centre, 4) for centre in range(4)] == [(0, 1), (0, 1, 2), (1, 2, 3), (2, 3)]
    assert span(0, 1) == (0,)
    assert union((4, 5, 6), (0, 1)) == (0, 1, 4, 5, 6)
    state = (4, 5, 6)
    assert [centre for centre in range(10) if touches(centre, state)] == [3, 4, 5, 6, 7]


def test_the_queue_breaks_ties_by_place() -> None:
    assert ranked([0.5, 2.0, 0.5, 2.0, 0.1]) == [1, 3, 0, 2, 4]


async def test_a_search_by_hand() -> None:
    """Twelve steps. It begins at 5; 6 is its neighbour, which takes an iteration; of 1 and 9 the second costs less."""
    importance = [0.0] * 12
    for value, step in enumerate([11, 1, 9, 6, 5], start=1):
        importance[step] = value
    costs = Scripted(
        {
            (4, 5, 6, 8, 9, 10): Cost(2.0, 1.1),  # f = 0.2 + 1.1
            (0, 1, 2, 4, 5, 6): Cost(4.0, 1.0),  # f = 0.4 + 1.0
            (0, 1, 2, 4, 5, 6, 8, 9, 10): Cost(3.0, 0.5),  # f = 0.3 + 0.5
            (0, 1, 4, 5, 6, 8, 9, 10): Cost(3.0, 0.6),  # f = 0.3 + 0.6
        },
        suffices=[(0, 1, 2, 4, 5, 6, 8, 9, 10)],
    )
    found = await search(importance, costs, SearchOptions(k_min=2, k_max=20))
    assert moves(found) == [
        ("start", 0, 5),
        ("drop", 0, 6),
        ("expand", 1, 9),
        ("validate", 2, None),
        ("drop", 2, 11),  # of the next two, 1 and 11, the second touches 10
        ("expand", 3, 1),  # against 0
        ("validate", 4, None),
    ]
    first = found.record[2].candidates
    assert [candidate.centre for candidate in first] == [9, 1]
    assert (first[0].f, first[0].g, first[0].h) == pytest.approx((1.3, 0.2, 1.1))
    assert first[1].f == pytest.approx(1.4)
    assert (found.kept, found.ended) == ((0, 1, 2, 4, 5, 6, 8, 9, 10), "validated")
    assert costs.validated == [(4, 5, 6, 8, 9, 10), (0, 1, 2, 4, 5, 6, 8, 9, 10)]


async def test_dropping_a_neighbour_counts() -> None:
    """Steps 1 and 3 stand beside those of the first span; only then is there room for 4 of seven."""
    costs = Scripted(suffices=True)
    found = await search([9.0, 5.0, 4.0, 3.0, 0.0, 2.0, 0.0], costs, SearchOptions(k_min=3, k_max=9, branching=1))
    assert moves(found) == [
        ("start", 0, 0),  # the state is 0, 1
        ("drop", 0, 1),
        ("drop", 1, 2),
        ("expand", 2, 3),
        ("validate", 3, None),
    ]
    assert (found.kept, found.ended) == ((0, 1, 2, 3, 4), "validated")
    late = await search([9.0, 5.0, 4.0, 3.0, 0.0, 2.0, 0.0], costs, SearchOptions(k_min=1, k_max=2, branching=1))
    assert (late.kept, late.ended) == ((0, 1), "validated")


async def test_a_neighbour_among_the_next_is_dropped_before_anything_is_compared() -> None:
    costs = Scripted(suffices=None)
    importance = [0.0, 9.0, 0.0, 4.0, 0.0, 5.0, 0.0, 3.0, 0.0]  # 1, then 5, then 3, which touches 2
    found = await search(importance, costs, SearchOptions(k_min=2, k_max=9, branching=2))
    assert moves(found)[:3] == [("start", 0, 1), ("drop", 0, 3), ("expand", 1, 5)]
    assert [candidate.centre for candidate in found.record[2].candidates] == [5, 7]
    assert found.ended == "unchecked"


async def test_the_more_important_wins_a_tie_and_the_loser_stays() -> None:
    costs = Scripted(EVEN, suffices=None)
    importance = [0.0] * 16
    for value, step in enumerate([13, 9, 5, 1], start=1):
        importance[step] = value
    found = await search(importance, costs, SearchOptions(k_min=2, k_max=9))
    expanded = [move for move in found.record if move.kind == "expand"]
    assert [move.centre for move in expanded] == [5, 9]
    assert [[c.centre for c in move.candidates] for move in expanded] == [[5, 9], [9, 13]]


async def test_without_an_answer_the_state_at_k_min_is_taken() -> None:
    for k_min, size in ((0, 3), (1, 6), (2, 9)):
        costs = Scripted(suffices=None)
        found = await search([4.0 * (i % 4 == 1) for i in range(20)], costs, SearchOptions(k_min=k_min))
        assert (len(found.kept), found.ended, len(costs.validated)) == (size, "unchecked", 1)
        assert found.record[-1].as_dict() == {"kind": "validate", "k": k_min, "size": size, "suffices": None}


async def test_the_whole_trace_at_k_max() -> None:
    costs = Scripted(suffices=False)
    importance = [float(i % 4 == 1) for i in range(40)]
    found = await search(importance, costs, SearchOptions(k_min=2, k_max=6))
    assert (found.kept, found.ended) == (tuple(range(40)), "k_max")
    assert [move.k for move in found.record if move.kind == "validate"] == [2, 3, 4, 5]
    assert sum(move.kind in ("drop", "expand") for move in found.record) == 6


async def test_a_state_that_failed_is_not_tried_again() -> None:
    costs = Scripted(suffices=False)
    await search([1.0, 9.0, 8.0, 7.0, 0.0, 0.0, 0.0, 0.0], costs, SearchOptions(k_min=0, k_max=9, branching=1))
    assert len(costs.validated) == len(set(costs.validated))


async def test_nothing_left_to_add() -> None:
    costs = Scripted(suffices=False)
    options = SearchOptions(k_min=5, k_max=20)
    gap = await search([9.0, 0.0, 0.0, 0.0], costs, options)  # all but 3 touch it or are touched: 0 1, then 3
    assert gap.ended == "exhausted"
    assert gap.kept == (0, 1, 2, 3)
    assert costs.validated == []  # the state is the whole trace
    small = Scripted(suffices=True)
    found = await search([9.0, 0.0, 0.0], small, options)  # 0 1, and 2 is a neighbour: validated before k_min
    assert (found.kept, found.ended, small.validated) == ((0, 1), "validated", [(0, 1)])
    failing = Scripted(suffices=False)
    assert (await search([9.0, 0.0, 0.0], failing, options)).ended == "exhausted"
    for count in (1, 2):
        assert (await search([1.0] * count, Scripted(), options)).kept == tuple(range(count))


@given(
    importance=st.lists(st.floats(0, 10), min_size=1, max_size=40),
    k_min=st.integers(0, 6),
    more=st.integers(1, 20),
    branching=st.integers(1, 4),
    good=st.integers(0, 40),
)
async def test_whatever_the_numbers(importance: list[float], k_min: int, more: int, branching: int, good: int) -> None:
    """States are spans joined, in order, and each costs at most k_max iterations."""

    class Enough(Scripted):
        async def suffices(self, state: State) -> bool | None:
            return len(state) >= good

    options = SearchOptions(k_min=k_min, k_max=k_min + more, branching=branching)
    found = await search(importance, Enough(), options)
    iterations = [move for move in found.record if move.kind in ("drop", "expand")]
    assert [move.k for move in iterations] == list(range(len(iterations)))
    assert len(iterations) <= options.k_max
    assert list(found.kept) == sorted(set(found.kept))
    if found.ended == "validated":
        chosen = [move.centre for move in found.record if move.kind in ("start", "expand")]
        spans = [set(span(centre, len(importance))) for centre in chosen if centre is not None]
        assert set(found.kept) == set().union(*spans)
        assert len(found.kept) == sum(map(len, spans)) or any(a & b for a in spans for b in spans if a is not b)
    else:
        assert len(found.kept) == len(importance)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k_min": -1}, "k_min must be at least 0"),
        ({"k_min": 5, "k_max": 5}, r"k_max must be more than k_min \(5\)"),
        ({"branching": 0}, "branching must be at least 1"),
        ({"beta": -0.1}, "beta must be at least 0"),
        ({"beta": float("nan")}, "beta must be at least 0"),
    ],
)
def test_options_that_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SearchOptions(**options)  # type: ignore[arg-type]
