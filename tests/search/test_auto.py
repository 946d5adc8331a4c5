"""Choosing by a table of what strategies came to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from reason.errors import UnknownName, UsageError
from reason.fields import describe
from reason.search.calibration import CalibrationRow, choose, read_calibration
from reason.search.strategies import STRATEGIES, for_budget, make_strategy
from reason.search.strategies.auto import Auto
from reason.search.strategies.beam import Beam
from reason.search.strategies.best_of_n import BestOfN
from reason.types import Budget


def row(name: str, tokens: float, accuracy: float, problems: int = 100, **more: Any) -> CalibrationRow:
    return CalibrationRow(
        strategy=name,
        policy_tokens=tokens,
        accuracy=accuracy,
        problems=problems,
        **{"most_policy_tokens": tokens, **more},
    )


ROWS = (row("a", 300, 0.30), row("b", 1000, 0.50), row("c", 900, 0.46), row("d", 4000, 0.52), row("e", 4100, 0.70))


def test_the_most_accurate_that_fits_is_chosen() -> None:
    assert [choose(ROWS, budget).strategy for budget in (299, 300, 899, 950, 1000, 5000)] == list("aaacbe")


def test_more_tokens_must_gain_more_than_noise() -> None:
    assert choose(ROWS, 4000).strategy == "b"  # d: 0.02 better for four times the tokens; noise is 0.025
    assert choose((row("a", 10, 0.5, 10**6), row("b", 20, 0.52, 10**6)), 20).strategy == "b"


def test_the_first_strategy_is_left_for_a_clear_gain_only() -> None:
    """The best of several that are equally good was lucky."""
    few = (row("a", 1000, 0.30, 60), row("b", 1000, 0.36, 60), row("c", 900, 0.40, 60))
    assert choose(few, 1000).strategy == "a"
    many = [row(each.strategy, each.policy_tokens, each.accuracy, 6000) for each in few]
    assert choose(many, 1000).strategy == "c"
    assert choose([*few, row("a", 4000, 0.35, 60)], 4000).policy_tokens == 4000  # its size is chosen as ever
    assert choose([row("a", 2000, 0.9), row("b", 900, 0.1)], 1000).strategy == "b"  # it does not fit
    lucky = (row("a", 1000, 0.6), row("b", 1000, 1.0, 3))
    assert choose(lucky, 1000).strategy == "a"


def test_if_nothing_fits_the_best_of_the_nearest_is_taken() -> None:
    capped = [row(name, 980, accuracy, 2000, budget_tokens=970) for name, accuracy in (("a", 0.2), ("b", 0.4))]
    assert choose([*capped, row("c", 4000, 0.9)], 500).strategy == "b"


def test_a_row_fits_where_its_problems_are_not_cut_off() -> None:
    """Its mean may lie below a limit that cuts off half of them."""
    few, many = row("few", 300, 0.2), row("many", 1190, 0.4, most_policy_tokens=1590)
    assert [choose((few, many), budget).strategy for budget in (1200, 1589, 1590)] == ["few", "few", "many"]
    capped = row("capped", 700, 0.4, budget_tokens=1000, most_policy_tokens=1010)
    assert [choose((few, capped), budget).strategy for budget in (999, 1000)] == ["few", "capped"]
    idle = row("idle", 700, 0.4, budget_tokens=4000, most_policy_tokens=900)
    assert [choose((few, idle), budget).strategy for budget in (899, 900)] == ["few", "idle"]


def line(strategy: str, tokens: Any, accuracy: float, fields: dict[str, Any]) -> dict[str, Any]:
    """A row as JSON."""
    cost = {"policy_tokens": tokens, "most_policy_tokens": tokens}
    return {"strategy": strategy, "fields": fields, "accuracy": accuracy, "problems": 99, **cost}


def table(tmp_path: Path, *rows: dict[str, Any]) -> str:
    default = (line("best-of-n", 900, 0.3, {"num_samples": 3}), line("beam", 2500, 0.6, {"width": 8}))
    file = tmp_path / f"table{len(list(tmp_path.iterdir()))}.json"  # tables that were read are kept
    file.write_text(json.dumps({"task": "x", "model": "y", "rows": rows or default}))
    return str(file)


def test_it_is_what_it_chose(tmp_path: Path) -> None:
    small = make_strategy("auto", budget_tokens=1000, table=table(tmp_path), temperature=0.5)
    large = make_strategy("auto", budget_tokens=3000, table=table(tmp_path), max_tokens=99)
    assert isinstance(small, Auto)
    assert isinstance(large, Auto)
    assert small.inner == BestOfN(num_samples=3, temperature=0.5)
    assert large.inner == Beam(width=8, max_tokens=99)
    assert large.measures == ("auto",)
    assert small.measures == ()


def test_what_it_chose_keeps_what_it_was_measured_with(tmp_path: Path) -> None:
    ats = make_strategy("auto", table=table(tmp_path, line("ats", 9, 0.3, {})))
    assert isinstance(ats, Auto)
    assert ats.inner == make_strategy("ats")
    hot = table(tmp_path, line("best-of-n", 9, 0.3, {"temperature": 1.5}))
    assert make_strategy("auto", table=hot).inner == BestOfN(temperature=1.5)  # type: ignore[attr-defined]
    cold = make_strategy("auto", table=hot, temperature=0.0)
    assert cold.inner == BestOfN(temperature=0.0)  # type: ignore[attr-defined]


def test_fields_go_through_wrappers(tmp_path: Path) -> None:
    file = table(tmp_path, line("esc", 9, 0.3, {"window": 2, "num_samples": 8}))
    made = make_strategy("auto", table=file, temperature=0.2, max_tokens=300)
    assert isinstance(made, Auto)
    assert made.inner == make_strategy("esc", window=2, num_samples=8, temperature=0.2, max_tokens=300)


def test_its_description_says_what_it_chose(tmp_path: Path) -> None:
    """So that an evaluation does not go on with another choice."""
    described = describe(make_strategy("auto", budget_tokens=1000, table=table(tmp_path)))
    assert described["chosen"] == "best-of-n(num_samples=3)"
    assert described["inner"] == {"type": "BestOfN", **describe(BestOfN(num_samples=3))}
    with pytest.raises(UnknownName, match="unknown field of auto 'inner'"):
        make_strategy("auto", inner="beam")


def test_the_budget_is_filled_in() -> None:
    budget = Budget(policy_tokens=777)
    assert for_budget("auto", {}, budget) == {"budget_tokens": 777}
    assert for_budget("auto", {"budget_tokens": 5}, budget) == {"budget_tokens": 5}
    assert for_budget("auto", {}, Budget(calls=3)) == {}
    assert for_budget("beam", {"width": 4}, budget) == {"width": 4}
    assert for_budget(BestOfN(), {}, budget) == {}
    assert for_budget("esc", {"inner": "auto"}, budget) == {"inner": "auto", "budget_tokens": 777}
    assert for_budget("esc", {"inner": Auto()}, budget).keys() == {"inner"}


def test_the_packages_own_table_names_strategies_that_exist() -> None:
    for each in read_calibration():
        make_strategy(each.strategy, **each.fields)
        assert each.strategy in STRATEGIES
        assert 0 <= each.accuracy <= 1
        assert each.problems >= 30


def test_rows_that_cannot_be_chosen_from(tmp_path: Path) -> None:
    good = line("beam", 9, 0.3, {})
    for bad, says in (
        (line("beam", "9", 0.3, {}), "policy_tokens must be a number, got '9'"),
        ({**good, "fields": [1]}, "fields must be an object"),
        ({**good, "budget_tokens": "all"}, "budget_tokens must be a whole number"),
        (line("auto", 9, 0.3, {}), "auto chooses among the rows"),
        (line("esc", 9, 0.3, {"inner": "Auto"}), "auto chooses among the rows"),
    ):
        with pytest.raises(UsageError, match=f"is no calibration table .*{says}"):
            make_strategy("auto", table=table(tmp_path, good, bad))


@pytest.mark.parametrize("text", ["", "{}", '{"rows": []}', '{"rows": [{"strategy": "beam"}]}', "[1]"])
def test_what_is_no_table_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "table.json"
    file.write_text(text)
    with pytest.raises(UsageError):
        make_strategy("auto", table=str(file))
    with pytest.raises(UsageError, match="cannot read"):
        make_strategy("auto", table=str(tmp_path / "none.json"))
