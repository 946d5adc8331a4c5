"""The benchmark of ask and tell runs every strategy that it has a size for."""

from __future__ import annotations

import sys

import pytest

from reason.search.strategies import STRATEGIES
from tests.test_benchmark_reproduce import script

overhead = script("search_overhead")


def test_all_that_run_no_programs_have_a_size() -> None:
    assert set(STRATEGIES) - set(overhead.SIZES) == {"rethink-mcts", "tool-agent"}


def test_it_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["search_overhead.py", "--width", "8", "--rounds", "1"])
    overhead.main()
    printed = capsys.readouterr().out
    assert all(f"| {name} |" in printed for name in overhead.SIZES)
