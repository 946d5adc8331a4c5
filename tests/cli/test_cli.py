"""`reason` itself: help, version, ways to start it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import reason as package

if TYPE_CHECKING:
    from tests.cli.conftest import Reason

CONSOLE_SCRIPT = Path(sys.executable).with_name("reason")


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help(reason: Reason, option: str) -> None:
    result = reason(option)
    assert result.exit_code == 0
    assert "solve" in result.stdout
    assert "models" in result.stdout
    assert result.stderr == ""


def test_help_of_solve_names_every_option(reason: Reason) -> None:
    result = reason("solve", "--help", env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"})
    assert result.exit_code == 0
    for option in (
        "--file",
        "--strategy",
        "--set",
        "--model",
        "--max-policy-tokens",
        "--max-seconds",
        "--max-kv-tokens",
    ):
        assert option in result.stdout
    for option in (
        "--max-calls",
        "--seed",
        "--device",
        "--dtype",
        "--quantize",
        "--kv-tokens",
        "--threads",
        "--draft",
        "--live",
    ):
        assert option in result.stdout


def test_version(reason: Reason) -> None:
    result = reason("--version")
    assert (result.exit_code, result.stdout) == (0, f"reason {package.__version__}\n")


def test_no_arguments_show_the_help(reason: Reason) -> None:
    result = reason()
    assert result.exit_code == 2
    assert "Usage" in result.output
    assert "solve" in result.output


@pytest.mark.parametrize("arguments", [("slove",), ("--nothing",), ("solve", "--seed", "x"), ("solve", "a", "b")])
def test_what_the_parser_refuses(reason: Reason, arguments: tuple[str, ...]) -> None:
    result = reason(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert "rror" in result.stderr


@pytest.mark.parametrize("command", [[str(CONSOLE_SCRIPT)], [sys.executable, "-m", "reason"]])
def test_ways_to_start_it(command: list[str], environment: dict[str, str]) -> None:
    if not Path(command[0]).is_file():
        pytest.skip("the console script is not installed")
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=60, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"reason {package.__version__}\n", "")


def test_mistakes_in_a_process_of_its_own(environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "reason", "solve", "1 + 1?", "--strategy", "beem"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: unknown strategy 'beem'")
    assert done.stderr.count("\n") == 1
