"""The table and the curve of docs/routing.md, from what `reproduce.py routing routing-latency` left.

python benchmarks/routing_curve.py OUT --plot docs/routing.svg

Differences in accuracy and ratios of seconds are paired by problem. A problem's seconds are the fewer of both rounds,
because what else a machine does only adds to them. What is not measured yet is left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from plotting import make_figure, save, tidy

from reason.report.compare import accuracy_difference
from reason.report.results import ProblemResult, ResultsFolder
from reason.report.statistics import Interval, mean_with_interval, ratio_interval, wilson_interval


class Route(NamedTuple):
    """What was measured of one; of its latency, maybe nothing."""

    name: str
    folder: Path
    results: dict[str, ProblemResult]
    timed: dict[str, float]  # seconds, by problem

    @property
    def family(self) -> str:
        """The router, or "one model": the ends of every router's curve."""
        return "one model" if self.name in ("never", "always") else self.name.partition("-")[0]

    @property
    def accuracy(self) -> float:
        return sum(result.correct for result in self.results.values()) / len(self.results)

    @property
    def interval(self) -> Interval:
        return wilson_interval(sum(result.correct for result in self.results.values()), len(self.results))

    @property
    def escalated(self) -> float:
        """The share of the steps."""
        routed = sum(result.usage["routed_steps"] for result in self.results.values())
        return sum(result.usage["escalated_steps"] for result in self.results.values()) / max(1, routed)

    @property
    def large_tokens(self) -> float:
        """Written by the large model, dropped ones included, a problem."""
        spent = [result.usage for result in self.results.values()]
        return sum(usage["policy_tokens"] - usage["draft_model_tokens"] for usage in spent) / len(spent)

    @property
    def seconds(self) -> list[float]:
        """Each timed problem's."""
        return [self.timed[name] for name in sorted(self.timed)]

    @property
    def mean_seconds(self) -> float:
        return sum(self.timed.values()) / len(self.timed)


def read_routes(out: Path) -> dict[str, Route]:
    routes = {}
    for folder in sorted((out / "routing").glob("accuracy-*")):
        name = folder.name.removeprefix("accuracy-")
        results = ResultsFolder(folder).results()
        routes[name] = Route(name, folder, results, read_seconds(out / "routing-latency", name))
    most = max((len(route.results) for route in routes.values()), default=0)
    most_timed = max((len(route.timed) for route in routes.values()), default=0)
    return {
        name: route._replace(timed=route.timed if len(route.timed) == most_timed else {})
        for name, route in routes.items()
        if most and len(route.results) == most
    }


def read_seconds(folder: Path, name: str) -> dict[str, float]:
    """By problem, the fewer of those of the rounds that solved as many problems as any."""
    rounds = [
        {key: result.usage["seconds"] for key, result in ResultsFolder(each).results().items()}
        for each in (folder / f"latency-{name}", folder / f"again-{name}")
        if each.is_dir()
    ]
    most = max(map(len, rounds), default=0)
    whole = [each for each in rounds if len(each) == most]
    return {key: min(each[key] for each in whole) for key in whole[0]} if whole else {}


def table(routes: dict[str, Route]) -> str:
    lines = [
        "| route | steps escalated | tokens of the large model | accuracy | against `never` | seconds, one at a time |",
        "|---|---:|---:|---:|---|---|",
    ]
    for route in sorted(routes.values(), key=lambda route: (route.accuracy, route.large_tokens)):
        difference = ""
        if "never" in routes and route.name != "never":
            found = accuracy_difference(route.folder, routes["never"].folder)
            low, high = found.interval
            difference = f"{100 * found.difference:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
        seconds = ""
        if route.timed:
            spent = mean_with_interval(route.seconds)
            seconds = f"{spent.mean:.1f} [{spent.interval.low:.1f}, {spent.interval.high:.1f}]"
        share = "" if route.name == "always" else f"{100 * route.escalated:.1f}%"
        lines.append(
            f"| `{route.name}` | {share} | {route.large_tokens:.0f} | {100 * route.accuracy:.1f}% | {difference} "
            f"| {seconds} |"
        )
    return "\n".join(lines)


def against(a: Route, b: Route) -> str:
    found = accuracy_difference(a.folder, b.folder)
    low, high = found.interval
    line = f"{a.name} over {b.name}: {100 * found.difference:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}], "
    line += f"{a.large_tokens / max(1e-9, b.large_tokens):.2f} of its large tokens"
    if a.timed and a.timed.keys() == b.timed.keys():
        ratio = ratio_interval(a.seconds, b.seconds)
        within = f" [{ratio.low:.2f}, {ratio.high:.2f}]" if ratio else ""
        line += f", {a.mean_seconds / b.mean_seconds:.2f}{within} of its seconds"
    return line


def curve(routes: dict[str, Route], family: str, cost: Callable[[Route], float]) -> list[Route]:
    """A router's routes, from the cheapest on, with the models alone at the ends: there every router ends. Of the
    family "one model" these alone, which stand for giving a share of the problems to one and the rest to the other."""
    found = {name: route for name, route in routes.items() if route.family == family or name == "never"}
    always = routes.get("always")
    if always is not None and cost(always) > max(map(cost, found.values()), default=0.0):
        found["always"] = always
    return sorted(found.values(), key=cost)


def gains_at_equal_cost(ours: list[Route], others: list[Route], cost: Callable[[Route], float]) -> list[float]:
    """By problem, how much more often ours are right than others that cost the same: between two of those, which are
    taken in turn so that it comes to the same mean cost, which is taken as exact. Empty where ours cost more than all
    others, or less.

    Args:
        others: from the cheapest on.
    """
    gains: dict[str, list[float]] = {}
    for route in ours:
        around = [(a, b) for a, b in pairwise(others) if cost(a) <= cost(route) <= cost(b)]
        if not around:
            return []
        a, b = around[0]
        share = (cost(route) - cost(a)) / ((cost(b) - cost(a)) or 1.0)
        for name, result in route.results.items():
            expected = (1 - share) * a.results[name].correct + share * b.results[name].correct
            gains.setdefault(name, []).append(result.correct - expected)
    return [sum(each) / len(each) for each in gains.values()]


def plot(routes: dict[str, Route], file: Path) -> None:
    """Accuracy, with its interval, against the large model's tokens and against seconds; a line a router."""
    from matplotlib.ticker import PercentFormatter

    timed = [route for route in routes.values() if route.timed]
    panels = {"tokens of the large model, a problem": {name: route.large_tokens for name, route in routes.items()}}
    if timed:
        panels["seconds, one problem at a time"] = {route.name: route.mean_seconds for route in timed}
    figure = make_figure(4.8 * len(panels))
    families: dict[str, list[Route]] = {}
    for route in routes.values():
        families.setdefault(route.family, []).append(route)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (label, costs) in zip(axes, panels.items(), strict=True):
        for number, (family, members) in enumerate(sorted(families.items())):
            drawn = sorted((route for route in members if route.name in costs), key=lambda route: costs[route.name])
            axis.errorbar(
                [costs[route.name] for route in drawn],
                [route.accuracy for route in drawn],
                yerr=[
                    [route.accuracy - route.interval.low for route in drawn],
                    [route.interval.high - route.accuracy for route in drawn],
                ],
                label=family,
                marker="osD^v"[number % 5],
                color=f"C{number}",
                linestyle=":" if family == "one model" else "-",
                capsize=3,
                elinewidth=0.6,
                alpha=0.9,
            )
        axis.set_xlabel(label)
        tidy(axis)
    axes[0].set_ylabel("accuracy")
    axes[0].yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(families), frameon=False)
    save(figure, file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="of reproduce.py")
    parser.add_argument("--plot", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    routes = read_routes(arguments.out)
    if not routes:
        parser.error(f"{arguments.out} has no routing/accuracy-*: run `reproduce.py routing` with this --out first")
    print(table(routes), end="\n\n")
    costs: dict[str, Callable[[Route], float]] = {"large tokens": lambda route: route.large_tokens}
    if all(route.timed for route in routes.values()):
        costs["seconds"] = lambda route: route.mean_seconds
    ours = [route for route in routes.values() if route.family == "arbitrage"]
    for unit, cost in costs.items():
        print(f"at about the same {unit}:")
        for family in ("reward", "judge", "one model"):
            others = [route for route in routes.values() if route.family == family]
            for each in ours if others and family != "one model" else ():
                print(against(each, min(others, key=lambda other: abs(cost(other) - cost(each)))))
            if others and (gains := gains_at_equal_cost(ours, curve(routes, family, cost), cost)):
                found = mean_with_interval(gains)
                low, high = found.interval
                print(
                    f"arbitrage over {family} at equal {unit}, mean of {len(ours)} thresholds: "
                    f"{100 * found.mean:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]"
                )
        print()
    if "always" in routes:
        print(*(against(route, routes["always"]) for name, route in routes.items() if name != "always"), sep="\n")
    if arguments.plot is not None:
        plot(routes, arguments.plot)


if __name__ == "__main__":
    main()
