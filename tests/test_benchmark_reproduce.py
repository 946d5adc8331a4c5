"""The recorded commands are ones that the command line takes, so that none of them fails after an hour."""

from __future__ import annotations

import importlib.util
import random
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer.main

from reason.cli.main import app
from reason.fields import parse_settings
from reason.plan.speceyes import make_plan
from reason.report.sweep import make_settings, parse_strategies, parse_sweep
from reason.search.strategies import make_strategy, typed_fields

ROOT = Path(__file__).parents[1]


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


reproduce = script("reproduce")
COMMANDS = [
    (name, reproduce.words_of(command, data, Path("OUT")))
    for name, measurement in reproduce.MEASUREMENTS.items()
    for command in measurement.commands
    for data in (Path("DATA"), None)
]


def options(words: list[str]) -> dict[str, Any]:
    """What the command line makes of them."""
    command: Any = typer.main.get_command(app)
    while words and (child := getattr(command, "commands", {}).get(words[0])) is not None:
        command, words = child, words[1:]
    context = command.context_class(command, info_name="reason")
    return dict(command.make_parser(context).parse_args(list(words))[0])


def check_strategies(found: dict[str, Any]) -> None:
    """Raises where a name, a field or a value is not one."""
    common = parse_settings(found.get("setting") or ())
    if "strategies" in found:
        numbers = [int(each) for each in (found.get("budget_tokens") or "").split(",") if each]
        sweep = parse_sweep(found["sweep"]) if "sweep" in found else None
        assert make_settings(parse_strategies(found["strategies"]), sweep=sweep, budgets=numbers, common=common)
    elif "strategy" in found:
        make_strategy(found["strategy"], **typed_fields(found["strategy"], common))


@pytest.mark.parametrize(("name", "words"), COMMANDS)
def test_the_commands_are_ones_that_run(name: str, words: list[str]) -> None:
    assert "None" not in words
    if words[0] == "python":
        assert (ROOT / words[1]).is_file()
        return
    found = options(words)
    check_strategies(found)
    if plan := found.get("plan"):
        make_plan(plan)
    assert str(found["out"]).startswith("OUT"), "results of one measurement lie in its folder"


def test_mixed_problems_have_right_answers() -> None:
    mixed = script("mixed_problems")
    rows = mixed.drawn(mixed.for_tools, 60, random.Random(0))
    assert len({row["question"] for row in rows}) == 60
    by_question = {row["question"]: row["answer"] for row in rows}
    for question, answer in by_question.items():
        words = question.rstrip("?").split()
        if "times" in words:
            assert int(answer) == int(words[2]) * int(words[4])
        if "divisors" in words:
            assert int(answer) == len([d for d in range(1, int(words[-2]) + 1) if int(words[-2]) % d == 0])
        if "prime" in words:
            below = int(words[-1])
            assert int(answer) == sum(all(n % d for d in range(2, n)) for n in range(2, below + 1))
