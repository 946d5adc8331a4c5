"""A source, a policy and a rule put together: what the engine's loop and the replay both run.

draft -> (one forward over every branch and its tree) -> verdict -> settle -> extend -> observe
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from reason.errors import UsageError
from reason.speculate.draft import CONTEXT, DraftTree, Rows, Source, State, Stream
from reason.speculate.policy import Fixed, ForwardTimes, Goodput, Growth, NodeCounts, Policy, Ranking, Switch
from reason.speculate.rules import Rule, SeededCoins, Verdict, draw_tree, grow, make_rule
from reason.speculate.sources.tabled import tabled
from reason.speculate.sources.union import Union

__all__ = ["Drafts", "Speculator", "contexts"]

_STEP = 0.05  # of the average of what drafting costs beside its rows
_ALWAYS, _EVERY = 8, 4  # up to so many branches sources judge every iteration, beyond that every fourth


@dataclass(slots=True)
class Drafts:
    """The trees of one iteration, one a stream; and what verifying and settling them needs."""

    trees: Sequence[DraftTree]
    growth: Growth | None = None  # of the rules that take any tree
    coins: Sequence[SeededCoins] = ()  # of the others: each stream's, begun by its draws

    @property
    def nodes(self) -> int:
        return sum(map(len, self.trees))


class Speculator:
    """See the module's docstring. Not thread-safe: the engine's loop owns it.

    Args:
        source: what is expected to come.
        rule: a name of ``RULES``.
        policy: which nodes are drafted; ``Goodput`` over ``times`` by default.
        times: what a forward costs; the engine keeps it up to date.

    Raises:
        UsageError: the rule would not be exact with this source and policy.
    """

    def __init__(
        self,
        source: Source,
        *,
        rule: str = "coupled",
        policy: Policy | None = None,
        times: ForwardTimes | None = None,
    ) -> None:
        self.source = source
        self.rule = make_rule(rule)
        self.times = times or ForwardTimes()
        self.policy: Policy = policy or (Goodput(self.times) if self.takes_any_tree else Fixed())
        self.counts: NodeCounts | None = None  # set to measure a template
        _check_sound(source, self.rule, self.policy)
        self._ranking = Ranking(coupled=self.rule.couples)
        self._switch = Switch()
        self._drafting = True  # in this iteration, be it for nothing
        self._iteration = 0
        self.resting = False
        """Whether drafting pauses for good and all, not just for this iteration."""
        self._prepare_seconds = 0.0  # of this iteration; a draft model's forwards
        self.learns_roots = True
        """Whether sources are told in this iteration what came at the branches' ends: at all of them, drafted or not.
        Being drafted means that the noise favoured the guess, so that to learn from those alone would flatter it."""

    @property
    def takes_any_tree(self) -> bool:
        """Whether the rule follows the plain samples, so that it is exact for whatever is drafted."""
        return self.rule.draws == "any"

    @property
    def most_nodes(self) -> int | None:
        """Nodes that a tree may have, under the rules that want slots granted before the draw; None under others."""
        return len(self.policy.template) if not self.takes_any_tree and isinstance(self.policy, Fixed) else None

    def draft(self, streams: Sequence[Stream]) -> Drafts | None:
        """The trees to verify in this iteration; None to draft nothing."""
        if not self.takes_any_tree:
            return self._draw(streams)
        self._drafting = not isinstance(self.policy, Goodput) or not self.policy.decides or self._pays(len(streams))
        if not self._drafting:
            return None
        self._iteration += 1
        self.learns_roots = len(streams) <= _ALWAYS or self._iteration % _EVERY == 0
        began = time.perf_counter()
        self.source.prepare(streams)
        self._prepare_seconds = time.perf_counter() - began
        growth = self.policy.grow(streams, self.source, self._ranking)
        return None if growth is None else Drafts(growth.trees, growth)

    def _pays(self, branches: int) -> bool:
        self.resting = not self._switch.on(branches)
        return not self.resting and not self._switch.looks(branches)

    def settle(self, drafts: Drafts, index: int, verdict: Verdict) -> None:
        """Learns from the verdict on one stream's tree; before its tokens are told by ``extend``."""
        tree, growth = drafts.trees[index], drafts.growth
        if self.counts is not None:
            self.counts.count(tree, verdict.accepted)
        if growth is None:
            return
        states, buckets = growth.states[index], growth.buckets[index]
        node = 0
        for following in (*verdict.accepted, None):
            for child in tree.children[node]:
                self._ranking.settle(tree.proposers[child], buckets[child], child == following)
            if states[node] is not None and (node or self.learns_roots):
                token = verdict.token if following is None else tree.tokens[following]
                self.source.settle(states[node], token)
            if following is not None:
                node = following

    def account(
        self, *, branches: int, nodes: int, accepted: int, forward_seconds: float, overhead_seconds: float
    ) -> None:
        """What an iteration of branches that all decoded came to; ``nodes`` is 0 where nothing was drafted, be it that
        drafting paused or that nothing was worth its row.

        Args:
            forward_seconds: the forward and drawing.
            overhead_seconds: drafting and learning, be it on the device.
        """
        self.times.observe(branches + nodes, forward_seconds)
        if not isinstance(self.policy, Goodput) or not self._drafting:
            return
        # What preparing took is spent however many nodes follow: it counts in whether to draft, not in how much.
        self.policy.overhead((overhead_seconds - self._prepare_seconds) / (branches + nodes), _STEP)
        if self.times.measured:
            plain = branches / float(self.times.upto(branches)[branches])
            advantage = (branches + accepted) / (forward_seconds + overhead_seconds) / plain - 1.0
            self._switch.settle(branches, advantage)

    def observe(self, rows: Rows) -> None:
        """Tells the source what the model says at the rows of this iteration."""
        if len(rows.tokens):
            self.source.observe(rows)

    def use_device(self, device: torch.device, vocab: int) -> None:
        """Has the sources' tables on the model's device, where that draws the tokens too."""
        self.source = tabled(self.source, device, vocab)

    def reset(self) -> None:
        """Forgets what came, and how good guesses were; what forwards cost is known on."""
        self.source.reset()
        self._ranking.reset()
        self._switch = Switch()

    def _draw(self, streams: Sequence[Stream]) -> Drafts:
        """Trees whose children are drawn, in the slots that a template grants beforehand."""
        assert isinstance(self.policy, Fixed)
        for source in self.source.sources if isinstance(self.source, Union) else (self.source,):
            source.prepare(streams)
        coins = [SeededCoins(stream.seed, stream.key, len(stream.tokens)) for stream in streams]
        trees: list[DraftTree] = []
        for stream, own in zip(streams, coins, strict=True):
            template = tuple(path for path in self.policy.template if len(path) <= stream.room)
            if self.rule.draws == "mixed":
                trees.append(self._draw_mixed(stream, own))
                continue
            trees.append(
                draw_tree(
                    stream.tokens[-1],
                    self.source.state(stream) if template else None,
                    self.source.step,
                    self.source.distribution,
                    template,
                    own,
                    replacement=self.rule.draws == "replacement",
                )
            )
        return Drafts(trees, coins=coins)

    def _draw_mixed(self, stream: Stream, coins: SeededCoins) -> DraftTree:
        """At each place the first source's best token is put, and the template's other slots are drawn from the
        second source."""
        assert isinstance(self.source, Union) and isinstance(self.policy, Fixed)
        put, drawn = self.source.sources
        widths = Counter(path[:-1] for path in self.policy.template if len(path) <= stream.room)
        tree = DraftTree([stream.tokens[-1]])
        start = ((), 0, put.state(stream), drawn.state(stream))
        places: list[tuple[tuple[int, ...], int, State, State]] = [start] if widths else []
        for slot, node, first, second in places:  # grows as it is read
            width = widths[slot]
            expected = put.distribution(first) if width and first is not None else None
            if expected is not None and expected.tokens:
                tree.add(node, expected.tokens[0], expected.probabilities[0], put.name)
                tree.fixed[node] = 1
            left = width - len(tree.children[node])
            if left > 0 and second is not None and (q := drawn.distribution(second)).tokens:
                grow(tree, node, q, left, coins)
            for rank, child in enumerate(tree.children[node]):
                token = tree.tokens[child]
                after = None if first is None else put.step(first, token)
                places.append(((*slot, rank), child, after, None if second is None else drawn.step(second, token)))
        return tree


def contexts(tokens: Sequence[int], tree: DraftTree | None) -> list[list[int]]:
    """The last ``CONTEXT`` tokens at each node of a tree behind ``tokens``, the root first; -1 before the path's
    start."""
    found = [[*[-1] * (CONTEXT - len(tokens)), *tokens[-CONTEXT:]]]
    if tree is not None:
        for token, parent in zip(tree.tokens[1:], tree.parents[1:], strict=True):
            found.append([*found[parent][1:], token])
    return found


def _check_sound(source: Source, rule: Rule, policy: Policy) -> None:
    if rule.draws == "any":
        return
    allowed = "rules 'coupled' and 'match' are exact with any source and policy"
    if not isinstance(policy, Fixed):
        raise UsageError(
            f"rule {rule.name!r} is exact only where slots are granted before their tokens are drawn, which the policy "
            f"{policy.name!r} does not do: use policy 'fixed' or 'fixed:FILE'; {allowed}"
        )
    if rule.draws == "mixed":
        sources = source.sources if isinstance(source, Union) else (source,)
        if len(sources) != 2 or not sources[1].stochastic:
            raise UsageError(
                f"rule 'mixed' needs two sources, the second with probabilities that can be drawn from (lookup+stand), "
                f"got {source.name!r}; {allowed}"
            )
    elif isinstance(source, Union):
        raise UsageError(f"rule {rule.name!r} is not exact for a union of sources ({source.name}): {allowed}")
    elif not source.stochastic:
        raise UsageError(
            f"rule {rule.name!r} needs a source that tokens are drawn from, and {source.name!r} has no "
            f"probabilities to draw from: {allowed}"
        )
