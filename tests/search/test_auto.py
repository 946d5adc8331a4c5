"""Choosing by a table of what strategies came to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reason.errors import UsageError
from reason.search.calibration import CalibrationRow, choose, read_calibration
from reason.search.strategies import STRATEGIES, for_budget, make_strategy
from reason.search.strategies.auto import Auto
from reason.search.strategies.beam import Beam
from reason.search.strategies.best_of_n import BestOfN
from reason.types import Budget


def row(name: str, tokens: float, accuracy: float, problems: int = 100) -> CalibrationRow:
    return CalibrationRow(strategy=name, policy_tokens=tokens, accuracy=accuracy, problems=problems)


ROWS = (row("a", 300, 0.30), row("b", 1000, 0.50), row("c", 900, 0.42), row("d", 4000, 0.52), row("e", 4100, 0.70))


def test_the_most_accurate_that_fits_is_chosen() -> None:
    assert [choose(ROWS, budget).strategy for budget in (299, 300, 899, 950, 1000, 5000)] == list("aaacbe")


def test_more_tokens_must_gain_more_than_noise() -> None:
    assert choose(ROWS, 4000).strategy == "b"  # d: 0.02 better for four times the tokens; noise is 0.025
    assert choose((row("a", 10, 0.5, 10**6), row("b", 20, 0.52, 10**6)), 20).strategy == "b"


def table(tmp_path: Path) -> str:
    rows = [
        {"strategy": "best-of-n", "fields": {"num_samples": 3}, "policy_tokens": 900, "accuracy": 0.3, "problems": 99},
        {"strategy": "beam", "fields": {"width": 8}, "policy_tokens": 2500, "accuracy": 0.6, "problems": 99},
    ]
    file = tmp_path / "table.json"
    file.write_text(json.dumps({"task": "x", "model": "y", "rows": rows}))
    return str(file)


def test_it_is_what_it_chose(tmp_path: Path) -> None:
    small = make_strategy("auto", budget_tokens=1000, table=table(tmp_path), temperature=0.5)
    large = make_strategy("auto", budget_tokens=3000, table=table(tmp_path), max_tokens=99)
    assert isinstance(small, Auto)
    assert isinstance(large, Auto)
    assert small.inner == BestOfN(num_samples=3, temperature=0.5)
    assert large.inner == Beam(width=8, max_tokens=99)
    assert large.measures == ("self-certainty",)
    assert small.measures == ()


def test_the_budget_is_filled_in() -> None:
    budget = Budget(policy_tokens=777)
    assert for_budget("auto", {}, budget) == {"budget_tokens": 777}
    assert for_budget("auto", {"budget_tokens": 5}, budget) == {"budget_tokens": 5}
    assert for_budget("auto", {}, Budget(calls=3)) == {}
    assert for_budget("beam", {"width": 4}, budget) == {"width": 4}
    assert for_budget(BestOfN(), {}, budget) == {}


def test_the_packages_own_table_names_strategies_that_exist() -> None:
    for each in read_calibration():
        make_strategy(each.strategy, **each.fields)
        assert each.strategy in STRATEGIES
        assert 0 <= each.accuracy <= 1
        assert each.problems >= 30


@pytest.mark.parametrize("text", ["", "{}", '{"rows": []}', '{"rows": [{"strategy": "beam"}]}', "[1]"])
def test_what_is_no_table_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "table.json"
    file.write_text(text)
    with pytest.raises(UsageError):
        make_strategy("auto", table=str(file))
    with pytest.raises(UsageError, match="cannot read"):
        make_strategy("auto", table=str(tmp_path / "none.json"))
