"""`reason strategies`."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import TYPE_CHECKING

import pytest

from reason.cli.strategies import field_docs, markdown_table
from reason.search.strategies import STRATEGIES
from reason.search.strategies.about import ABOUT

if TYPE_CHECKING:
    from tests.cli.conftest import Reason


def test_every_strategy_is_described() -> None:
    assert set(ABOUT) == set(STRATEGIES)


def test_they_are_listed(reason: Reason) -> None:
    result = reason("strategies", env={"COLUMNS": "160"})
    assert (result.exit_code, result.stderr) == (0, "")
    for name, about in ABOUT.items():
        assert any(name in line and about.source in line for line in result.stdout.splitlines())
    assert [each["name"] for each in json.loads(reason("strategies", "--json").stdout)] == list(ABOUT)
    assert reason("strategies", "--markdown").stdout.strip() == markdown_table()


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_every_field_says_what_it_is(reason: Reason, name: str) -> None:
    docs = field_docs(STRATEGIES[name])
    assert [each.name for each in fields(STRATEGIES[name]) if not docs.get(each.name)] == []
    result = reason("strategies", name, "--json")
    assert result.exit_code == 0
    shown = json.loads(result.stdout)
    assert [each["name"] for each in shown["fields"]] == [each.name for each in fields(STRATEGIES[name]) if each.init]
    assert all(each["what"] for each in shown["fields"])


def test_an_unknown_one_is_named(reason: Reason) -> None:
    result = reason("strategies", "bean")
    assert result.exit_code == 2
    assert "beam" in result.stderr
