"""The options of a model as one argument: what typer reads off a command, and what the command is given."""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from reason.api import Solver
from reason.cli import compare, eval, mcp, serve, solve
from reason.cli.model_options import ModelOptions, with_model_options
from reason.errors import UsageError

NAMES = [field.name for field in fields(ModelOptions)]


def test_a_command_takes_them_in_the_place_of_one_argument() -> None:
    given: list[tuple[int, ModelOptions, bool]] = []

    @with_model_options
    def command(
        count: Annotated[int, typer.Option()] = 1,
        loading: ModelOptions = ModelOptions(),  # noqa: B008
        last: Annotated[bool, typer.Option("--last")] = False,
    ) -> None:
        given.append((count, loading, last))

    assert list(inspect.signature(command).parameters) == ["count", *NAMES, "last"]
    app = typer.Typer()
    app.command()(command)
    for arguments in ([], ["--count", "2", "--threads", "3", "--base-url", "http://there", "--last"]):
        assert CliRunner().invoke(app, arguments).exit_code == 0
    assert given == [(1, ModelOptions(), False), (2, ModelOptions(threads=3, base_url="http://there"), True)]
    refused = CliRunner().invoke(app, ["--threads", "three"])
    assert refused.exit_code == 2
    assert not given[2:]


@pytest.mark.parametrize("command", [solve.solve, eval.evaluate, compare.compare, serve.serve, mcp.mcp])
def test_every_command_that_solves_has_them(command: object) -> None:
    parameters = inspect.signature(command).parameters  # type: ignore[arg-type]
    assert [name for name in parameters if name in NAMES] == NAMES


def test_they_are_the_solvers_own() -> None:
    own = inspect.signature(Solver).parameters
    assert {name: own[name].default for name in NAMES} == ModelOptions().as_dict()


def test_what_results_depend_on() -> None:
    assert ModelOptions(threads=2).of_results == {"device": "auto", "dtype": "auto", "quantize": None}
    served = ModelOptions(base_url="http://there", api_key_env="KEY", route="judge").of_results
    assert {name: served[name] for name in served.keys() - {"device", "dtype", "quantize"}} == {
        "route": "judge",
        "base_url": "http://there",
    }


def test_what_cannot_be_loaded_is_said_before_it_is() -> None:
    with pytest.raises(UsageError, match="no smaller model is known that shares its tokens with some-model"):
        ModelOptions(route="judge").check("some-model")
    ModelOptions(route="judge", small_base_url="http://there").check("some-model")
    with pytest.raises(UsageError, match="unknown draft source"):
        ModelOptions(draft="nothing-such").check(None)
