"""`reason compress`: recorded reasoning traces, each to the steps that its solution needs."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from reason.cli import options as opt
from reason.cli.errors import exit_on_error
from reason.cli.printing import print_json
from reason.cli.running import clock
from reason.cli.tables import print_tables
from reason.errors import ReasonError, UsageError

if TYPE_CHECKING:
    from reason.compress.compressor import Compression, CompressOptions, Compressor
    from reason.compress.job import Job
    from reason.compress.out_file import OutFile

__all__ = ["compress"]

_LINE_SECONDS = 15.0
_ACCEPTED = ("validated", "unchecked")


@exit_on_error()
def compress(
    file: Annotated[Path, typer.Argument(help="Recorded traces: JSON lines (.jsonl, .jsonl.gz).", show_default=False)],
    out: Annotated[
        Path,
        typer.Option(help="The file to write, JSON lines; traces that are in it are passed over.", show_default=False),
    ],
    problem_field: Annotated[
        str | None, typer.Option(help="The field with the problem.", show_default="problem or question")
    ] = None,
    trace_field: Annotated[
        str | None,
        typer.Option(help="The field with the trace, e.g. samples.0.text.", show_default="trace or text"),
    ] = None,
    solution_field: Annotated[
        str | None,
        typer.Option(
            help="The field with the reference solution.", show_default="solution, or what follows the thinking"
        ),
    ] = None,
    answer_field: Annotated[
        str | None, typer.Option(help="The field with the right answer.", show_default="answer, if there is one")
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(metavar="FIELD", help="Only rows where this field is true, e.g. correct.", show_default=False),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many traces.", show_default="all")] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="A catalogue name, a folder, a GGUF file or a hub id: for the costs and the validation.",
            show_default="the default model",
        ),
    ] = None,
    scorer: Annotated[
        str | None,
        typer.Option(help="The model that the importance of steps is read from.", show_default="that of --model"),
    ] = None,
    sink: Annotated[
        bool, typer.Option("--sink", help="Keep the scorer's attention sink out of the importance (see docs).")
    ] = False,
    alpha: Annotated[float, typer.Option(help="Weight of the solution beside the question in the importance.")] = 0.5,
    beta: Annotated[float, typer.Option(help="Weight of the thought's cost beside the solution's.")] = 0.1,
    k_min: Annotated[int, typer.Option(help="Iterations before the first validation.")] = 5,
    k_max: Annotated[int, typer.Option(help="Iterations after which the whole trace is kept.")] = 20,
    branching: Annotated[int, typer.Option("--branching", "-W", help="Spans that an iteration compares.")] = 2,
    validate: Annotated[
        bool,
        typer.Option("--validate/--no-validate", help="Whether the model must reach the answer from what is kept."),
    ] = True,
    validator_tokens: Annotated[int, typer.Option(help="Of a sample that validates, at most.")] = 1024,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal samples.")] = 0,
    concurrency: Annotated[int, typer.Option(min=1, help="Traces that are searched at once.")] = 4,
    device: opt.Device = "auto",
    dtype: opt.Dtype = "auto",
    kv_tokens: opt.KvTokens = None,
    threads: opt.Threads = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start anew where --out has traces.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object.")] = False,
) -> None:
    """Leave out of reasoning traces the steps that their solutions do not need (A*-Thought), for training data.

    Ctrl-C ends it with what is done; the same command goes on from there.
    """
    from reason.compress.compressor import CompressOptions, Compressor
    from reason.compress.out_file import OutFile
    from reason.compress.traces import TraceFields, read_traces

    options = CompressOptions(
        k_min=k_min,
        k_max=k_max,
        branching=branching,
        beta=beta,
        alpha=alpha,
        validator_tokens=validator_tokens,
        seed=seed,
    )
    fields = TraceFields(problem=problem_field, trace=trace_field, solution=solution_field, answer=answer_field)
    jobs = read_traces(file, fields, only=only, limit=limit)
    settings = {
        "model": _name(model),
        "scorer": _name(scorer or model),
        "sink": sink,
        "dtype": dtype,
        "trace": trace_field,
        "validate": validate,
        **vars(options),
    }
    done = OutFile(out, settings, overwrite=overwrite)
    _check_same(jobs, done)
    left = {name: job for name, job in jobs.items() if name not in done.rows}
    run = _Run(jobs, done)
    interrupted = False
    if left:
        compressor = Compressor(
            model,
            scorer,
            validator="model" if validate else None,
            sink=sink,
            device=device,
            dtype=dtype,
            kv_tokens=kv_tokens,
            threads=threads,
        )
        with compressor:
            interrupted = asyncio.run(_run_watched(run, compressor, left, options, concurrency))
    summary = run.summary()
    if as_json:
        print_json(summary)
    elif summary["traces"]:
        _print_summary(summary, out)
    if interrupted:
        print(
            f"interrupted: {summary['traces']} of {len(jobs)} traces are done; the same command goes on from there",
            file=sys.stderr,
            flush=True,
        )
        raise typer.Exit(130)
    if run.failed:
        print(f"error: {run.failed} of {len(jobs)} traces failed; the same command tries them again", file=sys.stderr)
        raise typer.Exit(1)


def _name(model: str | None) -> str:
    """As the catalogue spells it."""
    from reason.models import CATALOGUE, default_model

    name = model or default_model()
    return CATALOGUE[name.lower()].name if name.lower() in CATALOGUE else name


def _check_same(jobs: Mapping[str, Job], done: OutFile) -> None:
    """Whether the rows that are done are of these traces.

    Raises:
        UsageError: one has another problem, solution or trace under its id.
    """
    for name, job in jobs.items():
        own = job.as_row()
        row = done.rows.get(name, own)
        changed = [key for key, value in own.items() if row.get(key) != value]
        if changed:
            raise UsageError(
                f"{done.file} has another trace under the id {name} (its {' and '.join(changed)}): use another --out, "
                "or --overwrite to start anew"
            )


class _Run:
    """What is done of a command's traces."""

    def __init__(self, jobs: Mapping[str, Job], out: OutFile) -> None:
        self._jobs, self._out = jobs, out
        self.failed = 0

    @property
    def total(self) -> int:
        return len(self._jobs)

    @property
    def done(self) -> int:
        return len(self.rows())

    def rows(self) -> list[dict[str, Any]]:
        """In the file's order."""
        return [self._out.rows[name] for name in self._jobs if name in self._out.rows]

    def add(self, name: str, result: Compression | ReasonError) -> str:
        """Writes a result down; returns what to say of it."""
        if isinstance(result, ReasonError):
            self.failed += 1
            return f"{name}: failed: {result}"
        self._out.append({"id": name, **self._jobs[name].as_row(), **result.as_dict()})
        sizes = (
            f"{len(result.steps)} -> {len(result.kept)} steps, {result.tokens_before} -> {result.tokens_after} tokens"
        )
        return f"{name}: {sizes}, {result.ended}, {result.usage.seconds:.1f} s"

    def summary(self) -> dict[str, Any]:
        """Figures over all rows that are done, earlier sittings' too."""
        rows = self.rows()
        before, after = (sum(row[key] for row in rows) for key in ("tokens_before", "tokens_after"))
        ended = [row["ended"] for row in rows]
        count = max(1, len(rows))
        accepted = sum(each in _ACCEPTED for each in ended)
        return {
            "traces": len(rows),
            "total": self.total,
            "failed": self.failed,
            "mean_steps": sum(len(row["steps"]) for row in rows) / count,
            "mean_kept": sum(len(row["kept"]) for row in rows) / count,
            "tokens_before": before,
            "tokens_after": after,
            "accepted": accepted,
            "accepted_share": accepted / count,
            "ended": {kind: ended.count(kind) for kind in dict.fromkeys(ended)},
            "seconds": sum(row["usage"]["seconds"] for row in rows),
            **{key: sum(row["usage"][key] for row in rows) for key in ("policy_tokens", "verifier_tokens")},
            "model": rows[0]["model"] if rows else None,
            "scorer": rows[0]["scorer"] if rows else None,
        }


# -- running -----------------------------------------------------------------------------------------------------------


async def _run_watched(
    run: _Run, compressor: Compressor, left: Mapping[str, Job], options: CompressOptions, concurrency: int
) -> bool:
    """Compresses what is left; the first Ctrl-C ends it, the second ends the process. True if it was interrupted."""
    from reason.compress.batch import compress_all

    loop = asyncio.get_running_loop()
    with _view(run) as view:
        work = asyncio.ensure_future(
            compress_all(
                compressor,
                left,
                options,
                concurrency=concurrency,
                on_done=lambda name, result: view.done(run.add(name, result)),
                on_stage=view.stage,
            )
        )
        stopped = False

        def interrupt() -> None:
            nonlocal stopped
            stopped = True
            work.cancel()
            loop.remove_signal_handler(signal.SIGINT)

        with contextlib.suppress(NotImplementedError, RuntimeError):  # Windows, not the main thread: Ctrl-C raises
            loop.add_signal_handler(signal.SIGINT, interrupt)
        try:
            await work
        except asyncio.CancelledError:
            if not stopped:
                raise
        finally:
            with contextlib.suppress(NotImplementedError, RuntimeError):
                loop.remove_signal_handler(signal.SIGINT)
        return stopped


class _View(Protocol):
    """Shows how far a run is."""

    def stage(self, name: str, stage: str) -> None: ...

    def done(self, line: str) -> None: ...


@contextlib.contextmanager
def _view(run: _Run) -> Iterator[_View]:
    """On standard error, so that pipes stay clean: a bar on a terminal, else lines."""
    from rich.console import Console

    console = Console(stderr=True)
    if run.done:
        print(f"{run.done} of {run.total} traces were done before", file=sys.stderr, flush=True)
    if not console.is_terminal:
        yield _Lines(run)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.description}", markup=False), console=console, transient=True) as bars:
        yield _Bar(run, bars)


class _Bar:
    def __init__(self, run: _Run, bars: Any) -> None:
        self._run, self._bars = run, bars
        self._bar = bars.add_task("", total=run.total, completed=run.done)

    def stage(self, name: str, stage: str) -> None:
        self._bars.update(self._bar, description=_plain(f"{name}: {stage}"))

    def done(self, line: str) -> None:
        self._bars.console.print(_plain(line), markup=False, highlight=False, soft_wrap=True)
        self._bars.update(self._bar, completed=self._run.done)


class _Lines:
    def __init__(self, run: _Run) -> None:
        self._run = run
        self._began = self._last = time.perf_counter()

    def stage(self, name: str, stage: str) -> None:
        if time.perf_counter() - self._last >= _LINE_SECONDS:
            self._print(f"{name}: {stage}")

    def done(self, line: str) -> None:
        self._print(line)

    def _print(self, line: str) -> None:
        self._last = time.perf_counter()
        spent = clock(self._last - self._began)
        print(f"{self._run.done}/{self._run.total}  {spent}  {_plain(line)}", file=sys.stderr, flush=True)


def _plain(text: str) -> str:
    """Ids come from files: they do not steer the terminal."""
    from reason.cli.live import plain

    return " ".join(plain(text).split())


# -- printing ----------------------------------------------------------------------------------------------------------


def _print_summary(summary: Mapping[str, Any], out: Path) -> None:
    from reason.report.tables import Table

    before, after = summary["tokens_before"], summary["tokens_after"]
    ended = ", ".join(f"{count} {kind}" for kind, count in summary["ended"].items())
    rows: Sequence[tuple[str, str]] = (
        ("traces", f"{summary['traces']}"),
        ("mean steps", f"{summary['mean_steps']:.1f} -> {summary['mean_kept']:.1f}"),
        ("tokens", f"{before:,} -> {after:,} ({after / before:.1%})"),
        ("accepted", f"{summary['accepted_share']:.1%} ({ended})"),
        ("generated tokens", f"{summary['policy_tokens']:,}"),
        ("tokens read", f"{summary['verifier_tokens']:,}"),
        ("seconds", f"{summary['seconds']:,.1f}"),
    )
    title = f"{summary['model']}, scorer {summary['scorer']}"
    print_tables([Table(title=title, headings=("", "in all"), rows=rows, note=f"compressed traces in {out}")], bright=1)
