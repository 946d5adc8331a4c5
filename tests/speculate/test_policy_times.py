"""What policies go by: the times of forwards, and the switch that leaves drafting off where it does not pay."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest

from reason.speculate.policy import (
    PROBED_ROWS,
    ForwardTimes,
    Switch,
)
from tests.speculate.trees import times_of

# -- forward times -------------------------------------------------------------------------------------------------


def test_times_are_interpolated_and_go_on() -> None:
    times = times_of({1: 2.0, 16: 2.0, 17: 3.0, 32: 3.3, 100: 10.0})
    table = times.upto(300)
    assert len(table) == 301
    assert table[:17].tolist() == [2.0] * 17  # no rows cost what one does
    assert table[[17, 32, 100]].tolist() == [3.0, 3.3, 10.0]
    assert table[66] == pytest.approx((3.3 + 10.0) / 2)
    assert table[200] > table[150] > table[100]
    assert (np.diff(table) >= 0.0).all()
    assert times.upto(20).tolist() == table[:21].tolist()


@pytest.mark.parametrize("seed", range(20))
def test_times_never_fall(seed: int) -> None:
    rng = random.Random(seed)
    assert not ForwardTimes().measured
    times = ForwardTimes()
    times.probe(lambda rows: rng.random() + 0.01, 300)
    assert times.measured
    for _ in range(60):
        table = times.upto(600)
        assert len(table) == 601
        assert (table > 0.0).all()
        assert (np.diff(table) >= 0.0).all()
        times.observe(rng.randrange(1, 90), rng.random() * 2)


@pytest.mark.parametrize("most", [0, 1, 7, 40, 1000])
def test_probing_measures_what_fits(most: int) -> None:
    asked: list[int] = []

    def measure(rows: int) -> float:
        asked.append(rows)
        return 1.0 if len(asked) > 1 else 100.0  # the first forward pays for its memory

    times = ForwardTimes()
    times.probe(measure, most)
    assert max(asked) <= max(1, most)
    assert set(asked) == {rows for rows in PROBED_ROWS if rows <= max(1, most)}
    assert times.upto(3).tolist() == [1.0] * 4


def test_times_follow_a_machine_that_slows_down() -> None:
    times = times_of({1: 1.0, 32: 1.0, 33: 2.0, 64: 2.0})
    for _ in range(300):
        times.observe(8, 1.6)
        times.observe(40, 3.2)
    assert times.upto(40)[[8, 40]].tolist() == pytest.approx([1.6, 3.2], rel=0.05)
    for _ in range(400):
        times.observe(8, 0.8)
        times.observe(40, 1.6)
    assert times.upto(40)[[8, 40]].tolist() == pytest.approx([0.8, 1.6], rel=0.05)


def test_outliers_are_not_believed() -> None:
    times = times_of({1: 1.0, 64: 2.0})
    before = times.upto(64).tolist()
    for rows in (1, 8, 64):
        times.observe(rows, 50.0)
    assert times.upto(64).tolist() == before


def test_a_machine_that_became_slow_for_good_is_believed() -> None:
    times = times_of({1: 1.0, 64: 2.0})
    for _ in range(600):
        times.observe(8, 4.0)
    assert times.upto(8)[8] == pytest.approx(4.0, rel=0.05)


# -- switch --------------------------------------------------------------------------------------------------------


def pause_of(switch: Switch, branches: int = 4) -> int:
    length = 0
    while not switch.on(branches):
        length += 1
    return length


def until_off(switch: Switch, advantage: Callable[[], float], branches: int = 4, most: int = 200) -> int:
    """How many iterations with drafts it takes until the switch is off."""
    for count in range(most):
        if not switch.on(branches):
            return count
        switch.settle(branches, advantage())
    return most


def test_the_switch_pauses_where_drafting_loses_and_tries_again_later_and_later() -> None:
    switch = Switch()
    pauses: list[int] = []
    for _ in range(9):
        assert 1 < until_off(switch, lambda: -0.2) <= 20
        pauses.append(1 + pause_of(switch))  # one was counted by the trial
    assert all(later == 2 * earlier for earlier, later in pairwise(pauses) if later < 1536)
    assert pauses[-1] == pauses[-2] == max(pauses)


def test_the_switch_pauses_where_drafting_hardly_gains() -> None:
    assert until_off(Switch(), lambda: 0.02) <= 20
    assert until_off(Switch(), lambda: 0.08) == 200


def test_the_switch_looks_now_and_then_where_drafting_does_not_clearly_win() -> None:
    switch = Switch()
    looked: list[int] = []
    for count in range(100):
        if switch.looks(16):
            looked.append(count)
        else:
            switch.settle(16, 0.1)
    assert looked == [0, 16, 32, 48, 64, 80, 96]
    clear = Switch()
    assert clear.looks(16)
    for _ in range(50):
        clear.settle(16, 0.5)
    assert not any(clear.looks(16) for _ in range(50))
    assert not any(Switch().looks(1) for _ in range(50))  # nothing is known of it yet


def test_the_switch_stays_on_where_drafting_wins() -> None:
    switch, rng = Switch(), random.Random(0)
    assert until_off(switch, lambda: rng.gauss(0.3, 0.3), most=500) == 500


def test_the_switch_comes_back_and_forgets_its_long_pauses() -> None:
    switch = Switch()
    for _ in range(4):
        until_off(switch, lambda: -0.2)
        last = 1 + pause_of(switch)
    assert last > 100
    assert until_off(switch, lambda: 0.3, most=100) == 100
    until_off(switch, lambda: -1.0)
    assert 1 + pause_of(switch) < 50


def test_one_bad_iteration_does_not_switch_off() -> None:
    switch = Switch()
    advantages = iter([-3.0, *[0.8] * 100])
    assert until_off(switch, lambda: next(advantages), most=60) == 60


def test_batch_sizes_are_judged_apart() -> None:
    switch = Switch()
    until_off(switch, lambda: -0.2, branches=64)
    assert not switch.on(64)
    assert not switch.on(66)  # much the same size
    assert switch.on(1)
    assert switch.on(8)
