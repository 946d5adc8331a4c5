"""`reason solve`: one problem from the command line."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reason.cli import options
from reason.cli.errors import exit_on_error
from reason.cli.model_options import ModelOptions, with_model_options
from reason.cli.printing import print_json
from reason.errors import UsageError
from reason.types import Budget, Engine, Problem, Solution

if TYPE_CHECKING:
    from reason.search.driver import AnyRun
    from reason.search.tree import Strategy

__all__ = ["solve"]

_MAX_PROBLEM_BYTES = 1 << 20


@exit_on_error()
@with_model_options
def solve(
    problem: Annotated[
        str | None, typer.Argument(help='The problem\'s text; "-" reads standard input.', show_default=False)
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="Read the problem from this file.", show_default=False)
    ] = None,
    test: Annotated[
        list[str] | None,
        typer.Option(
            metavar="'assert f(2) == 3'",
            help="Ask for a Python function, and this is a test of it, for --set verifier=public-tests and the like.",
            show_default=False,
        ),
    ] = None,
    strategy: options.StrategyName = "best-of-n",
    setting: options.Settings = None,
    model: options.Model = None,
    max_policy_tokens: Annotated[
        int | None, typer.Option(help="Stop after so many generated tokens.", show_default=False)
    ] = None,
    max_seconds: Annotated[float | None, typer.Option(help="Stop after so many seconds.", show_default=False)] = None,
    max_kv_tokens: Annotated[
        int | None, typer.Option(help="Hold at most so many KV tokens.", show_default=False)
    ] = None,
    max_calls: Annotated[int | None, typer.Option(help="Make at most so many expansions.", show_default=False)] = None,
    max_thinking_tokens: options.MaxThinkingTokens = None,
    seed: options.Seed = 0,
    trace: Annotated[
        Path | None,
        typer.Option(
            help="Write the search tree to this file; go on from it if it was interrupted.", show_default=False
        ),
    ] = None,
    loading: ModelOptions = ModelOptions(),  # noqa: B008
    unsafe_exec: options.UnsafeExec = False,
    live: Annotated[bool, typer.Option("--live", help="Show the tree growing.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Solve one problem with one search over a local model, or over one that a server runs (--base-url).

    Ctrl-C ends the search and prints the best answer so far.
    """
    text = read_problem(problem, file)
    asked: str | Problem = text
    if test:
        from reason.tasks.code import code_problem

        asked = code_problem(text, test)
    from reason.api import Solver
    from reason.search.driver import check_budget
    from reason.search.measuring import find_verifiers
    from reason.search.strategies import for_budget, make_strategy, parse_fields

    fields = parse_fields(strategy, setting or [])
    budget = Budget(policy_tokens=max_policy_tokens, seconds=max_seconds, kv_tokens=max_kv_tokens, calls=max_calls)
    check_budget(budget)
    made = make_strategy(strategy, **for_budget(strategy, fields, budget))
    find_verifiers(made)  # before the model is loaded
    with Solver(model, **loading.as_dict()) as solver:
        start = functools.partial(
            solver.start,
            asked,
            strategy,
            budget=budget,
            seed=seed,
            journal=trace,
            max_thinking_tokens=max_thinking_tokens,
            **fields,
        )
        solution = asyncio.run(_solve(start, budget if live and not as_json else None))
        measured = measure_names(made, solver.engine)
    if as_json:
        print_json(solution.as_dict())
    else:
        print_solution(solution, made, measured, planned=loading.plan is not None)


def read_problem(problem: str | None, file: Path | None) -> str:
    """The problem's text from where the user says it is.

    Raises:
        UsageError: none or two places were named, or there is no readable text there.
    """
    if (problem is None) == (file is None):
        raise UsageError('give the problem as text, as "-" for standard input, or with --file, and only one of them')
    try:
        if file is not None:
            with file.open("rb") as stream:
                data = stream.read(_MAX_PROBLEM_BYTES + 1)
        elif problem == "-":
            stdin = getattr(sys.stdin, "buffer", None)  # there is none when the process was started without
            data = stdin.read(_MAX_PROBLEM_BYTES + 1) if stdin is not None else b""
        else:
            data = (problem or "").encode("utf-8", "surrogateescape")
    except OSError as error:
        raise UsageError(f"cannot read {file or 'standard input'}: {error.strerror}") from None
    if len(data) > _MAX_PROBLEM_BYTES:
        raise UsageError(f"the problem is longer than {_MAX_PROBLEM_BYTES >> 20} MiB")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise UsageError(f"{file or 'the problem'} is not UTF-8 text") from None
    if not text.strip():
        raise UsageError("the problem is empty; give some text")
    return text


async def _solve(start: Callable[[], AnyRun], shown: Budget | None) -> Solution:
    """Runs the search; the first Ctrl-C ends it with the best answer so far, the second ends the process.

    Args:
        shown: the budget to show the tree growing with; None shows nothing.
    """
    run = start()
    loop = asyncio.get_running_loop()

    def interrupt() -> None:
        run.interrupt()
        loop.remove_signal_handler(signal.SIGINT)

    with contextlib.suppress(NotImplementedError, RuntimeError):  # Windows, not the main thread: Ctrl-C raises
        loop.add_signal_handler(signal.SIGINT, interrupt)
    try:
        if shown is None:
            return await run.solve()
        from reason.cli.live import watch

        return await watch(run, shown)
    finally:
        with contextlib.suppress(NotImplementedError, RuntimeError):
            loop.remove_signal_handler(signal.SIGINT)


def measure_names(strategy: Strategy, engine: Engine) -> list[str]:
    """The verifiers and embedders that a strategy asks; of those that were chosen for the engine, that they were."""
    from reason.types import capabilities_of
    from reason.verifiers import meant_by

    meant = {name: meant_by(name, engine.name, capabilities_of(engine)) for name in strategy.measures}
    return [found if found == name else f"{found} (auto)" for name, found in meant.items()]


def print_solution(
    solution: Solution, strategy: Strategy, measured: Sequence[str] = (), *, planned: bool = False
) -> None:
    """The answer, the text it stands in, and the ledger.

    Args:
        measured: what the strategy asked verifiers and embedders for, by name.
        planned: a small model was to answer first.
    """
    from rich.console import Console
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    from reason.cli.grains import print_grains
    from reason.cli.live import plain
    from reason.search.strategies.decoding import layers

    console = Console()
    inside: list[Any] = list(layers(strategy))
    if solution.text:
        console.print(
            Panel(Text(plain(solution.text).strip()), title="reasoning", title_align="left", border_style="dim")
        )
    answer = Text("answer  ", style="bold")
    if solution.answer is None:
        answer.append("none found", style="yellow")
    else:
        answer.append(plain(solution.answer), style="bold green")
        if len(solution.candidates) > 1 and getattr(inside[-1], "select", "majority") != "last":  # several had a vote
            answer.append(f"  (confidence {solution.confidence:.0%})", style="dim")
    console.print(answer)
    if solution.stopped_by != "done":
        console.print(Text(f"stopped by {solution.stopped_by.replace('_', ' ')}", style="yellow"))
    usage = solution.usage
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(justify="right")
    rate = usage.policy_tokens / usage.seconds if usage.seconds else 0.0
    for name, value in (
        ("model", solution.model),
        ("strategy", ", ".join([solution.strategy, *(layer.chosen for layer in inside if hasattr(layer, "chosen"))])),
        *([("verifier", ", ".join(measured))] if measured else []),
        ("prompt tokens", f"{usage.prompt_tokens:,}"),
        ("generated tokens", f"{usage.policy_tokens:,}"),
        ("forwards", f"{usage.forwards:,}"),
        ("unique KV tokens, peak", f"{usage.unique_kv_tokens_peak:,}"),
        ("seconds", f"{usage.seconds:.1f}  ({rate:.0f} tokens/s)"),
    ):
        table.add_row(name, value)
    console.print(table)
    print_grains(console, usage.as_dict(), planned=int(planned))
