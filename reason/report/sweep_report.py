"""The report of a sweep: a table with paired differences, and curves of accuracy against what it cost."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reason.errors import ReasonError
from reason.report.compare import compare_runs
from reason.report.sweep import Entry
from reason.report.tables import Table

__all__ = ["COSTS", "can_plot", "sweep_dict", "sweep_tables", "write_plot", "write_report"]

COSTS = {
    "policy_tokens": "generated tokens per problem",
    "wall": "seconds per problem",
    "unique_kv_tokens_mean": "unique KV tokens, mean",
}
"""What accuracy is drawn against."""

_RESAMPLES = 10_000
_READ_AS = (
    "Accuracy with Wilson's 95% interval; differences are to the first row, paired by problem, in points, with a "
    "bootstrap interval. Costs are means per problem; s is wall time divided by problems, which run side by side; "
    "solver is the share of a run's time that the strategy itself took."
)


def sweep_tables(entries: Sequence[Entry], *, seed: int = 0) -> list[Table]:
    """A table for each swept value and budget. Differences are to the first strategy of the table, over the problems
    that both have done."""
    groups: dict[tuple[str, int | None], list[Entry]] = {}
    for entry in entries:
        groups.setdefault((entry.setting.group, entry.setting.budget_tokens), []).append(entry)
    return [_table(members, seed) for members in groups.values()]


def _table(entries: Sequence[Entry], seed: int) -> Table:
    first = entries[0]
    done = {entry.summary.done for entry in entries}
    count = f"{min(done)} to {max(done)}" if len(done) > 1 else f"{max(done)}"
    parts = [first.summary.task, first.summary.model, f"{count} problems"]
    if first.setting.group:
        parts.append(first.setting.group)
    if first.setting.budget_tokens is not None:
        parts.append(f"at most {first.setting.budget_tokens:,} generated tokens a problem")
    headings = ["strategy", "accuracy", "difference", "tokens", "KV mean", "KV peak", "s", "solver"]
    rows = [_row(entry, None if entry is first else first, seed) for entry in entries]
    notes = [_READ_AS]
    if first.setting.common:
        notes.append(f"All: {', '.join(f'{key} {value}' for key, value in first.setting.common.items())}.")
    notes += dict.fromkeys(f"Note: {note}." for entry in entries for note in entry.summary.notes)
    return Table(title=", ".join(parts), headings=headings, rows=rows, note=" ".join(notes))


def _row(entry: Entry, first: Entry | None, seed: int) -> list[str]:
    summary, means = entry.summary, entry.summary.means
    accuracy, difference = "", ""
    if summary.accuracy is not None and summary.interval is not None:
        accuracy = f"{summary.accuracy:.1%} [{100 * summary.interval.low:.1f}, {100 * summary.interval.high:.1f}]"
        if first is not None and first.summary.done:
            paired = compare_runs(entry.path, first.path, resamples=_RESAMPLES, seed=seed).accuracy
            low, high = paired.interval
            difference = f"{100 * paired.difference:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
    counts = ("policy_tokens", "unique_kv_tokens_mean", "unique_kv_tokens_peak")
    share = means["solver_seconds"] / means["seconds"] if means["seconds"] else 0.0
    return [
        entry.setting.label,
        accuracy,
        difference,
        *(f"{means[name]:,.0f}" for name in counts),
        f"{_wall(entry):.1f}",
        f"{share:.1%}",
    ]


def sweep_dict(entries: Sequence[Entry]) -> dict[str, Any]:
    """Everything in the tables as numbers, JSON-able."""
    return {
        "settings": [
            {
                "strategy": entry.setting.strategy,
                "label": entry.setting.label,
                "fields": dict(entry.setting.fields),
                "common": dict(entry.setting.common),
                "budget_tokens": entry.setting.budget_tokens,
                "folder": entry.path.name,
                "seconds_per_problem": _wall(entry),
                "summary": entry.summary.as_dict(),
            }
            for entry in entries
        ]
    }


def write_report(entries: Sequence[Entry], out: Path, *, seed: int = 0) -> list[Path]:
    """Writes comparison.json, comparison.md, calibration.json (what ``auto`` chooses from) and, where matplotlib is
    installed, comparison.png; returns what it wrote.

    Raises:
        ReasonError: they cannot be written.
    """
    plot = out / "comparison.png"
    heading = f"# {entries[0].summary.task}: {len(entries)} settings compared\n"
    drawn = f"![accuracy against cost]({plot.name})\n" if can_plot() else ""
    text = "\n".join([heading, *(table.markdown() for table in sweep_tables(entries, seed=seed)), drawn])
    written = [out / "comparison.json", out / "comparison.md", out / "calibration.json"]
    try:
        written[0].write_text(json.dumps(sweep_dict(entries), indent=1) + "\n", encoding="utf-8")
        written[1].write_text(text, encoding="utf-8")
        written[2].write_text(json.dumps(_calibration(entries), indent=1) + "\n", encoding="utf-8")
        if can_plot():
            write_plot(entries, plot)
            written.append(plot)
    except OSError as error:
        raise ReasonError(f"cannot write to {out}: {error.strerror or error}; use another --out") from error
    return written


def _calibration(entries: Sequence[Entry]) -> dict[str, Any]:
    """See ``reason.search.calibration``."""
    rows = [
        {
            "strategy": entry.setting.strategy,
            "fields": dict(entry.setting.fields),
            "policy_tokens": round(entry.summary.means["policy_tokens"]),
            "accuracy": round(entry.summary.accuracy, 4),
            "problems": entry.summary.done,
        }
        for entry in entries
        if entry.summary.accuracy is not None and entry.setting.strategy != "auto"
    ]
    return {"task": entries[0].summary.task, "model": entries[0].summary.model, "rows": rows}


def can_plot() -> bool:
    """Whether matplotlib is installed."""
    from importlib.util import find_spec

    return find_spec("matplotlib") is not None


def write_plot(entries: Sequence[Entry], file: Path) -> None:
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
        panel.set_xlabel(label)
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
    figure.savefig(file, dpi=144, metadata={"Software": "reason"})


def _lines(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """Entries by strategy: one line through what differs in budget or breadth alone."""
    lines: dict[str, list[Entry]] = {}
    for entry in entries:
        lines.setdefault(entry.setting.line, []).append(entry)
    return lines


def _cost(entry: Entry, name: str) -> float:
    return _wall(entry) if name == "wall" else float(entry.summary.means[name])


def _wall(entry: Entry) -> float:
    return entry.summary.wall_seconds / max(1, entry.summary.done)
