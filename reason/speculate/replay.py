"""Replaying recorded streams through a source and a policy: what they would have drafted, and how much of it stood.

Each step drafts, accepts the longest drafted path that the recorded tokens spell, and goes on behind it and one more.
Under ``coupled`` the noise is that of the recorded request, so a replay accepts what the engine would. Of the rows that
sources learn from only those on the recorded path are known: rejected nodes teach nothing here, so a replay is a lower
bound for sources that harvest them.

The rejection rules emit another token than the recorded one whenever their coins differ. For those a node's draws and
coins are repeated until the recorded token comes out, which samples them given what came: exact, node by node.
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
        self.at = 1  # the first token comes from the prompt's forward, which drafts nothing
        self.stream = Stream(
            [*problem.prompt, *self.recorded[:1]], len(problem.prompt), temperature, problem.seed, sample.key
        )
        self._set_room()

    @property
    def over(self) -> bool:
        return self.at >= len(self.recorded)

    def verdict(self, tree: DraftTree) -> Verdict:
        """The drafted path that the recorded tokens spell, and the token behind it."""
        node, accepted = 0, list[int]()
        while (child := tree.child(node, self.recorded[self.at + len(accepted)])) is not None:
            if self.at + len(accepted) + 1 >= len(self.recorded):
                break  # the last recorded token has to be the bonus
            accepted.append(child)
            node = child
        return Verdict(tuple(accepted), self.recorded[self.at + len(accepted)])

    def go_on(self, count: int) -> None:
        self.stream.tokens.extend(self.recorded[self.at : self.at + count])
        self.at += count
        self._set_room()

    def _set_room(self) -> None:
        self.stream.room = max(0, len(self.recorded) - self.at - 1)


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
        source.begin(playing.stream)
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
            playing.go_on(count)
            source.extend(playing.stream, count)
            counted.tokens += count
            counted.steps += 1
            counted.nodes += len(tree)
            counted.accepted += count - 1
        _observe(speculator, found, tops)
        _leave_ended(source, active)


def _leave_ended(source: Source, active: list[_Playing]) -> None:
    for playing in [playing for playing in active if playing.over]:
        source.end(playing.stream)
        active.remove(playing)


def _observe(speculator: Speculator, found: list[list[int]], tops: list[tuple[_Playing, int]]) -> None:
    if any(playing.sample.top_tokens is None for playing, _ in tops):
        return
    distinct = {tuple(context): i for i, context in enumerate(found)}  # samples at one place share its row
    chosen = sorted(distinct.values())
    rows = [_row(*tops[i]) for i in chosen]
    tokens = np.array([row[0][:TOP] for row in rows], dtype=np.int64)
    probabilities = np.array([row[1][:TOP] for row in rows])
    speculator.observe(Rows(np.array([found[i] for i in chosen], dtype=np.int64), tokens, probabilities))


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
                source.begin(one.stream)
            active = list(group)
            _leave_ended(source, active)
            while active:
                for one in active:
                    _reject_step(one, source, rule, widths, counted)
                    counted.nodes += len(template)
                _leave_ended(source, active)
        results.append(counted)
    return results


def _reject_step(
    playing: _Playing, source: Source, rule: Rule, widths: Counter[tuple[int, ...]], counted: Replayed
) -> None:
    coins = SeededCoins(playing.stream.seed, playing.stream.key, len(playing.stream.tokens))
    state = source.state(playing.stream)
    slot: tuple[int, ...] | None = ()
    count = 0
    contexts: list[list[int]] = []
    tops: list[tuple[_Playing, int]] = []
    path = ([-1] * CONTEXT + playing.stream.tokens)[-CONTEXT:]
    while slot is not None:
        at = playing.at + count
        contexts.append(path[-CONTEXT:])
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
    playing.go_on(count)
    source.extend(playing.stream, count)
    counted.tokens += count
    counted.steps += 1
    rows = [_row(*top) for top in tops]
    source.observe(
        Rows(
            np.array(contexts, dtype=np.int64),
            np.array([row[0][:TOP] for row in rows], dtype=np.int64),
            np.array([row[1][:TOP] for row in rows]),
        )
    )


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
