"""What strategies take to think: ask and tell, over an engine that answers at once. A table, in Markdown if redirected.

    python benchmarks/search_overhead.py --width 64 --strategies mcts ab-mcts

Each search is run twice. "an expansion": samples come one at a time, and what it takes to tell one, with its scores,
and to fill its slot, is counted together. "ask": nothing is asked for before all that is in flight has been told, so
that all slots are free at once; "tell" is one result then. Times are of the processor, so that a busy machine changes
them little. What ETS gives to its solver stands on its own.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
import zlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reason.cli.tables import print_tables
from reason.engine.scripted import ScriptedEngine
from reason.report.tables import Table
from reason.search.driver import Run
from reason.search.strategies import ets, make_strategy
from reason.search.tree import Action, Expand, Room, Strategy, Tree
from reason.types import Answer, Budget, Completion, Embedder, Engine, Problem, Request, TokenLogprobs, Trajectory
from reason.verifiers.embeddings import is_embedding

SIZES: dict[str, Callable[[int], dict[str, Any]]] = {
    "auto": lambda width: {"budget_tokens": 400 * width},
    "best-of-n": lambda width: {"num_samples": 4 * width, "select": "weighted"},
    "beam": lambda width: {"width": width},
    "dvts": lambda width: {"width": width},
    "rebase": lambda width: {"width": width},
    "ets": lambda width: {"width": width, "distance": 0.3},
    "best-first": lambda width: {"num_children": 4, "parallel": width // 4, "iterations": width},
    "merge": lambda width: {"width": width, "distance": 0.3},
    "adaptive-consistency": lambda width: {"num_samples": 4 * width, "in_flight": width, "confidence": 1 - 1e-9},
    "esc": lambda width: {"num_samples": 4 * width, "in_flight": width, "window": width},
    "deepconf": lambda width: {"num_samples": 4 * width, "warmup": width // 4, "chunk": 32, "in_flight": width},
    "astar": lambda width: {"num_children": 4, "parallel": width // 4, "num_solutions": width},
    "particle": lambda width: {"num_particles": width},
    "budget-forcing": lambda width: {"num_waits": width, "select": "majority", "max_tokens": 10**5},
    "tot": lambda width: {"keep": width // 4},
    "ats": lambda width: {"num_samples": 4 * width},
    "mcts": lambda width: {"iterations": 4 * width, "in_flight": width},
    "rest-mcts": lambda width: {"iterations": 2 * width, "in_flight": width, "stop_value": 0.0},
    "rstar-math": lambda width: {"iterations": width, "in_flight": width, "num_children": 4},
    "mctsr": lambda width: {"iterations": 2 * width, "in_flight": width},
    "ab-mcts": lambda width: {"num_samples": 4 * width, "in_flight": width},
    "probtree": lambda width: {},
}
"""What fills ``width`` slots, as each strategy calls it, and keeps them full for a while. Strategies that run programs
are not among them: what they wait for is the sandbox."""

MARK = "of so many of them that are in all of the boxes."
DEPTH = 10


class InstantEngine(ScriptedEngine):
    """Steps of about as many tokens as a model writes, with their statistics, and an answer after ``DEPTH`` of them.
    Whole texts are a little of all that any strategy reads in one."""

    def __init__(self) -> None:
        super().__init__([""])

    async def generate(self, requests: Sequence[Request]) -> AsyncIterator[Completion]:
        for index, request in enumerate(requests):
            key = request.key
            whole = "\n\n" not in request.stop or self.codec.decode(request.prefix).count(MARK) >= DEPTH
            if whole:
                text = f'{{"Whole?": ["Half {key}?", "The other half?"]}}\nTake {key}: likely.\n' + "And so on. " * 9
                text += f"\nIt is \\boxed{{{key % 3}}}. So the answer is: {key % 3}.\nScore: {37 * key % 90}"
            else:
                text = f"We add the number {key} {MARK}\n\n"
            tokens = self.codec.encode(text)[: request.max_tokens]
            ended = "length" if len(tokens) == request.max_tokens else "eos" if whole else "stop"
            yield Completion(
                index=index,
                token_ids=tokens,
                text=self.codec.decode(tokens).removesuffix("\n\n"),
                finish_reason=ended,  # type: ignore[arg-type]
                stopped_on="\n\n" if ended == "stop" else None,
                logprobs=(TokenLogprobs(-0.01 * (1 + key % 9), (), 0.3, 12.0),) * len(tokens),
            )


@dataclass(frozen=True)
class Hashed:
    """Scores in [0, 1], and vectors of one of sixteen directions, at no cost."""

    name: str
    statistics: bool = True
    top_logprobs: int | None = None
    probability: bool = True

    async def score(self, trajectories: Sequence[Trajectory], engine: Engine, owner: str) -> list[float]:
        return [zlib.crc32(each.steps[-1].text.encode()) % 1000 / 1000 for each in trajectories]


@dataclass(frozen=True)
class Directions:
    name: str

    async def embed(self, trajectories: Sequence[Trajectory], engine: Engine, owner: str) -> Sequence[Sequence[float]]:
        places = [zlib.crc32(each.steps[-1].text.encode()) % 16 for each in trajectories]
        return [[float(place == axis) for axis in range(16)] for place in places]


@dataclass
class Figures:
    """Milliseconds."""

    expansions: int = 0
    each: list[float] = field(default_factory=list)  # of an expansion
    asks: list[float] = field(default_factory=list)  # those that started as many as there was room for
    tells: list[float] = field(default_factory=list)
    solver: list[float] = field(default_factory=list)


class Timed:
    """A strategy on the clock.

    Args:
        together: asked only when nothing is under way.
    """

    def __init__(self, strategy: Strategy, together: bool) -> None:
        self.measures = strategy.measures
        self.figures = Figures()
        self._strategy = strategy
        self._together = together
        self._scored = 0.0  # taken since the last expansion was told

    def ask(self, tree: Tree, room: Room) -> Sequence[Action]:
        if self._together and (tree.measuring or any(node.pending for node in tree.nodes)):
            return []
        actions, taken = self._timed(self._strategy.ask, tree, room)
        if any(isinstance(action, Expand) for action in actions):
            self.figures.asks.append(taken)
        return actions

    def tell(self, tree: Tree, done: Sequence[int]) -> None:
        if not any(tree[node].scores or tree[node].embeddings for node in done):
            self.figures.each.append(self._scored)
            self._scored = 0.0
        self.figures.tells.append(self._timed(self._strategy.tell, tree, done)[1])

    def answer(self, tree: Tree) -> Answer:
        self.figures.expansions = len(tree) - 1
        return self._strategy.answer(tree)

    def _timed(self, method: Callable[..., Any], *args: Any) -> tuple[Any, float]:
        solved = sum(self.figures.solver)
        began = time.thread_time()
        result = method(*args)
        taken = 1000 * (time.thread_time() - began) - (sum(self.figures.solver) - solved)
        self._scored += taken
        return result, taken


def run(name: str, width: int, seed: int, *, together: bool) -> Figures:
    timed = Timed(make_strategy(name, **SIZES[name](width)), together)
    best_leaves = ets.best_leaves

    def solve(*args: Any, **fields: Any) -> list[int]:
        began = time.thread_time()
        kept = best_leaves(*args, **fields)
        timed.figures.solver.append(1000 * (time.thread_time() - began))
        return kept

    search = Run(
        InstantEngine(),
        Problem(content="How many are there?", equivalent=lambda a, b: a == b),
        timed,
        strategy_name=name,
        budget=Budget(),
        seed=seed,
        owner="run",
        verifiers=measures(timed.measures),
        max_in_flight=width,
    )
    ets.best_leaves = solve  # type: ignore[assignment]
    try:
        asyncio.run(search.solve())
    finally:
        ets.best_leaves = best_leaves
    return timed.figures


def measures(names: Sequence[str]) -> Mapping[str, Any]:
    found: dict[str, Hashed | Embedder] = {}
    for name in names:
        found[name] = Directions(name) if is_embedding(name) else Hashed(name)
    return found


def figures(values: Sequence[float]) -> tuple[str, str]:
    """The median and the 95th percentile."""
    if len(values) < 2:
        return ("-", "-") if not values else (f"{values[0]:.2f}",) * 2
    return f"{statistics.median(values):.2f}", f"{statistics.quantiles(values, n=20, method='inclusive')[-1]:.2f}"


def row(name: str, width: int, rounds: int) -> list[str]:
    apart = [run(name, width, seed, together=False) for seed in range(rounds)]
    together = [run(name, width, seed, together=True) for seed in range(rounds)]

    def of(runs: Sequence[Figures], what: str) -> tuple[str, str]:
        return figures([value for each in runs for value in getattr(each, what)])

    expansions = str(round(statistics.median(each.expansions for each in apart)))
    columns = (of(apart, "each"), of(together, "asks"), of(together, "tells"), of(together, "solver"))
    return [name, expansions, *(cell for pair in columns for cell in pair)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strategies", nargs="+", default=list(SIZES), choices=list(SIZES), metavar="NAME")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    for name in ("merge", "ets"):
        run(name, 8, 0, together=True)  # imports are not to be measured
    kinds = ("an expansion", "ask", "tell", "solver")
    table = Table(
        title=f"ask and tell at width {arguments.width}: ms",
        headings=["strategy", "expansions", *(f"{kind}{part}" for kind in kinds for part in (", median", ", 95%"))],
        rows=[row(name, arguments.width, arguments.rounds) for name in arguments.strategies],
    )
    if sys.stdout.isatty():
        print_tables([table])
    else:
        print(table.markdown())


if __name__ == "__main__":
    main()
