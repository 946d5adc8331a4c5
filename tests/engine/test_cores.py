"""How many threads a forward gets."""

from __future__ import annotations

import os
import threading
from types import SimpleNamespace

import pytest
import torch

from reason.engine import cores
from reason.engine.cores import CoreWatch, compute_alone


@pytest.fixture
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)


def free(monkeypatch: pytest.MonkeyPatch, *, busy: float | None, own: float, seconds: float) -> int:
    """The free cores after a window of ``seconds`` in which the machine and this process worked that long."""
    clock = iter([100.0, 100.0 + seconds])
    monkeypatch.setattr(cores, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    busy_clock = iter([None, None] if busy is None else [50.0, 50.0 + busy])
    monkeypatch.setattr(cores, "_busy_seconds", lambda: next(busy_clock))
    own_clock = iter([5.0, 5.0 + own])
    monkeypatch.setattr(cores, "_own_seconds", lambda: next(own_clock))
    return CoreWatch().free_cores()


@pytest.mark.usefixtures("four_cores")
@pytest.mark.parametrize(
    ("busy", "own", "seconds", "expected"),
    [
        (20.0, 20.0, 10.0, 4),  # all of it ours
        (20.0, 10.0, 10.0, 3),
        (29.0, 1.0, 10.0, 1),
        (80.0, 0.0, 10.0, 1),  # never none
        (1.0, 9.0, 10.0, 4),  # clocks that disagree
        (0.2, 0.0, 0.1, 4),  # too short a look
        (None, 0.0, 10.0, 4),  # a system that does not tell
    ],
)
def test_what_others_use_is_not_free(
    monkeypatch: pytest.MonkeyPatch, busy: float | None, own: float, seconds: float, expected: int
) -> None:
    assert free(monkeypatch, busy=busy, own=own, seconds=seconds) == expected


@pytest.mark.usefixtures("four_cores")
@pytest.mark.parametrize(("asked", "expected"), [("2", 2), ("9", 4), ("0", 4), ("many", 4), ("", 4)])
def test_the_environment_overrules(monkeypatch: pytest.MonkeyPatch, asked: str, expected: int) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert free(monkeypatch, busy=None, own=0.0, seconds=10.0) == expected


def test_on_this_machine() -> None:
    assert 1 <= CoreWatch().free_cores() <= (os.cpu_count() or 1)


def test_torch_takes_one_thread_in_the_thread_that_asks_for_it() -> None:
    if not cores._loaded("libgomp"):
        pytest.skip("torch computes with other threads than libgomp's")
    before = torch.get_num_threads()
    found: list[int] = []

    def ask(*, alone: bool) -> None:
        if alone:
            compute_alone()
        found.append(torch.get_num_threads())

    try:
        torch.set_num_threads(3)
        for alone in (True, False):
            other = threading.Thread(target=ask, kwargs={"alone": alone})
            other.start()
            other.join()
        assert (found, torch.get_num_threads()) == ([1, 3], 3)
    finally:
        torch.set_num_threads(before)
