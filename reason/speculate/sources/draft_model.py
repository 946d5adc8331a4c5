"""A smaller model of the same tokenizer that drafts for a larger one (Leviathan et al., https://arxiv.org/abs/2211.17192;
Chen et al., https://arxiv.org/abs/2302.01318), on its own runner and KV forest.

Before an iteration ``prepare`` brings every stream's path into the draft forest, and computes level after level of
places beyond their ends (``draft_shapes``), one forward a level over all streams together. The draft's places are
claims; those whose tokens the target accepts are committed where they lie, the others are freed, so nothing is ever
computed twice or rolled back. How many levels there are is SmartSpec's choice (``best_length``), from measured times of
both models and from how often what was drafted came.

A chain is itself drafted for: an n-gram source guesses how it goes on, the guesses are rows of the same forward, and
the chain walks on as far as the draft model's own choice is what was guessed.

Under a rejection rule the tokens drawn say which places are asked about, so there each is computed when it is
(``on_demand``).
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Collection, Iterator, Sequence

from reason.runtime.forest import Branch, PoolExhausted
from reason.runtime.noise import StreamNoise
from reason.runtime.runner import Forward, ModelRunner, RowPlanner
from reason.runtime.sampler import Draw, TopRows, draw_tokens
from reason.speculate.draft import NOTHING, Distribution, Source, State, Stream
from reason.speculate.policy import ForwardTimes, Ranking
from reason.speculate.sources.draft_shapes import MAX_LEVELS, Chain, Place, Shape, best_length
from reason.speculate.sources.suffix import Suffix
from reason.types import Sampling

__all__ = ["DraftModel"]

_MAX_ROWS = 512  # of a forward that catches up on a prompt
_GUESSES = 4  # n-gram tokens in a forward
_LIKELY = 0.5  # how likely a guess must be
_ACCEPTANCE = 0.7  # before anything is known
_STEP = 0.03  # of the exponential averages
_RETURN = 0.01  # towards ``_ACCEPTANCE`` in an iteration that drafts nothing: it is tried again after a while


class _Draft:
    """One stream's path in the draft forest, and the places beyond its end."""

    __slots__ = ("branch", "end", "foreign", "noise", "places", "root", "stream")

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.noise = StreamNoise(stream.seed, stream.key)
        self.foreign = False  # whether it has tokens that the draft model lacks
        self.branch: Branch | None = None
        self.end = -1  # tokens of the stream when ``root`` was made
        self.root = Place()
        self.places: list[Place] = []  # those with a claim, parents first


class _State:
    """A place, and whose."""

    __slots__ = ("draft", "place")

    def __init__(self, draft: _Draft, place: Place) -> None:
        self.draft = draft
        self.place = place


class DraftModel(Source):
    """See the module's docstring. The thread that computes the target owns it.

    Args:
        runner: the draft model; its forest must be used by nobody else.
        shape: which places are computed.
        length: how many levels; None chooses by goodput, for which ``target_seconds`` is needed.
        target_seconds: seconds of a target forward of so many rows.
        stop: compute nothing behind a path on which a rejection is likelier than this (SpecDec++,
            https://arxiv.org/abs/2405.19715); the likelihood is that of the calibrated estimates.
        ngram: whether an n-gram source drafts for the chain.
        coupled: whether the verification rule is ``coupled``.
        on_demand: whether places are computed when they are asked about; for the rejection rules.
        vocab_size: tokens that the target has; by default as many as the draft model.
    """

    name = "draft-model"
    reads_rows = False
    stochastic = True

    def __init__(
        self,
        runner: ModelRunner,
        *,
        shape: Shape | None = None,
        length: int | None = None,
        target_seconds: Callable[[int], float] | None = None,
        stop: float | None = None,
        ngram: bool = False,
        coupled: bool = True,
        on_demand: bool = False,
        vocab_size: int | None = None,
    ) -> None:
        assert on_demand or length is not None or target_seconds is not None
        self.runner = runner
        self._watcher: Callable[[Sequence[Stream]], None] | None = None
        self._shape = shape or Chain()
        self._length = 1 if on_demand else length  # what is behind the first level, the rule's draws decide
        self._target_seconds = target_seconds
        self._least_value = 0.0 if stop is None else 1.0 - stop
        self._ngram: Source | None = Suffix() if ngram else None
        self._on_demand = on_demand
        self._vocab_size = min(runner.vocab_size, vocab_size or runner.vocab_size)
        self._ranking = Ranking(coupled=coupled)
        self._times = ForwardTimes()
        if self._length is None:
            self._times.probe(runner.time_forward, runner.forest.pool.capacity // 2)
        self._drafts: dict[Stream, _Draft] = {}
        self._forget()

    # -- what is asked ---------------------------------------------------------------------------------------------

    def prepare(self, streams: Sequence[Stream]) -> None:
        levels = self.levels(len(streams))
        if not levels:
            self.acceptance += _RETURN * (_ACCEPTANCE - self.acceptance)
            return
        kept = set(streams)
        growing: dict[_Draft, list[Place]] = {}
        for stream in streams:
            draft = self._catch_up(stream, kept)
            if draft is not None and stream.room > 0 and draft.root.distribution is None:
                growing[draft] = [draft.root]
        forwards = 0
        while growing:
            places = [(draft, place) for draft, level in growing.items() for place in level]
            places += [(draft, guess) for draft, place in places for guess in self._guesses(draft, place, levels)]
            held = [(draft, place) for draft, place in places if self._hold(draft, place)]
            if held:
                self._compute(held)
                forwards += 1
            growing = {
                draft: deeper for draft, level in growing.items() if (deeper := self._next(draft, level, levels))
            }
        if forwards and self._ngram is not None:
            self._forwards_a_level += _STEP * (forwards / levels - self._forwards_a_level)

    def levels(self, streams: int) -> int:
        """How many levels to compute for so many streams: the number of forwards, where none is saved."""
        if self._length is not None:
            return self._length
        assert self._target_seconds is not None
        widths = itertools.takewhile(lambda width: width > 0.0, self._widths)
        rows = [max(1, round(streams * width)) for width in widths]  # by depth
        seconds = self._times.upto(max(rows))
        drafting = [self._forwards_a_level * float(seconds[number]) for number in rows[:-1]]
        verifying = [self._target_seconds(sum(rows[: depth + 1])) for depth in range(len(rows))]
        return best_length(self.acceptance, drafting, verifying)

    def state(self, stream: Stream) -> State:
        draft = self._catch_up(stream, {stream}) if self._on_demand else self._drafts.get(stream)
        if draft is None or draft.branch is None or draft.end != len(stream.tokens):
            return None
        return _State(draft, draft.root) if self._on_demand or draft.root.distribution is not None else None

    def step(self, state: State, token: int) -> State:
        place: Place = state.place
        if self._on_demand:
            return _State(state.draft, place.child(token))
        after = place.children.get(token)
        return None if after is None or after.distribution is None else _State(state.draft, after)

    def distribution(self, state: State) -> Distribution:
        draft, place = state.draft, state.place
        if place.distribution is None and self._on_demand and self._hold(draft, place):
            self._compute([(draft, place)])
        return place.distribution or NOTHING

    # -- what is told ----------------------------------------------------------------------------------------------

    def begin(self, stream: Stream) -> None:
        draft = self._drafts[stream] = _Draft(stream)
        draft.foreign = max(stream.tokens, default=0) >= self.runner.vocab_size
        if self._ngram is not None:
            self._ngram.begin(stream)

    def extend(self, stream: Stream, count: int) -> None:
        draft, new = self._drafts[stream], stream.tokens[len(stream.tokens) - count :]
        if max(new, default=0) >= self.runner.vocab_size:
            draft.foreign = True
            self._close(draft)
        if draft.branch is not None:
            if draft.end == len(stream.tokens) - count:
                self._learn(draft.root, new)
            with contextlib.suppress(PoolExhausted):  # catching up will make room
                self._advance(draft)
            self._free_places(draft)
        if self._ngram is not None:
            self._ngram.extend(stream, count)

    def end(self, stream: Stream) -> None:
        self._close(self._drafts.pop(stream))
        if self._ngram is not None:
            self._ngram.end(stream)

    def reset(self) -> None:
        for draft in self._drafts.values():
            self._close(draft)
        self.runner.forest.clear()
        self._ranking.reset()
        if self._ngram is not None:
            self._ngram.reset()
        self._forget()

    def runners(self) -> Sequence[ModelRunner]:
        return (self.runner,)

    def watch_forwards(self, watcher: Callable[[Sequence[Stream]], None]) -> None:
        self._watcher = watcher

    def _forget(self) -> None:
        self.acceptance = _ACCEPTANCE  # how likely one of the tokens kept at a place is to come
        self._forwards_a_level = 1.0
        # Tokens kept by depth, a stream; at depth 0 its end.
        self._widths = [1.0, *(self._shape.width(depth) for depth in range(1, MAX_LEVELS + 1))]

    def _learn(self, place: Place, tokens: Sequence[int]) -> None:
        """From what came at the places on its path. ``settle`` would leave out what the policy did not draft, and all
        that rejection rules do."""
        for token in tokens:
            if place.distribution is None:
                return
            if place.kept:
                self.acceptance += _STEP * ((token in place.kept) - self.acceptance)
            for candidate in place.candidates:
                self._ranking.settle(candidate.proposer, candidate.bucket, candidate.token == token)
            if self._ngram is not None and place.copied is not None:
                self._ngram.settle(place.copied, token)
            if token not in place.children:
                return
            place = place.children[token]

    # -- paths in the forest ---------------------------------------------------------------------------------------

    def _catch_up(self, stream: Stream, kept: Collection[Stream]) -> _Draft | None:
        """The stream's draft, its branch at the stream's end; None where that does not fit the pool, even without the
        branches of streams that are not ``kept``, or the model."""
        draft = self._drafts[stream]
        if draft.branch is not None and draft.end == len(stream.tokens):
            return draft
        if draft.foreign or len(stream.tokens) >= self.runner.max_positions:
            return None
        try:
            self._advance(draft)
        except PoolExhausted:
            for other in self._drafts.values():
                if other.stream not in kept:
                    self._close(other)
            try:
                self._advance(draft)
            except PoolExhausted:
                self._close(draft)
                return None
        return draft

    def _advance(self, draft: _Draft) -> None:
        """Brings the branch to the stream's end. Places that the new tokens lead through are committed by that; then
        all are given up."""
        forest, tokens = self.runner.forest, draft.stream.tokens
        if draft.branch is None:
            draft.branch = forest.open(tokens)
        for token in tokens[draft.branch.length :]:
            forest.append(draft.branch, token)
        self._free_places(draft)
        forest.tidy(draft.branch)
        draft.end, draft.root = len(tokens), Place()

    def _free_places(self, draft: _Draft) -> None:
        for place in reversed(draft.places):
            assert place.claim is not None
            self.runner.forest.close(place.claim)
            place.claim = None
        draft.places.clear()

    def _close(self, draft: _Draft) -> None:
        self._free_places(draft)
        if draft.branch is not None:
            self.runner.forest.close(draft.branch)
            draft.branch, draft.end, draft.root = None, -1, Place()

    def _hold(self, draft: _Draft, place: Place) -> bool:
        """Claims a place and those on the way to it; False where the pool or the model's positions end."""
        if draft.branch is None or draft.end + place.depth >= self.runner.max_positions:
            return False
        if place.parent is None or place.claim is not None:
            return True
        if not self._hold(draft, place.parent) or place.token >= self.runner.vocab_size:
            return False
        try:
            place.claim = self.runner.forest.claim(place.parent.claim or draft.branch, place.token)
        except PoolExhausted:
            return False
        draft.places.append(place)
        return True

    # -- computing -------------------------------------------------------------------------------------------------

    def _next(self, draft: _Draft, level: list[Place], levels: int) -> list[Place]:
        """What to compute after ``level``: the shape's choice, or where a chain stands when it has walked over guesses
        that were right."""
        most = min(levels, draft.stream.room)
        while level := [place for place in level if place.distribution is not None]:
            depth = level[0].depth + 1
            choices = self._shape.choose(level)
            if depth <= MAX_LEVELS:
                self._widths[depth] += _STEP * (len(choices) - self._widths[depth])
            deeper: list[Place] = []
            for choice in choices:
                choice.place.kept.append(choice.candidate.token)
                if depth < most and choice.value >= self._least_value:
                    place = choice.place.child(choice.candidate.token)
                    place.value = choice.value
                    deeper.append(place)
            missing = [place for place in deeper if place.distribution is None]
            if missing:
                return missing
            level = deeper
        return []

    def _guesses(self, draft: _Draft, place: Place, levels: int) -> Iterator[Place]:
        """The places behind ``place`` that an n-gram source expects, one after the other."""
        if self._ngram is None:
            return
        for count in range(_GUESSES + 1):
            if place.parent is None:
                place.copied = self._ngram.state(draft.stream)
            elif place.parent.copied is not None:
                place.copied = self._ngram.step(place.parent.copied, place.token)
            if place.copied is None or place.depth + 1 >= min(levels, draft.stream.room) or count == _GUESSES:
                return
            expected = self._ngram.distribution(place.copied)
            if not expected.tokens or expected.probabilities[0] < _LIKELY:
                return
            place = place.child(expected.tokens[0])
            yield place

    def _compute(self, held: Sequence[tuple[_Draft, Place]]) -> None:
        """One forward for places that are held, and what is expected at each."""
        began = time.perf_counter()
        ends = [_end(draft, place) for draft, place in held]
        forward = self._forward(ends, [draft.stream for draft, _ in held])
        at = forward.places(ends)
        logits = forward.row_logits(at.rows, transient=True)
        by_temperature: dict[float, list[int]] = {}
        for i, (draft, _) in enumerate(held):
            by_temperature.setdefault(draft.stream.temperature or 1.0, []).append(i)
        for temperature, members in by_temperature.items():
            sampling = Sampling(temperature=temperature)
            tops: list[TopRows] = []
            rows = sorted({at.of_branch[i] for i in members})
            draw_tokens(logits, [Draw(row, 0, 0, 0, sampling) for row in rows], tops)
            expected = {row: self._distribution(tops[0], i) for i, row in enumerate(tops[0].rows)}
            for i in members:
                draft, place = held[i]
                q = place.distribution = expected[at.of_branch[i]]
                place.candidates = self._ranking.candidates(draft.stream, draft.noise, place.depth + 1, q)
        self._times.observe(len(forward.batch.rows), time.perf_counter() - began)

    def _forward(self, ends: Sequence[Branch], streams: Sequence[Stream]) -> Forward:
        """The rows of ``ends``, each of one of ``streams``, after those that their paths still lack."""
        while True:
            planner = RowPlanner(_MAX_ROWS + len(ends))
            whole = True
            present: dict[Stream, None] = {}
            for end, stream in zip(ends, streams, strict=True):
                rows = len(planner.rows)
                added = planner.add_last(end)
                whole = whole and added
                if added or len(planner.rows) > rows:
                    present[stream] = None
            forward = self.runner.forward_rows(planner.rows)
            if self._watcher is not None:
                self._watcher(list(present))
            if whole:
                return forward

    def _distribution(self, top: TopRows, row: int) -> Distribution:
        """The likeliest tokens of a row that the target has, too."""
        pairs = zip(top.tokens[row].tolist(), top.probabilities[row].tolist(), strict=True)
        found = [(token, p) for token, p in pairs if 0 <= token < self._vocab_size and p > 0.0]
        return Distribution([token for token, _ in found], [p for _, p in found])


def _end(draft: _Draft, place: Place) -> Branch:
    """The cursor on a place that is held."""
    end = draft.branch if place.parent is None else place.claim
    assert end is not None
    return end
