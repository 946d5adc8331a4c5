"""`reason bench`: recordings of token streams, replays of drafting over them, draft trees, and what drafting gains."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reason.cli import options
from reason.cli.errors import exit_on_error
from reason.cli.tables import print_tables
from reason.errors import UsageError

if TYPE_CHECKING:
    from reason.engine.local import LocalEngine

__all__ = ["app"]

app = typer.Typer(name="bench", help="Record and replay token streams, measure drafting.", no_args_is_help=True)

_Data = Annotated[Path | None, typer.Option(help="Folder with the tasks' data.", show_default="REASON_DATA or the hub")]
_Recording = Annotated[Path, typer.Argument(metavar="FILE.npz", help="What `reason bench record` wrote.")]
_Problems = Annotated[
    int | None, typer.Option(min=1, help="At most so many problems, spread evenly.", show_default="all")
]
_Samples = Annotated[
    int | None, typer.Option(min=1, help="At most so many samples of each problem.", show_default="all")
]


@app.command("record")
@exit_on_error()
def record(
    tasks: Annotated[
        list[str], typer.Argument(metavar="TASK...", help="Tasks (see `reason eval --list`) or files of JSON lines.")
    ],
    out: Annotated[Path, typer.Option(help="The file to write, .npz.", show_default=False)],
    model: options.Model = None,
    data: _Data = None,
    problems: Annotated[int, typer.Option(min=1, help="Problems, split evenly over the tasks.")] = 40,
    samples: Annotated[int, typer.Option(min=1, help="Samples of each problem.")] = 16,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.8,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of each sample.")] = 512,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    threads: options.Threads = None,
) -> None:
    """Sample problems and keep every token with the likeliest tokens of its row, to replay drafting without a model.

    Ctrl-C ends it and leaves no file.
    """
    from reason.report.recording_run import RecordingProgress, check_out, load_tasks, make_recording, save_recording

    check_out(out, ending=".npz")
    loaded = load_tasks(tasks, data=data, problems=problems)
    engine = _load_engine(model, device=device, dtype=dtype, threads=threads, draft="none")
    try:
        with _counting(problems) as step:

            def told(progress: RecordingProgress) -> None:
                step(f"{progress.tokens} tokens, {progress.tokens / progress.seconds:.0f} tokens/s")

            recording = asyncio.run(
                make_recording(
                    engine,
                    loaded,
                    num_samples=samples,
                    temperature=temperature,
                    max_tokens=max_tokens,
                    on_progress=told,
                )
            )
    finally:
        engine.close()
    save_recording(recording, out)
    tokens = sum(len(sample.tokens) for _, sample in recording.samples())
    typer.echo(f"{len(recording.problems)} problems, {problems * samples} samples, {tokens} tokens in {out}")


@app.command("replay")
@exit_on_error()
def replay(
    streams: Annotated[
        Path, typer.Argument(metavar="FILE", help="A recording (.npz), or traces (.jsonl, .jsonl.gz) with token ids.")
    ],
    source: Annotated[
        list[str] | None,
        typer.Option(help="A draft source or several joined by +; again for more.", show_default="auto"),
    ] = None,
    rule: Annotated[str, typer.Option(help="coupled, match; or iid, k-seq, without-replacement.")] = "coupled",
    nodes: Annotated[
        list[int] | None, typer.Option(min=1, help="Draft nodes a branch; again for more.", show_default="8")
    ] = None,
    samples: _Samples = None,
    problems: _Problems = None,
    history: Annotated[
        str | None, typer.Option(metavar="0,1,3", help="Measure one sample after so many others.", show_default=False)
    ] = None,
    side_by_side: Annotated[
        bool, typer.Option("--side-by-side/--in-turn", help="How the samples of a problem come.")
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh/--keep", help="Whether what was learnt is forgotten between problems.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Replay recorded streams through draft sources: tokens and nodes a step, and the share of nodes that stood."""
    from reason.report.replay_tables import (
        after_history,
        check_replay,
        load_streams,
        measure_replay,
        replay_table,
        select,
    )
    from reason.speculate.sources import AUTO

    counts = _numbers(history)
    if counts and side_by_side:
        raise UsageError("--history measures one sample at a time, which --side-by-side has no meaning for")
    recording = load_streams(streams)
    sources = [AUTO if name == "auto" else name for name in source or ["auto"]]
    check_replay(recording, sources, rule=rule, plain=fresh and not counts)
    recording = select(recording, problems=problems, samples=samples)
    parts = {count: after_history(recording, count, max(counts)) for count in counts}
    histories: list[int | None] = [*counts] or [None]
    settings = [(name, size, count) for name in sources for size in nodes or [8] for count in histories]
    rows = []
    with _counting(len(settings)) as step:
        for name, size, count in settings:
            rows.append(
                measure_replay(
                    recording if count is None else parts[count],
                    name,
                    nodes=size,
                    rule=rule,
                    side_by_side=side_by_side,
                    fresh=fresh,
                    history=count,
                )
            )
            step(f"{name}, {size} nodes")
    if as_json:
        typer.echo(json.dumps([row.as_dict() for row in rows], indent=1))
        return
    kept = "" if fresh else ", what was learnt is kept"
    note = f"{rows[0].problems} problems, {rows[0].samples} samples {rows[0].order}, rule {rows[0].rule}{kept}"
    print_tables([replay_table(recording.model, rows, note)])


@app.command("tree")
@exit_on_error()
def tree(
    recording: _Recording,
    out: Annotated[Path, typer.Option(help="The file to write, .json.", show_default=False)],
    source: Annotated[str, typer.Option(help="The draft source that fills the tree.")] = "stand",
    nodes: Annotated[int, typer.Option(min=1, help="Its size.")] = 80,
    samples: _Samples = None,
    problems: _Problems = None,
) -> None:
    """Measure which nodes of a wide draft tree are accepted, and keep the best as a fixed tree."""
    from reason.report.recording_run import check_out
    from reason.report.replay_tables import check_replay, load_streams, measure_template, select
    from reason.speculate.policy import save_template

    check_out(out, ending=".json")
    streams = load_streams(recording)
    check_replay(streams, [source], rule="coupled")
    streams = select(streams, problems=problems, samples=samples)
    with _counting(len(streams.problems)) as step:
        template = measure_template(streams, source, nodes=nodes, on_problem=step)
    count = sum(1 for _ in streams.samples())
    save_template(out, template, f"{source} on {count} samples of {len(streams.problems)} problems by {streams.model}")
    typer.echo(f"{len(template)} nodes, {max(map(len, template))} deep, in {out}")


@app.command("speculate")
@exit_on_error()
def speculate(
    model: options.Model = None,
    data: _Data = None,
    recording: Annotated[
        Path | None, typer.Option(metavar="FILE.npz", help="Also replay this recording.", show_default=False)
    ] = None,
    draft: Annotated[str, typer.Option(help="The drafts that are compared with none.")] = "auto",
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    threads: options.Threads = None,
    quick: Annotated[bool, typer.Option("--quick", help="A little of everything, to see that it works.")] = False,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Of everything, with and without drafts.", show_default="3, or 1 if quick")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the figures to this folder.", show_default=False)] = None,
) -> None:
    """Measure what drafting gains: accepted tokens by source, tokens per second with and without, overhead.

    With --out it writes speculation.json and speculation.md, after each round with what is known by then.
    """
    from reason.loading import check_draft
    from reason.report.replay_tables import load_streams
    from reason.report.speculation import SpeculationReport, measure_sources, num_replays
    from reason.report.speed import FULL, QUICK, Speed, measure_speed, num_speeds
    from reason.tasks import load_task

    check_draft(draft)
    if draft == "none":
        raise UsageError("--draft none is what others are compared with; name a draft source, or auto")
    sizes = QUICK if quick else FULL
    sizes = replace(sizes, rounds=rounds or sizes.rounds)
    streams = None if recording is None else load_streams(recording)
    task = load_task("gsm8k", data=data, limit=sizes.problems)
    options = {"device": device, "dtype": dtype, "threads": threads, "quick": quick, "rounds": sizes.rounds}
    report = SpeculationReport(model=_model_name(model), draft=draft, options=options)

    def write() -> None:
        if out is not None:
            report.write(out)

    write()  # before the work, to see that it can be
    if streams is not None:
        with _counting(num_replays(streams, quick=quick)) as step:
            report.replays = measure_sources(
                streams, quick=quick, on_row=lambda row: step(f"{row.source}, {row.nodes} nodes, {row.order}")
            )
        write()

    def load(drafting: str) -> LocalEngine:
        return _load_engine(model, device=device, dtype=dtype, threads=threads, draft=drafting)

    with _counting(num_speeds(sizes)) as step:

        def told(speed: Speed) -> None:
            report.speeds.append(speed)
            step(f"{speed.workload}, {speed.draft}: {speed.tokens_per_second:.1f} tokens/s")
            if len(report.speeds) % (num_speeds(sizes) // sizes.rounds) == 0:
                write()

        measure_speed(load, [example.problem for example in task.examples], draft, sizes, told)
    print_tables(report.tables())
    if out is not None:
        typer.echo(f"figures in {out}")


def _model_name(model: str | None) -> str:
    from reason.models import default_model

    return model or default_model()


def _load_engine(model: str | None, *, device: str, dtype: str, threads: int | None, draft: str) -> LocalEngine:
    from reason.engine.local import LocalEngine
    from reason.models import resolve

    found = resolve(model)
    return LocalEngine.load(found.folder, name=found.name, device=device, dtype=dtype, threads=threads, draft=draft)


def _numbers(text: str | None) -> list[int]:
    """0,1,3 as numbers."""
    parts = [] if text is None else text.split(",")
    if not all(part.strip().isdigit() for part in parts):
        raise UsageError(f"--history takes numbers with commas between them (0,1,3,7,15), got {text!r}")
    return [int(part) for part in parts]


@contextlib.contextmanager
def _counting(total: int) -> Iterator[Callable[[str], None]]:
    """Counts what is done, on standard error: a bar on a terminal, else a line each."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        done = 0

        def print_line(what: str) -> None:
            nonlocal done
            done += 1
            print(f"{done}/{total}  {what}", file=sys.stderr, flush=True)

        yield print_line
        return
    columns = (BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.description}", markup=False), console=console, transient=True) as bars:
        bar = bars.add_task("", total=total)
        yield lambda what: bars.update(bar, advance=1, description=what)
