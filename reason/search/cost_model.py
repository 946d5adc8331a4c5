"""ETS's program: which leaves of a search tree are worth the KV that they hold (Hooper et al.,
https://arxiv.org/abs/2502.13575).

    max over sets of leaves S, not empty:   f(S) = sum_{i in S} g_i - sum_{j above S} c_j + b |clusters that S covers|

g_i is a leaf's weight less its own cost, c_j the cost of an inner node, paid once if anything below it is kept, b what
a covered cluster is worth. Without b leaves gain only more by what else is kept (f is supermodular), and the best set
comes from one pass over the tree: a node is kept if what is below it pays for it. With b there are two such passes, and
a set between them:

    best set where b counts for nothing  <=  an optimal set  <=  best set where each leaf brings b

For the union of an optimal set with the first, and its intersection with the second, are optimal too. What the first
keeps is paid and covers its clusters; what the second drops is gone; below one node only a cluster's best leaf need
bring b, and once all of a cluster's leaves are below one node it does. So the passes narrow each other until nothing
changes. Where that leaves leaves undecided they make a linear program, and if its optimum is fractional an integer one.
It has a limit on search nodes instead of time, so that results do not depend on the machine; at the limit a greedy
choice competes.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, NamedTuple, TypeAlias

from reason.types import Path

__all__ = ["Held", "Program", "Solver", "best_leaves", "bracket", "greedy", "held_tokens"]

Solver: TypeAlias = Literal["highs", "cbc"]

_TIE = 1e-9  # what floats may add; leaves that neither gain nor cost are kept
_SEARCH_NODES = 1000  # ours: random programs of up to 256 leaves took one
_INTEGRAL = 1e-6


class Held(NamedTuple):
    """What leaves hold of the KV, in any unit, and what of it they share. Inner node 0 is the root; each other comes
    after its parent."""

    parents: list[int]  # of inner nodes; the root's is -1
    sizes: list[int]  # of inner nodes
    above: list[int]  # the inner node above each leaf
    own: list[int]  # what each leaf holds alone

    def program(
        self, weights: Sequence[float], clusters: Sequence[int], *, kv_weight: float, diversity_weight: float
    ) -> Program:
        """ETS's program: costs are shares of all that is held, and all clusters together are worth
        ``diversity_weight``."""
        price = kv_weight / max(1, sum(self.sizes) + sum(self.own))
        return Program(
            parents=self.parents,
            costs=[0.0, *(price * size for size in self.sizes[1:])],
            above=self.above,
            gains=[weight - price * own for weight, own in zip(weights, self.own, strict=True)],
            clusters=clusters,
            bonus=diversity_weight / len(set(clusters)),
        )


def held_tokens(contexts: Sequence[Path], resident: int) -> Held:
    """By tokens, which a cache addressed by content holds once wherever paths are equal: the radix trie of
    ``contexts``, whose first ``resident`` tokens are held in any case and cost nothing."""
    held = Held([-1], [0], [0] * len(contexts), [0] * len(contexts))

    def add(leaves: Sequence[int], node: int, start: int) -> None:
        """Leaves in order of their contexts, which are equal up to ``start``, where ``node`` ends."""
        first, last = contexts[leaves[0]], contexts[leaves[-1]]
        if len(leaves) == 1:
            held.above[leaves[0]], held.own[leaves[0]] = node, len(first) - start
            return
        end = next((i for i in range(start, len(first)) if first[i] != last[i]), len(first))
        if end > start:
            held.parents.append(node)
            held.sizes.append(end - start)
            node = len(held.parents) - 1
        for longer, group in groupby(leaves, key=lambda leaf: contexts[leaf][end : end + 1]):
            if longer:
                add(list(group), node, end)
            else:
                for leaf in group:
                    held.above[leaf] = node

    add(sorted(range(len(contexts)), key=contexts.__getitem__), 0, resident)
    return held


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What there is to choose from. Inner node 0 is the root, which is always kept and costs nothing.

    Args:
        parents: of inner nodes [inner]; each comes after its parent, the root's is -1.
        costs: of inner nodes [inner], at least 0.
        above: the inner node above each leaf [leaves].
        gains: of leaves [leaves].
        clusters: of leaves [leaves], by number.
        bonus: b, at least 0.
    """

    parents: Sequence[int]
    costs: Sequence[float]
    above: Sequence[int]
    gains: Sequence[float]
    clusters: Sequence[int]
    bonus: float = 0.0

    def inner(self, leaves: Iterable[int]) -> set[int]:
        """The inner nodes above some leaves, and the root."""
        found = {0}
        for leaf in leaves:
            node = self.above[leaf]
            while node not in found:
                found.add(node)
                node = self.parents[node]
        return found

    def covered(self, leaves: Iterable[int]) -> set[int]:
        """The clusters of some leaves; none where they are worth nothing."""
        return {self.clusters[leaf] for leaf in leaves} if self.bonus > 0 else set()

    def value(self, leaves: Collection[int]) -> float:
        """f of some leaves."""
        paid = math.fsum(self.costs[node] for node in self.inner(leaves) if node)
        return math.fsum(self.gains[leaf] for leaf in leaves) - paid + self.bonus * len(self.covered(leaves))


def best_leaves(program: Program, *, solver: Solver = "highs") -> list[int]:
    """An optimal set of leaves, in order. Leaves that make no difference are kept; which of several equal sets that
    leaves is the solver's choice, and always the same.

    Args:
        solver: of what passes leave undecided: HiGHS in this process, or CBC in one of its own (through PuLP).
    """
    inside, open_to = bracket(program)
    if not inside:  # that one at least is kept is what passes do not know
        open_to = set(range(len(program.gains)))
    elif len(inside) == len(open_to):
        return sorted(inside)
    undecided = _Undecided.of(program, inside, open_to)
    chosen, proven = (_highs if solver == "highs" else _cbc)(undecided)
    best = inside | chosen
    if not proven:
        best = max([greedy(program, inside, open_to), *([best] if best else [])], key=program.value)
    return sorted(best | _pass(program, program.gains, open_to, program.inner(best)))


def bracket(program: Program) -> tuple[set[int], set[int]]:
    """Two sets with an optimal one between them (one that may be empty): what it keeps, and what it may keep."""
    inside: set[int] = set()
    open_to = set(range(len(program.gains)))
    while True:
        covered, paid = program.covered(inside), program.inner(inside)
        low, high = list(program.gains), list(program.gains)
        best = _best_by_node(program, open_to, covered)
        nodes: dict[int, int] = {}  # how many nodes have leaves of a cluster
        for _, cluster in best:
            nodes[cluster] = nodes.get(cluster, 0) + 1
        for (_, cluster), leaf in best.items():
            high[leaf] += program.bonus
            if nodes[cluster] == 1:
                low[leaf] += program.bonus
        narrower = inside | _pass(program, low, open_to, paid)
        wider = narrower | _pass(program, high, open_to, paid)
        if (len(narrower), len(wider)) == (len(inside), len(open_to)):
            return inside, open_to
        inside, open_to = narrower, wider


def greedy(program: Program, inside: Collection[int], open_to: Collection[int]) -> set[int]:
    """Adds to ``inside`` the leaf of ``open_to`` that gains most, at least one, until none gains."""
    kept, left = set(inside), sorted(set(open_to) - set(inside))
    while left:
        now = program.value(kept)
        gains = {leaf: program.value({*kept, leaf}) - now for leaf in left}
        leaf = max(left, key=gains.__getitem__)
        if kept and gains[leaf] < -_TIE:
            break
        kept.add(leaf)
        left.remove(leaf)
    return kept


def _pass(program: Program, gains: Sequence[float], open_to: Collection[int], paid: Collection[int]) -> set[int]:
    """The largest best set of leaves among ``open_to``, without bonus, where the inner nodes ``paid`` cost nothing."""
    worth = [0.0 if node in paid else -cost for node, cost in enumerate(program.costs)]
    gaining = [leaf for leaf in open_to if gains[leaf] >= -_TIE]
    for leaf in gaining:
        worth[program.above[leaf]] += gains[leaf]
    for node in range(len(worth) - 1, 0, -1):
        if worth[node] >= -_TIE:
            worth[program.parents[node]] += worth[node]
    kept = [True] * len(worth)
    for node in range(1, len(worth)):
        kept[node] = kept[program.parents[node]] and worth[node] >= -_TIE
    return {leaf for leaf in gaining if kept[program.above[leaf]]}


def _best_by_node(program: Program, leaves: Iterable[int], covered: Collection[int]) -> dict[tuple[int, int], int]:
    """The leaf with the highest gain below each inner node of each cluster that is not covered. An optimal set has it
    if it has any of them."""
    best: dict[tuple[int, int], int] = {}
    if program.bonus > 0:
        for leaf in sorted(leaves):
            place = program.above[leaf], program.clusters[leaf]
            if place[1] not in covered and (place not in best or program.gains[leaf] > program.gains[best[place]]):
                best[place] = leaf
    return best


@dataclass(frozen=True, slots=True, kw_only=True)
class _Undecided:
    """What passes leave, as a program over columns in [0, 1]: leaves first, then inner nodes, then clusters.

    minimise costs . columns, where each of ``rows`` (coefficients by column) is at most its bound
    """

    leaves: list[int]
    costs: list[float]
    rows: list[dict[int, float]]
    bounds: list[float]

    @classmethod
    def of(cls, program: Program, inside: set[int], open_to: set[int]) -> _Undecided:
        """Without the constant that ``inside`` is worth; if that is empty one leaf has to be kept."""
        leaves = sorted(open_to - inside)
        nodes = sorted(program.inner(leaves) - program.inner(inside))
        best = _best_by_node(program, leaves, program.covered(inside))
        clusters = sorted({cluster for _, cluster in best})
        x = {leaf: column for column, leaf in enumerate(leaves)}
        y = {node: len(x) + place for place, node in enumerate(nodes)}
        z = {cluster: len(x) + len(y) + place for place, cluster in enumerate(clusters)}
        rows = [{x[leaf]: 1.0, y[program.above[leaf]]: -1.0} for leaf in leaves if program.above[leaf] in y]
        rows += [{y[node]: 1.0, y[program.parents[node]]: -1.0} for node in nodes if program.parents[node] in y]
        covering = {cluster: {z[cluster]: 1.0} for cluster in clusters}
        for (_, cluster), leaf in best.items():
            covering[cluster][x[leaf]] = -1.0
        rows += covering.values()
        bounds = [0.0] * len(rows)
        if not inside:
            rows.append(dict.fromkeys(x.values(), -1.0))
            bounds.append(-1.0)
        costs = [-program.gains[leaf] for leaf in leaves] + [program.costs[node] for node in nodes]
        return cls(leaves=leaves, costs=costs + [-program.bonus] * len(z), rows=rows, bounds=bounds)

    def chosen(self, columns: Sequence[float]) -> set[int]:
        return {leaf for leaf, value in zip(self.leaves, columns, strict=False) if value > 0.5}


def _highs(undecided: _Undecided) -> tuple[set[int], bool]:
    """Leaves to keep, and whether they are proven to be the best."""
    from scipy.optimize import LinearConstraint, linprog, milp
    from scipy.sparse import csr_array

    entries = [(row, column, value) for row, some in enumerate(undecided.rows) for column, value in some.items()]
    at_row, at_column, values = zip(*entries, strict=True)
    matrix = csr_array((values, (at_row, at_column)), shape=(len(undecided.rows), len(undecided.costs)))
    relaxed = linprog(undecided.costs, A_ub=matrix, b_ub=undecided.bounds, bounds=(0, 1))
    if relaxed.status == 0 and all(min(value, 1 - value) < _INTEGRAL for value in relaxed.x):
        return undecided.chosen(relaxed.x), True
    whole = milp(
        undecided.costs,
        constraints=LinearConstraint(matrix, ub=undecided.bounds),
        integrality=[1] * len(undecided.costs),
        bounds=(0, 1),
        options={"node_limit": _SEARCH_NODES, "mip_rel_gap": 0.0},
    )
    return set() if whole.x is None else undecided.chosen(whole.x), whole.status == 0


def _cbc(undecided: _Undecided) -> tuple[set[int], bool]:
    """As ``_highs``."""
    import pulp

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # from 3.3 on, of what all of PuLP 3 has
        problem = pulp.LpProblem("ets", pulp.LpMinimize)
        columns = [pulp.LpVariable(f"v{place}", cat="Binary") for place in range(len(undecided.costs))]
        problem += pulp.lpDot(undecided.costs, columns)
        for row, bound in zip(undecided.rows, undecided.bounds, strict=True):
            problem += pulp.lpSum(value * columns[column] for column, value in row.items()) <= bound
        status = problem.solve(pulp.PULP_CBC_CMD(msg=False, maxNodes=_SEARCH_NODES, gapRel=0.0))
    return undecided.chosen([column.value() or 0.0 for column in columns]), status == pulp.LpStatusOptimal
