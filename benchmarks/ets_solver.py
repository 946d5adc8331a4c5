"""What ETS's program costs to solve: tree passes and what they leave, against solvers given all of it.

    python benchmarks/ets_solver.py --widths 16 64 256

Instances are REBASE's trees of random depth over random scores, each clustered anew into a quarter as many meanings
as candidates. Times are of the processor, children's included, so that a busy machine changes them little. The last
column is a whole decision of the strategy: reading the tree, clustering and ``held_tokens`` are in no other.
"""

from __future__ import annotations

import argparse
import random
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from reason.search import cost_model
from reason.search.allocation import allocate
from reason.search.cost_model import Program, best_leaves, bracket
from reason.search.strategies.ets import ETS
from reason.search.tree import ROOT, Node, Tree
from reason.types import Problem

PROMPT = 100
SETTINGS = {
    "paper (uniform, 1, 1.5)": ETS(width=1, node_cost="uniform", embedder="random", distance=0.5),
    "tokens, 1, 1.5": ETS(width=1, node_cost="tokens", embedder="random", distance=0.5),
    "uniform, 1, 0": ETS(width=1, node_cost="uniform", diversity_weight=0.0),
    "tokens, 2, 0.5": ETS(width=1, kv_weight=2.0, diversity_weight=0.5, embedder="random", distance=0.5),
}


def grown(width: int, depth: int, coins: random.Random) -> Tree:
    """A tree whose deepest level waits for a decision: scored and embedded."""
    tree = Tree(Problem(content="?"), [Node(id=ROOT, parent=None, context=tuple(range(PROMPT)), finish_reason="step")])
    counts, scores = {ROOT: width}, {ROOT: 0.5}
    for level in range(1, depth + 1):
        nodes: list[int] = []
        for parent, count in counts.items():
            for _ in range(count):
                tokens = max(4, int(coins.lognormvariate(3.3, 0.6)))
                context = tree[parent].context + tuple(coins.choices(range(1000), k=tokens))
                made = Node(id=len(tree), parent=parent, context=context, text=f"{len(tree)}", finish_reason="step")
                tree.add(made)
                nodes.append(made.id)
                scores[made.id] = min(0.999, max(0.001, coins.gauss(scores[parent], 0.2)))
                made.scores["self-certainty"] = (scores[made.id],)
        shares = allocate([scores[node] for node in nodes], width, temperature=0.2, rounding="round")
        counts = {node: share for node, share in zip(nodes, shares, strict=True) if share}
        for node in nodes:
            tree.note(node, score=scores[node])
            if level < depth:
                tree.note(node, **({"kept": counts[node]} if node in counts else {"pruned": True}))
    return tree


def embed(tree: Tree, candidates: Sequence[Node], meanings: int, coins: random.Random) -> None:
    """Gives each candidate one of some directions, which are all at right angles."""
    for node in candidates:
        vector = np.zeros(meanings, dtype="<f2")
        vector[coins.randrange(meanings)] = 1.0
        node.embeddings["random"] = vector.tobytes()


def cpu() -> float:
    """Milliseconds of this process and of those it waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return 1000 * (time.process_time() + children.ru_utime + children.ru_stime)


def timed(work: Callable[..., Any], *args: Any) -> tuple[float, Any]:
    began = cpu()
    result = work(*args)
    return cpu() - began, result


def whole(program: Program, solver: Callable[[Any], tuple[set[int], bool]]) -> float:
    """A solver given everything: its value."""
    undecided = cost_model._Undecided.of(program, set(), set(range(len(program.gains))))
    return program.value(solver(undecided)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--cbc", type=int, default=5, help="of the rounds CBC plays only so many")
    arguments = parser.parse_args()
    best_leaves(_warm_up())
    print("median (longest) in ms of processor time\n")
    print(
        "| width | cost, kv_weight, diversity_weight | passes do | passes, HiGHS | HiGHS alone | CBC alone | ETS.tell |"
    )
    print("|---|---|---|---|---|---|---|")
    for width in arguments.widths:
        for name, settings in SETTINGS.items():
            strategy = replace(settings, width=width)
            figures: dict[str, list[float]] = {"ours": [], "highs": [], "cbc": [], "tell": []}
            decided = 0
            for seed in range(arguments.rounds):
                coins = random.Random(seed)
                tree = grown(width, coins.randint(2, 6), coins)
                candidates = [node for node in tree.nodes if node.depth == tree.nodes[-1].depth]
                embed(tree, candidates, max(2, width // 4), coins)
                weights = strategy.allocate(tree, strategy.rewards(tree, candidates))
                program = strategy.program(tree, candidates, [share / width for share in weights])
                inside, open_to = bracket(program)
                decided += inside == open_to != set()
                ours, kept = timed(best_leaves, program)
                highs, value = timed(whole, program, cost_model._highs)
                assert abs(program.value(kept) - value) < 1e-6
                figures["ours"].append(ours)
                figures["highs"].append(highs)
                if seed < arguments.cbc:
                    cbc, value = timed(whole, program, cost_model._cbc)
                    assert abs(program.value(kept) - value) < 1e-6
                    figures["cbc"].append(cbc)
                tell, _ = timed(strategy.tell, tree, [len(tree) - 1])
                figures["tell"].append(tell)
            cells = " | ".join(f"{statistics.median(each):.2f} ({max(each):.1f})" for each in figures.values())
            print(f"| {width} | {name} | {decided} of {arguments.rounds} | {cells} |", flush=True)


def _warm_up() -> Program:
    """One that needs HiGHS, whose import is not to be measured."""
    return Program(parents=[-1], costs=[0.0], above=[0, 0], gains=[-1.0, -2.0], clusters=[0, 0])


if __name__ == "__main__":
    main()
