"""The report of a sweep: a table with paired differences, and curves of accuracy against what it cost."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from reason.errors import UsageError
from reason.report.compare import accuracy_difference
from reason.report.results import ResultsFolder
from reason.report.statistics import Difference
from reason.report.sweep import Entry
from reason.report.tables import Table
from reason.search.strategies import known_fields

__all__ = ["COSTS", "can_plot", "sweep_dict", "sweep_tables", "write_plot", "write_report"]

COSTS = {
    "policy_tokens": "generated tokens per problem",
    "wall": "seconds per problem",
    "unique_kv_tokens_mean": "unique KV tokens, mean",
}
"""What accuracy is drawn against."""

_READ_AS = (
    "Accuracy with Wilson's 95% interval; differences are to the first row, paired by problem, in points, with Agresti "
    "and Min's interval. Costs are means per problem; s is wall time divided by problems, which run side by side; "
    "solver is the share of a run's time that the strategy itself took."
)
_UNDER_A_BUDGET = (
    "Under a budget an expansion reserves its token limit until it is done, so that strategies with long expansions "
    "have fewer under way at once: KV and s are then also of these reservations."
)


def sweep_tables(entries: Sequence[Entry]) -> list[Table]:
    """A table for each swept value and budget. Differences are to the first strategy of the table, over the problems
    that both have done."""
    return [_table(group) for group in _groups(entries)]


def _groups(entries: Sequence[Entry]) -> list[list[Entry]]:
    """What is compared with each other."""
    groups: dict[tuple[str, int | None], list[Entry]] = {}
    for entry in entries:
        groups.setdefault((entry.setting.group, entry.setting.budget_tokens), []).append(entry)
    return list(groups.values())


def _table(entries: Sequence[Entry]) -> Table:
    first = entries[0]
    done = {entry.summary.done for entry in entries}
    count = f"{min(done)} to {max(done)}" if len(done) > 1 else f"{max(done)}"
    parts = [first.summary.task, first.summary.model, f"{count} problems"]
    if first.setting.group:
        parts.append(first.setting.group)
    if first.setting.budget_tokens is not None:
        parts.append(f"at most {first.setting.budget_tokens:,} generated tokens a problem")
    columns = {"tokens": "policy_tokens", "KV mean": "unique_kv_tokens_mean", "KV peak": "unique_kv_tokens_peak"}
    if any(entry.summary.means["verifier_tokens"] for entry in entries):
        columns = {"tokens": "policy_tokens", "verifier tokens": "verifier_tokens", **columns}
    return Table(
        title=", ".join(parts),
        headings=["strategy", "accuracy", "difference", *columns, "s", "solver"],
        rows=[_row(entry, first, list(columns.values())) for entry in entries],
        note=" ".join(_notes(entries)),
    )


def _row(entry: Entry, first: Entry, columns: Sequence[str]) -> list[str]:
    summary, means = entry.summary, entry.summary.means
    accuracy, difference = "", ""
    if summary.accuracy is not None and summary.interval is not None:
        accuracy = f"{summary.accuracy:.1%} [{100 * summary.interval.low:.1f}, {100 * summary.interval.high:.1f}]"
    if (paired := _difference(entry, first)) is not None:
        low, high = paired.interval
        difference = f"{100 * paired.difference:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
    share = means["solver_seconds"] / means["seconds"] if means["seconds"] else 0.0
    return [
        entry.setting.label,
        accuracy,
        difference,
        *(f"{means[name]:,.0f}" for name in columns),
        f"{summary.seconds_per_problem:.1f}",
        f"{share:.1%}",
    ]


def _difference(entry: Entry, first: Entry) -> Difference | None:
    """To the first of its group; None where there is nothing to pair."""
    if entry is first:
        return None
    try:
        return accuracy_difference(entry.path, first.path)
    except UsageError:  # interrupted before both had done the same problem
        return None


def _notes(entries: Sequence[Entry]) -> Iterator[str]:
    yield _READ_AS
    budget = entries[0].setting.budget_tokens
    if budget is not None:
        yield _UNDER_A_BUDGET
        fixed = [e.setting.label for e in entries if e.setting.breadth is None and not _chooses_by_budget(e)]
        if fixed:
            yield f"The same under every budget, which may cut them off: {', '.join(fixed)}."
        ended = [(entry, _ended_by_budget(entry)) for entry in entries]
        if any(count for _, count in ended):
            counts = ", ".join(f"{entry.setting.label} {count} of {entry.summary.done}" for entry, count in ended)
            yield f"Problems that the budget ended: {counts}."
        for entry in entries:
            if over := sum(tokens > budget for tokens in _policy_tokens(entry)):
                yield f"Note: {entry.setting.label} went over its budget on {over} of {entry.summary.done} problems."
    if any(entry.summary.means["verifier_tokens"] for entry in entries):
        yield "Verifier tokens, read and written, are not among the generated ones."
    given: dict[str, list[Entry]] = {}
    for entry in entries:
        for key, value in entry.setting.common.items():
            given.setdefault(f"{key} {value}", []).append(entry)
    everywhere = [text for text, members in given.items() if len(members) == len(entries)]
    if everywhere:
        yield f"All: {', '.join(everywhere)}."
    for text, members in given.items():
        if text not in everywhere:
            yield f"{text}: {', '.join(entry.setting.label for entry in members)}."
    for entry in entries:
        for note in entry.summary.notes:
            who = "" if note.startswith(entry.setting.strategy) else f"{entry.setting.label}: "
            yield f"Note: {who}{note}."


def _chooses_by_budget(entry: Entry) -> bool:
    return "budget_tokens" in known_fields(entry.setting.strategy, entry.setting.all_fields.get("inner"))


def _ended_by_budget(entry: Entry) -> int:
    results = ResultsFolder(entry.path).results().values()
    return sum(result.stopped_by == "policy_tokens" for result in results)


def _policy_tokens(entry: Entry) -> list[float]:
    """Of each problem whose run told."""
    results = ResultsFolder(entry.path).results().values()
    return [result.usage["policy_tokens"] for result in results if "policy_tokens" in result.usage]


def sweep_dict(entries: Sequence[Entry]) -> dict[str, Any]:
    """Everything in the tables as numbers, JSON-able. ``difference`` is to the first of the same group and budget."""
    first = {entry.path: group[0] for group in _groups(entries) for entry in group}
    return {"settings": [_setting_dict(entry, first[entry.path]) for entry in entries]}


def _setting_dict(entry: Entry, first: Entry) -> dict[str, Any]:
    paired = _difference(entry, first)
    return {
        "strategy": entry.setting.strategy,
        "label": entry.setting.label,
        "fields": dict(entry.setting.fields),
        "common": dict(entry.setting.common),
        "budget_tokens": entry.setting.budget_tokens,
        "group": entry.setting.group,
        "folder": entry.path.name,
        "difference": None if paired is None else {**asdict(paired), "interval": paired.interval._asdict()},
        "seconds_per_problem": entry.summary.seconds_per_problem,
        "summary": entry.summary.as_dict(),
    }


def write_report(entries: Sequence[Entry], out: Path) -> list[Path]:
    """Writes comparison.json, comparison.md, calibration.json (what ``auto`` chooses from) and, where matplotlib is
    installed, comparison.png; returns what it wrote. Each is replaced whole: ``auto`` may be reading.

    Raises:
        ReasonError: they cannot be written.
    """
    plot = "comparison.png"
    heading = f"# {entries[0].summary.task}: {len(entries)} settings compared\n"
    drawn = f"![accuracy against cost]({plot})\n" if can_plot() else ""
    text = "\n".join([heading, *(table.markdown() for table in sweep_tables(entries)), drawn])
    files = {
        "comparison.json": _json(sweep_dict(entries)),
        "comparison.md": text.encode(),
        "calibration.json": _json(_calibration(entries)),
    }
    if can_plot():
        drawing = io.BytesIO()
        write_plot(entries, drawing)
        files[plot] = drawing.getvalue()
    folder = ResultsFolder(out)
    for name, data in files.items():
        folder.replace(name, data)
    return [out / name for name in files]


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()


def _calibration(entries: Sequence[Entry]) -> dict[str, Any]:
    """See ``reason.search.calibration``. Of settings that are done: the first problems of one that is not may be the
    easy ones."""
    rows = [
        {
            "strategy": entry.setting.strategy,
            "fields": entry.setting.all_fields,
            "budget_tokens": entry.setting.budget_tokens,
            "policy_tokens": round(entry.summary.means["policy_tokens"]),
            "most_policy_tokens": round(float(np.percentile(_policy_tokens(entry) or [0.0], 90))),
            "accuracy": round(entry.summary.accuracy, 4),
            "problems": entry.summary.done,
        }
        for entry in entries
        if entry.summary.complete and entry.summary.accuracy is not None and not _chooses_by_budget(entry)
    ]
    return {"task": entries[0].summary.task, "model": entries[0].summary.model, "rows": rows}


def can_plot() -> bool:
    """Whether matplotlib is installed."""
    from importlib.util import find_spec

    return find_spec("matplotlib") is not None


def write_plot(entries: Sequence[Entry], file: Path | BinaryIO) -> None:
    """Accuracy with its interval against each of ``COSTS``, a line a strategy through its budgets or sizes, as PNG."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter, StrMethodFormatter

    figure = Figure(figsize=(4.4 * len(COSTS), 4.4), layout="constrained")
    panels = figure.subplots(1, len(COSTS), sharey=True)
    lines = _lines(entries)
    for panel, (name, label) in zip(panels, COSTS.items(), strict=True):
        for number, (strategy, points) in enumerate(lines.items()):
            known = [(_cost(entry, name), entry) for entry in points if entry.summary.accuracy is not None]
            drawn = sorted(known, key=lambda point: point[0])
            spread: tuple[list[float], list[float]] = ([], [])
            for _, entry in drawn:
                interval, middle = entry.summary.interval, entry.summary.accuracy
                assert interval is not None and middle is not None
                spread[0].append(middle - interval.low)
                spread[1].append(interval.high - middle)
            panel.errorbar(
                [cost for cost, _ in drawn],
                [entry.summary.accuracy for _, entry in drawn],
                yerr=spread,
                label=strategy,
                marker="osD^vP*X"[number % 8],
                color=f"C{number % 10}",
                markersize=6,
                linewidth=1.4,
                capsize=3,
                elinewidth=0.8,
                alpha=0.9,
            )
        uncounted = name == "policy_tokens" and any(entry.summary.means["verifier_tokens"] for entry in entries)
        panel.set_xlabel(f"{label}, without verifiers'" if uncounted else label)
        costs = [_cost(entry, name) for entry in entries if _cost(entry, name) > 0]
        if costs and max(costs) > 3 * min(costs):
            panel.set_xscale("log")
            panel.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            panel.xaxis.set_minor_formatter(NullFormatter())
        panel.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
        panel.grid(True, which="major", alpha=0.25)
        for side in ("top", "right"):
            panel.spines[side].set_visible(False)
    panels[0].set_ylabel("accuracy")
    panels[0].yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    summary = entries[0].summary
    figure.suptitle(f"{summary.task}, {summary.model}, {max(entry.summary.done for entry in entries)} problems")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(lines)), frameon=False)
    figure.savefig(file, format="png", dpi=144, metadata={"Software": "reason"})


def _lines(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """Entries by strategy: one line through what differs in budget or breadth alone."""
    lines: dict[str, list[Entry]] = {}
    for entry in entries:
        lines.setdefault(entry.setting.line, []).append(entry)
    return lines


def _cost(entry: Entry, name: str) -> float:
    return entry.summary.seconds_per_problem if name == "wall" else float(entry.summary.means[name])
