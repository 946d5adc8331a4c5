"""Strategies by name, and their fields from text."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from reason.errors import UnknownName, UsageError
from reason.search import strategies
from reason.search.strategies import STRATEGIES, breadth_of, known_fields, make_strategy, parse_fields
from reason.search.strategies.best_of_n import BestOfN
from reason.search.tree import Expand, Strategy, Tree
from reason.types import Answer


@dataclass(frozen=True, kw_only=True)
class Everything:
    """A strategy with a field of every kind."""

    count: int = 1
    share: float = 0.5
    fast: bool = False
    order: Literal["first", "best"] = "first"
    note: str = ""

    def ask(self, tree: Tree) -> list[Expand]:
        return []

    def answer(self, tree: Tree) -> Answer:
        return Answer(answer=None, text="")


@pytest.fixture
def everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(strategies.STRATEGIES, "everything", Everything)


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_registered_strategy(name: str) -> None:
    kind = STRATEGIES[name]
    assert isinstance(make_strategy(name), Strategy)
    assert dataclasses.is_dataclass(kind)
    assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert name == name.lower()
    assert all(f.kw_only for f in dataclasses.fields(kind))
    assert "https://" in (sys.modules[kind.__module__].__doc__ or ""), "no source named"


def test_by_name_and_as_an_object() -> None:
    assert make_strategy("best-of-n", num_samples=3) == BestOfN(num_samples=3)
    assert make_strategy("Best-of-N") == BestOfN()
    mine = BestOfN(num_samples=2)
    assert make_strategy(mine) is mine
    with pytest.raises(UsageError, match="give fields with a strategy's name, not with an object: num_samples, top_k"):
        make_strategy(mine, num_samples=3, top_k=2)


def test_unknown_names_list_what_there_is() -> None:
    with pytest.raises(
        UnknownName, match=r"unknown strategy 'best-of-m'. Did you mean 'best-of-n'\? Known: .*best-of-n"
    ):
        make_strategy("best-of-m")
    with pytest.raises(UnknownName, match=r"unknown strategy ''\. Known: .*best-of-n"):
        make_strategy("")
    with pytest.raises(UnknownName, match=r"unknown field of best-of-n 'samples'.*Known: .*num_samples.*top_p"):
        make_strategy("best-of-n", samples=3)
    with pytest.raises(UnknownName, match="unknown strategy 'x'"):
        parse_fields("x", [])
    with pytest.raises(UnknownName, match=r"unknown field of best-of-n 'nun_samples'.*Did you mean 'num_samples'"):
        parse_fields("best-of-n", ["nun_samples=3"])


@pytest.mark.parametrize(
    "fields", [{"num_samples": "8"}, {"num_samples": 2.5}, {"temperature": "hot"}, {"num_samples": None}, {"top_k": []}]
)
def test_values_of_the_wrong_type(fields: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(fields))):
        make_strategy("best-of-n", **fields)


def test_whole_numbers_are_numbers() -> None:
    assert make_strategy("best-of-n", temperature=1) == BestOfN(temperature=1.0)


def test_what_is_no_strategy() -> None:
    for thing in (BestOfN, object(), None):
        with pytest.raises(UsageError, match="strategy"):
            make_strategy(thing)  # type: ignore[arg-type]


@pytest.mark.usefixtures("everything")
@pytest.mark.parametrize(
    ("settings", "fields"),
    [
        ([], {}),
        (["count=3"], {"count": 3}),
        (["count = -3", "share=1e-3"], {"count": -3, "share": 0.001}),
        (["share=1"], {"share": 1.0}),
        (["fast=true"], {"fast": True}),
        (["fast=False"], {"fast": False}),
        (["order=best"], {"order": "best"}),
        (["note=a=b"], {"note": "a=b"}),
        (["note="], {"note": ""}),
    ],
)
def test_fields_get_their_types(settings: list[str], fields: dict[str, Any]) -> None:
    parsed = parse_fields("Everything", settings)
    assert parsed == fields
    assert [type(value) for value in parsed.values()] == [type(value) for value in fields.values()]
    make_strategy("everything", **parsed)


def test_dashes_are_underscores() -> None:
    assert parse_fields("best-of-n", ["num-samples=4"]) == {"num_samples": 4}


@pytest.mark.usefixtures("everything")
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("count", "a strategy setting is written field=value, got 'count'"),
        ("count=2.5", "count must be a whole number, got '2.5'"),
        ("count=", "count must be a whole number, got ''"),
        ("share=half", "share must be a number, got 'half'"),
        ("fast=1", "fast must be true or false, got '1'"),
        ("order=last", "order must be one of first, best, got 'last'"),
        ("=3", "unknown field of everything ''"),
    ],
)
def test_settings_that_are_not_allowed(setting: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_fields("everything", [setting])


def test_nothing_is_set_twice() -> None:
    with pytest.raises(UsageError, match="num_samples is set twice, to '1' and '2'"):
        parse_fields("best-of-n", ["num_samples=1", "num-samples=2"])


@pytest.mark.parametrize("name", STRATEGIES)
def test_breadths_can_be_set(name: str) -> None:
    breadth = breadth_of(make_strategy(name))
    assert (breadth is None) == (name in ("auto", "budget-forcing", "probtree"))
    if breadth is not None:
        assert known_fields(name)[breadth] is int


def test_a_wrapper_has_the_breadth_of_what_it_wraps() -> None:
    assert breadth_of(make_strategy("esc", inner="mcts")) == "iterations"
    assert breadth_of(make_strategy("esc", inner="auto")) is None
