"""The tables and the curve of docs/planning.md, from what `reproduce.py planning` left.

python benchmarks/planning_curve.py OUT --plot docs/planning.svg

Differences and ratios are paired by problem. The curve is each gate's precision on the problems that it was calibrated
with, neighbours of the measured ones that are none of them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from plotting import make_figure, save, tidy

from reason.report.results import ProblemResult, ResultsFolder
from reason.report.statistics import Difference, paired_bootstrap, ratio_interval

Results = dict[str, ProblemResult]


def kinds(results: Results) -> list[str]:
    return sorted({name.partition("-")[0] for name in results})


def points(found: Difference) -> str:
    return f"{100 * found.difference:+.1f} [{100 * found.interval.low:+.1f}, {100 * found.interval.high:+.1f}]"


def one_at_a_time(without: Results, plan: Results) -> Iterator[str]:
    """A row for each kind of problem and one for all."""
    yield "| problems | without | with | difference | seconds without | with | ratio | short cuts | of them right |"
    yield "|---|---:|---:|---|---:|---:|---|---:|---:|"
    for kind in [*kinds(without), ""]:
        ids = sorted(name for name in without if name in plan and name.startswith(kind))
        a, b = [without[name] for name in ids], [plan[name] for name in ids]
        found = paired_bootstrap([float(each.correct) for each in b], [float(each.correct) for each in a])
        before, after = ([each.usage["seconds"] for each in results] for results in (a, b))
        ratio = ratio_interval(before, after)
        within = f" [{ratio.low:.2f}, {ratio.high:.2f}]" if ratio else ""
        cut = [each for each in b if each.usage["short_cuts"]]
        right = f"{sum(each.correct for each in cut) / len(cut):.0%}" if cut else ""
        yield (
            f"| {len(ids)} {kind or 'together'} | {sum(each.correct for each in a) / len(a):.1%} "
            f"| {sum(each.correct for each in b) / len(b):.1%} | {points(found)} "
            f"| {sum(before) / len(a):.1f} | {sum(after) / len(b):.1f} | {sum(before) / sum(after):.2f}x{within} "
            f"| {len(cut) / len(b):.0%} | {right} |"
        )


def throughput(out: Path) -> str | None:
    """Of all problems at once, beside what it comes to if a small model's answer costs nothing."""
    folders = [ResultsFolder(out / name) for name in ("without-together", "with-together")]
    if not all(folder.path.is_dir() for folder in folders):
        return None
    seconds = [sum(float(sitting["seconds"]) for sitting in folder.read("sittings.json") or []) for folder in folders]
    results = folders[1].results()
    cut = sum(each.usage["short_cuts"] for each in results.values()) / len(results)
    return (
        f"{len(results)} problems at once: {seconds[0]:.0f} seconds without, {seconds[1]:.0f} with, "
        f"{seconds[0] / seconds[1]:.2f}x; 1 / (1 - {cut:.2f}) = {1 / (1 - cut):.2f}x"
    )


def scores(gates: Path) -> dict[str, list[tuple[float, bool]]]:
    """Each gate's score of an answer, and whether that is right."""
    found: dict[str, list[tuple[float, bool]]] = {}
    for name, result in sorted(ResultsFolder(gates / "greedy").results().items()):
        file = gates / "scores" / f"{name}.json"
        if result.answer is not None and file.exists():
            for gate, score in json.loads(file.read_bytes()).items():
                found.setdefault(gate, []).append((score, result.correct))
    drawn = ResultsFolder(gates / "drawn")
    if drawn.path.is_dir():
        voted = [each for each in drawn.results().values() if each.answer is not None]
        found["agreement"] = [(each.confidence, each.correct) for each in voted]
    return found


def precisions(pairs: Sequence[tuple[float, bool]], of: int) -> list[tuple[float, float]]:
    """Coverage of ``of`` problems and precision, from each threshold that parts two scores."""
    ordered = sorted(pairs, reverse=True)
    right, points = 0, []
    for count, (score, correct) in enumerate(ordered, start=1):
        right += correct
        if count == len(ordered) or ordered[count][0] < score:
            points.append((count / of, right / count))
    return points


def plot(gates: Path, file: Path) -> None:
    """Precision against coverage, a line a gate."""
    from matplotlib.ticker import PercentFormatter

    problems = len(ResultsFolder(gates / "greedy").results())
    figure = make_figure(6.4)
    axis = figure.subplots()
    for number, (gate, pairs) in enumerate(scores(gates).items()):
        points = [(coverage, precision) for coverage, precision in precisions(pairs, problems) if coverage >= 0.05]
        style = "-" if number < 10 else "--"
        if not points:
            continue
        axis.plot(*zip(*points, strict=True), style, label=gate, color=f"C{number % 10}", linewidth=1.6, alpha=0.85)
    axis.set_xlabel(f"coverage: answers that pass, of {problems} problems")
    axis.set_ylabel("precision: of them right")
    for each in (axis.xaxis, axis.yaxis):
        each.set_major_formatter(PercentFormatter(1.0, decimals=0))
    tidy(axis)
    axis.legend(frameon=False, fontsize=8)
    save(figure, file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="of reproduce.py")
    parser.add_argument("--plot", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    out = arguments.out / "planning"
    if not (out / "gates-direct").is_dir():
        parser.error(f"{out} has no gates: run `reproduce.py planning` with this --out first")
    if arguments.plot is not None:
        plot(out / "gates-direct", arguments.plot)
    if (out / "with").is_dir():
        results = [ResultsFolder(out / name).results() for name in ("without", "with")]
        print(*one_at_a_time(*results), sep="\n")
    if line := throughput(out):
        print(line)


if __name__ == "__main__":
    main()
