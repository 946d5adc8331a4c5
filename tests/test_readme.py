"""The README keeps its word: its example runs, and its tables list what the registries have."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from reason import api
from reason.cli.strategies import markdown_table
from reason.engine.scripted import ScriptedEngine
from reason.models import CATALOGUE
from reason.search.strategies import STRATEGIES
from reason.speculate.sources import DRAFT_MODEL, SOURCES
from reason.tasks import TASKS
from reason.verifiers import VERIFIERS

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_example_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def load(model: str | None, **options: Any) -> ScriptedEngine:
        return ScriptedEngine([r"2 and half of it: \boxed{3}"])

    monkeypatch.setattr(api, "_load", load)
    monkeypatch.setattr(api, "_warm", type(api._warm)())
    found = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert found is not None
    code = found.group(1)
    first_line = README[: found.start()].count("\n") + 2
    assert first_line < 30, "the example comes before line thirty"
    assert code.count("\n") < 12, "the example is under twelve lines"
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.startswith("3 ")


def test_the_table_of_strategies_is_the_generated_one() -> None:
    assert markdown_table() in README, "`reason strategies --markdown` prints it"


def test_the_tables_list_the_registries() -> None:
    cells = re.findall(r"^\| (`[^|]+`) \|", README, re.MULTILINE)
    names = [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]
    of_others = [f"{DRAFT_MODEL}:NAME", "prm:MODEL", "ensemble:A+B"]
    assert sorted(names) == sorted([*STRATEGIES, *VERIFIERS, *SOURCES, *of_others, *TASKS, *CATALOGUE])
