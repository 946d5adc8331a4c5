"""Replays of recorded streams, measured: what each source would have drafted, and how much of it stood.

Figures are sums over sums with bootstrap intervals over problems, because what is sampled from one problem is alike.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from reason.errors import UsageError
from reason.report.tables import Quotient, Table, quotient
from reason.speculate.draft import Template
from reason.speculate.policy import Fixed, Goodput, NodeCounts, wide_template
from reason.speculate.recording import Recording
from reason.speculate.replay import Replayed, replay, replay_rejection
from reason.speculate.rules import make_rule
from reason.speculate.sources import make_source
from reason.speculate.speculator import Speculator
from reason.speculate.traces import load_traces

__all__ = [
    "ReplayRow",
    "after_history",
    "check_replay",
    "load_streams",
    "measure_replay",
    "measure_template",
    "replay_table",
    "select",
]

REJECTING = ("iid", "k-seq", "without-replacement")
"""Rules whose replays draw children and flip coins again; see ``replay_rejection``."""

FOLLOWING = ("coupled", "match")
"""Rules under which the recorded tokens decide."""

LEARN_FROM_ROWS = ("stand", "token-recycling")
"""Sources that learn from the model's rows and from nothing else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayRow:
    """One source under one setting.

    Args:
        nodes: the budget of draft nodes a branch and step; fewer are drafted where there are fewer candidates.
        order: how the samples of a problem came.
        history: samples that were there before the one that was measured; None if all were measured.
        samples: measured ones, over all problems.
        tokens_per_step: the bonus included.
        utilisation: accepted nodes among the drafted.
    """

    source: str
    rule: str
    nodes: int
    order: str
    history: int | None
    problems: int
    samples: int
    steps: int
    tokens_per_step: Quotient
    nodes_per_step: Quotient
    utilisation: Quotient

    def as_dict(self) -> dict[str, Any]:
        """JSON-able, intervals as pairs."""
        return asdict(self)


def load_streams(file: Path) -> Recording:
    """A recording (.npz), or traces.

    Raises:
        UsageError: it is neither.
    """
    if file.suffix != ".npz":
        return load_traces(file)
    if file.is_file() and not zipfile.is_zipfile(file):
        raise UsageError(f"{file} is not a recording made by `reason bench record`: it is torn, or something else")
    return Recording.load(file)


def select(recording: Recording, *, problems: int | None = None, samples: int | None = None) -> Recording:
    """A part of a recording: so many problems, spread evenly over those there are, and the first samples of each."""
    there = recording.problems
    count = min(problems or len(there), len(there))
    chosen = [there[i * len(there) // count] for i in range(count)]
    return replace(recording, problems=tuple(replace(p, samples=p.samples[:samples]) for p in chosen))


def after_history(recording: Recording, history: int, measured: int) -> Recording:
    """Of each problem sample number ``measured`` behind the first ``history`` ones, so that the same sample can be
    measured after more and fewer of them. Problems with fewer samples are left out.

    Raises:
        UsageError: all are.
    """
    assert 0 <= history <= measured
    problems = [p for p in recording.problems if len(p.samples) > measured]
    if not problems:
        most = max((len(p.samples) for p in recording.problems), default=0)
        raise UsageError(f"no problem has {measured} samples and one more to measure after them; the most is {most}")
    chosen = tuple(replace(p, samples=(*p.samples[:history], p.samples[measured])) for p in problems)
    return replace(recording, problems=chosen)


def check_replay(recording: Recording, sources: Sequence[str], *, rule: str, plain: bool = True) -> None:
    """Whether these sources can be replayed under a rule. ``plain`` is whether problems are fresh and have no history.

    Raises:
        UnknownName: no such source or rule.
        UsageError: they cannot; the message says why.
    """
    rule = make_rule(rule).name
    if rule not in (*FOLLOWING, *REJECTING):
        raise UsageError(f"rule {rule!r} is not replayed; {', '.join((*FOLLOWING, *REJECTING))} are")
    for source in sources:
        make_source(source)
        blind = [part for part in source.lower().split("+") if part.strip() in LEARN_FROM_ROWS]
        if blind and not recording.has_rows:
            raise UsageError(
                f"{blind[0]} learns from the model's rows, and these streams have tokens only: use sources that learn "
                f"from tokens (suffix, lookup, goose, retrieval), or a recording made by `reason bench record`"
            )
        if rule in REJECTING and source != "stand":
            raise UsageError(f"rule {rule!r} is replayed for the source 'stand' alone, got {source!r}")
    if rule in REJECTING and not plain:
        raise UsageError(f"rule {rule!r} is replayed with fresh problems and no history")


def measure_replay(
    recording: Recording,
    source: str,
    *,
    nodes: int,
    rule: str = "coupled",
    side_by_side: bool = False,
    fresh: bool = True,
    history: int | None = None,
) -> ReplayRow:
    """Replays a recording with a source; see ``replay``. The rejection rules draw in a fixed tree of ``nodes`` nodes,
    the others rank the best nodes."""
    made, found = make_source(source), make_rule(rule)
    if found.name in REJECTING:
        counts = replay_rejection(recording, made, found, wide_template(nodes=nodes), side_by_side=side_by_side)
    else:
        speculator = Speculator(made, rule=rule, policy=Goodput(nodes=nodes))
        counts = replay(recording, speculator, side_by_side=side_by_side, fresh=fresh, history=history or 0)
    return ReplayRow(
        source=source,
        rule=found.name,
        nodes=nodes,
        order="side by side" if side_by_side else "in turn",
        history=history,
        problems=len(counts),
        samples=sum(len(problem.samples) - (history or 0) for problem in recording.problems),
        steps=sum(count.steps for count in counts),
        tokens_per_step=_over(counts, lambda count: count.tokens, lambda count: count.steps),
        nodes_per_step=_over(counts, lambda count: count.nodes, lambda count: count.steps),
        utilisation=_over(counts, lambda count: count.accepted, lambda count: count.nodes),
    )


def measure_template(
    recording: Recording, source: str, *, nodes: int, on_problem: Callable[[str], None] | None = None
) -> Template:
    """The data-driven tree of at most ``nodes`` nodes for a source: those of a wide tree that were accepted most often;
    see ``NodeCounts``.

    Args:
        on_problem: called with each problem's id when it has been replayed.
    """
    speculator = Speculator(make_source(source), policy=Fixed(wide_template()))
    speculator.counts = NodeCounts()
    for problem in recording.problems:
        replay(replace(recording, problems=(problem,)), speculator)
        if on_problem is not None:
            on_problem(problem.id)
    return speculator.counts.best(nodes)


def replay_table(title: str, rows: Sequence[ReplayRow], note: str = "") -> Table:
    """A line for each source and budget."""
    histories = any(row.history is not None for row in rows)
    headings = ["source", "nodes", *(["history"] if histories else [])]
    return Table(
        title=title,
        headings=[*headings, "tokens/step", "nodes/step", "utilisation"],
        rows=[
            [
                row.source,
                str(row.nodes),
                *([str(row.history)] if histories else []),
                row.tokens_per_step.text(),
                f"{row.nodes_per_step.value:.1f}",
                row.utilisation.percent(),
            ]
            for row in rows
        ],
        note=note,
    )


def _over(
    counts: Sequence[Replayed], above: Callable[[Replayed], float], below: Callable[[Replayed], float]
) -> Quotient:
    return quotient([above(count) for count in counts], [below(count) for count in counts])
