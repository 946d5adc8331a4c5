"""Replaying recorded streams through a source and a policy: what they would have drafted, and how much of it stood.

Each step drafts, accepts the longest drafted path that the recorded tokens spell, and goes on behind it and one more.
Under ``coupled`` the noise is that of the recorded request, so a replay accepts what the engine would. Of the rows that
sources learn from only those on the recorded path are known: rejected nodes teach nothing here, so a replay is a lower
bound for sources that harvest them.

The rejection rules emit another token than the recorded one whenever their coins differ. For those a node's draws and
coins are repeated until the recorded token comes out, which samples them given what came: exact, node by node. Their
nodes are the slots granted, drawn or not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from reason.speculate.draft import CONTEXT, TOP, Distribution, DraftTree, Rows, Source, Stream, Template
from reason.speculate.recording import RecordedProblem, RecordedSample, Recording
from reason.speculate.rules import Rule, SeededCoins, Verdict, grow
from reason.speculate.speculator import Speculator

__all__ = ["Replayed", "replay", "replay_rejection"]

_TRIES = 400  # for the recorded token to come out of a rejection rule


@dataclass(slots=True)
class Replayed:
    """What a replay counted. A step is one branch's part in one forward."""

    tokens: int = 0
    steps: int = 0
    nodes: int = 0
    accepted: int = 0

    @property
    def tokens_per_step(self) -> float:
        """The bonus included."""
        return self.tokens / max(1, self.steps)

    @property
    def nodes_per_step(self) -> float:
        return self.nodes / max(1, self.steps)

    @property
    def utilisation(self) -> float:
        """Accepted nodes among the drafted ones."""
        return self.accepted / max(1, self.nodes)

    def add(self, other: Replayed) -> None:
        """Counts another replay in."""
        self.tokens += other.tokens
        self.steps += other.steps
        self.nodes += other.nodes
        self.accepted += other.accepted


class _Playing:
    """One sample on its way."""

    def __init__(self, problem: RecordedProblem, sample: RecordedSample, temperature: float) -> None:
        self.sample = sample
        self.recorded: list[int] = sample.tokens.tolist()
        self.at = 0
        self.stream = Stream(list(problem.prompt), len(problem.prompt), temperature, problem.seed, sample.key)

    @property
    def over(self) -> bool:
        return self.at >= len(self.recorded)

    def begin(self, source: Source) -> None:
        """Up to the first token, which comes from the prompt's forward: that drafts nothing."""
        source.begin(self.stream)
        self.go_on(min(1, len(self.recorded)), source)

    def verdict(self, tree: DraftTree) -> Verdict:
        """The drafted path that the recorded tokens spell, and the token behind it."""
        node, accepted = 0, list[int]()
        while (child := tree.child(node, self.recorded[self.at + len(accepted)])) is not None:
            if self.at + len(accepted) + 1 >= len(self.recorded):
                break  # the last recorded token has to be the bonus
            accepted.append(child)
            node = child
        return Verdict(tuple(accepted), self.recorded[self.at + len(accepted)])

    def go_on(self, count: int, source: Source) -> None:
        """The next ``count`` recorded tokens came."""
        self.stream.tokens.extend(self.recorded[self.at : self.at + count])
        self.at += count
        self.stream.room = max(0, len(self.recorded) - self.at - 1)
        source.extend(self.stream, count)


def replay(
    recording: Recording, speculator: Speculator, *, side_by_side: bool = False, fresh: bool = True, history: int = 0
) -> list[Replayed]:
    """Replays every sample; returns the counts, one a problem.

    Args:
        side_by_side: a problem's samples step together, and share one forward; else one after the other.
        fresh: what was learnt is forgotten before each problem.
        history: of each problem so many samples are first played without being counted.
    """
    results: list[Replayed] = []
    for problem in recording.problems:
        if fresh:
            speculator.reset()
        playing = [_Playing(problem, sample, recording.temperature) for sample in problem.samples]
        for earlier in playing[:history]:
            _play(speculator, [earlier], Replayed())
        counted = Replayed()
        rest = playing[history:]
        for group in [rest] if side_by_side else [[one] for one in rest]:
            _play(speculator, group, counted)
        results.append(counted)
    return results


def _play(speculator: Speculator, group: Sequence[_Playing], counted: Replayed) -> None:
    source = speculator.source
    for playing in group:
        playing.begin(source)
    active = list(group)
    _leave_ended(source, active)
    while active:
        drafts = speculator.draft([playing.stream for playing in active])
        found: list[list[int]] = []
        tops: list[tuple[_Playing, int]] = []
        for index, playing in enumerate(active):
            tree = DraftTree(playing.stream.tokens[-1:]) if drafts is None else drafts.trees[index]
            verdict = playing.verdict(tree)
            if drafts is not None:
                speculator.settle(drafts, index, verdict)
            count = len(verdict.accepted) + 1
            path = ([-1] * CONTEXT + playing.stream.tokens)[-CONTEXT:]
            path += [tree.tokens[node] for node in verdict.accepted]
            found += [path[i : i + CONTEXT] for i in range(count)]
            tops += [(playing, playing.at + i) for i in range(count)]
            playing.go_on(count, source)
            counted.tokens += count
            counted.steps += 1
            counted.nodes += len(tree)
            counted.accepted += count - 1
        _observe(source, found, tops)
        _leave_ended(source, active)


def _leave_ended(source: Source, active: list[_Playing]) -> None:
    for playing in [playing for playing in active if playing.over]:
        source.end(playing.stream)
        active.remove(playing)


def _observe(source: Source, found: list[list[int]], tops: list[tuple[_Playing, int]]) -> None:
    """Tells a source the rows of one step of a problem's samples, by their contexts."""
    if any(playing.sample.top_tokens is None for playing, _ in tops):
        return
    distinct = {
        one.sample.tokens[:at].tobytes(): i for i, (one, at) in enumerate(tops)
    }  # those at one place share its row
    chosen = sorted(distinct.values())
    rows = [_row(*tops[i]) for i in chosen]
    tokens = np.array([row[0][:TOP] for row in rows], dtype=np.int64)
    probabilities = np.array([row[1][:TOP] for row in rows])
    source.observe(Rows(np.array([found[i] for i in chosen], dtype=np.int64), tokens, probabilities))


def _row(playing: _Playing, at: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float64]]:
    """The recorded row that token ``at`` was drawn from: its likeliest tokens and their p after temperature. What was
    not recorded counts as one more token."""
    sample, temperature = playing.sample, playing.stream.temperature or 1.0
    assert sample.top_tokens is not None and sample.top_logprobs is not None
    raw = sample.top_logprobs[at].astype(np.float64)
    rest = max(1e-9, 1.0 - float(np.exp(raw).sum()))
    weights = np.exp(raw / temperature)
    return sample.top_tokens[at], weights / (weights.sum() + rest ** (1.0 / temperature))


def replay_rejection(
    recording: Recording, source: Source, rule: Rule, template: Template, *, side_by_side: bool = False
) -> list[Replayed]:
    """Replays under a rejection rule that verifies node by node, with a fixed template. See ``replay``.

    ``side_by_side`` matters to the source alone: what the samples teach each other.
    """
    assert rule.verify is not None and rule.draws in ("replacement", "without-replacement")
    results: list[Replayed] = []
    widths = Counter(path[:-1] for path in template)
    for problem in recording.problems:
        source.reset()
        playing = [_Playing(problem, sample, recording.temperature) for sample in problem.samples]
        counted = Replayed()
        for group in [playing] if side_by_side else [[one] for one in playing]:
            for one in group:
                one.begin(source)
            active = list(group)
            _leave_ended(source, active)
            while active:
                found: list[list[int]] = []
                tops: list[tuple[_Playing, int]] = []
                for one in active:
                    _reject_step(one, source, rule, widths, counted, found, tops)
                    counted.nodes += len(template)
                _observe(source, found, tops)
                _leave_ended(source, active)
        results.append(counted)
    return results


def _reject_step(
    playing: _Playing,
    source: Source,
    rule: Rule,
    widths: Counter[tuple[int, ...]],
    counted: Replayed,
    found: list[list[int]],
    tops: list[tuple[_Playing, int]],
) -> None:
    """One sample's part in a step; its rows are added to ``found`` and ``tops``."""
    coins = SeededCoins(playing.stream.seed, playing.stream.key, len(playing.stream.tokens))
    source.prepare([playing.stream])
    state = source.state(playing.stream)
    slot: tuple[int, ...] | None = ()
    count = 0
    path = ([-1] * CONTEXT + playing.stream.tokens)[-CONTEXT:]
    while slot is not None:
        at = playing.at + count
        found.append(path[-CONTEXT:])
        tops.append((playing, at))
        count += 1
        if at + 1 >= len(playing.recorded) or state is None or not widths[slot]:
            break
        rank = _accepted_rank(playing, at, source.distribution(state), rule, widths[slot], coins)
        slot = None if rank is None else (*slot, rank)
        if slot is not None:
            path.append(playing.recorded[at])
            state = source.step(state, playing.recorded[at])
            counted.accepted += 1
    playing.go_on(count, source)
    counted.tokens += count
    counted.steps += 1


def _accepted_rank(
    playing: _Playing, at: int, q: Distribution, rule: Rule, width: int, coins: SeededCoins
) -> int | None:
    """Which child the rule accepted, given that the recorded token came; None if it came as the residual's."""
    if not q.tokens:
        return None
    tokens, p = _row(playing, at)
    names = {int(token): i for i, token in enumerate(tokens)}
    for token in (*q.tokens, playing.recorded[at]):
        names.setdefault(int(token), len(names))
    row = np.zeros(len(names) + 1)
    row[: len(p)] = p
    row[-1] = max(0.0, 1.0 - row.sum())
    if playing.stream.temperature == 0.0:
        row[:] = 0.0
        row[names[playing.recorded[at]]] = 1.0
    local = Distribution([names[int(token)] for token in q.tokens], q.probabilities)
    wanted = names[playing.recorded[at]]
    assert rule.verify is not None
    for _ in range(_TRIES):
        tree = DraftTree([-1])
        grow(tree, 0, local, width, coins, replacement=rule.draws == "replacement")
        accepted, token = rule.verify(tree, lambda node: row, coins)
        came = tree.tokens[accepted[0]] if accepted else token
        if came == wanted:
            return tree.children[0].index(accepted[0]) if accepted else None
    return None
