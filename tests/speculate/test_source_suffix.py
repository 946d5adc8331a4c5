"""SuffixDecoding, on examples by hand and against a scan of all text."""

from __future__ import annotations

import pickle
import random
from typing import NamedTuple

import pytest

from reason.speculate.draft import Stream
from reason.speculate.estimates import MATCH_PRIORS, match_bucket
from reason.speculate.occurrences import ladder
from reason.speculate.sources.suffix import Suffix


def begun(source: Suffix, tokens: list[int]) -> Stream:
    stream = Stream(list(tokens), len(tokens), temperature=0.0)
    source.begin(stream)
    return stream


def generate(source: Suffix, stream: Stream, tokens: list[int]) -> None:
    stream.tokens += tokens
    source.extend(stream, len(tokens))


def ended(source: Suffix, prompt: list[int], output: list[int]) -> None:
    stream = begun(source, prompt)
    generate(source, stream, output)
    source.end(stream)


def prior(length: int, occurrences: int) -> float:
    return MATCH_PRIORS[match_bucket(length, occurrences)]


def test_counts_what_followed_the_longest_match() -> None:
    source = Suffix()
    ended(source, [9], [1, 2, 3, 1, 2, 4, 1, 2, 4])
    stream = begun(source, [8, 1, 2])
    tokens, probabilities, _ = source.distribution(source.state(stream))
    assert list(tokens) == [4, 3]
    assert list(probabilities) == pytest.approx([prior(2, 3) * 2 / 3, prior(2, 3) / 3])


def test_step_keeps_the_occurrences_that_agree() -> None:
    source = Suffix()
    ended(source, [9], [1, 2, 4, 5, 0, 1, 2, 4, 6, 0, 1, 2, 3])
    state = source.state(begun(source, [8, 1, 2]))
    before = pickle.dumps(state)
    after = source.step(state, 4)
    assert list(source.distribution(after).tokens) == [6, 5]
    assert list(source.distribution(after).probabilities) == pytest.approx([prior(3, 2) / 2] * 2)
    assert source.step(state, 7) is None
    assert source.step(state, 3) is None  # that text ends there
    assert list(source.distribution(state).tokens) == [4, 3]
    assert pickle.dumps(state) == before


def test_prompts_stay_in_their_own_stream_but_lead_to_what_was_generated() -> None:
    source = Suffix()
    first = begun(source, [1, 2, 3, 4])
    second = begun(source, [1, 2])
    assert source.state(second) is None  # 3 followed in a prompt only
    generate(source, first, [5, 6])
    assert source.state(begun(source, [2, 3])) is None
    third = begun(source, [7, 3, 4])
    assert list(source.distribution(source.state(third)).tokens) == [5]  # though the first is under way


def test_a_stream_copies_from_its_own_prompt() -> None:
    source = Suffix()
    stream = begun(source, [1, 2, 3, 4, 5, 1, 2])
    state = source.state(stream)
    assert list(source.distribution(state).tokens) == [3]
    assert list(source.distribution(source.step(state, 3)).tokens) == [4]


def test_the_index_that_is_likelier_to_know_speaks() -> None:
    source = Suffix()
    ended(source, [9], [1, 2, 3, 4, 50])
    stream = begun(source, [4, 60, 0, 1, 2, 3, 4])
    assert list(source.distribution(source.state(stream)).tokens) == [50]  # four tokens there, one here
    again = begun(source, [7, 3, 4, 60, 7, 3, 4, 60, 7, 3, 4])
    assert list(source.distribution(source.state(again)).tokens) == [60]


def test_the_draft_is_as_deep_as_the_match_allows() -> None:
    source = Suffix(max_spec_factor=1.5, max_spec_offset=1)
    ended(source, [9], list(range(20, 50)))
    state, drafted = source.state(begun(source, [8, 20, 21])), 0
    while state is not None:
        (token,) = source.distribution(state).tokens
        state, drafted = source.step(state, token), drafted + 1
    assert drafted == 1.5 * 2 + 1
    nothing = Suffix(max_spec_factor=0.0)
    ended(nothing, [9], [1, 2, 3])
    assert nothing.state(begun(nothing, [1, 2])) is None


def test_unlikely_paths_are_not_drafted() -> None:
    source = Suffix(min_probability=0.3)
    ended(source, [9], [1, 2, 5, 6, 1, 2, 5, 7, 1, 2, 5, 8, 1, 2, 4, 6])
    state = source.state(begun(source, [0, 1, 2]))
    assert list(source.distribution(state).tokens) == [5]  # 4 has 1/4
    assert source.step(state, 4) is None
    after = source.step(state, 5)
    assert after is not None
    assert not source.distribution(after).tokens  # each has 3/4 * 1/3


class _Added(NamedTuple):
    whose: int
    path: list[int]  # up to the token itself


class Scan:
    """The source's answers from all that was ever added, found by looking at every place."""

    def __init__(self, max_depth: int, min_match: int, max_hits: int, factor: float) -> None:
        self.lengths, self.max_hits, self.factor = ladder(min_match, max_depth), max_hits, factor

    def matches(
        self, added: list[_Added], tokens: list[int], drafted: list[int]
    ) -> tuple[list[int], int, float] | None:
        """What comes next at each occurrence, the match's length and D."""
        for n in reversed(self.lengths):
            at = [i for i, (_, path) in enumerate(added) if len(path) > n and path[-n - 1 : -1] == tokens[-n:]]
            if n > len(tokens) or not at:
                continue
            at, probability = at[::-1][: self.max_hits], 1.0
            if len(drafted) >= int(self.factor * n):
                return None
            for token in drafted:
                agreeing = [i for i in at if added[i].path[-1] == token]
                probability *= len(agreeing) / len(at)
                if probability < 0.1:
                    return None
                at = [j for i in agreeing for j, (w, path) in enumerate(added) if (w, path[:-1]) == added[i]]
                if not at:
                    return None
            return [added[i].path[-1] for i in at], n + len(drafted), probability
        return None

    def distribution(
        self, indices: list[list[_Added]], tokens: list[int], drafted: list[int]
    ) -> dict[int, float] | None:
        answers = []
        for index in indices:
            match = self.matches(index, tokens, drafted)
            if match is not None:
                following, length, probability = match
                kept = {t: following.count(t) / len(following) for t in following}
                rate = prior(length, len(following))
                answer = {t: rate * share for t, share in kept.items() if probability * share >= 0.1}
                answers.append((round(sum(answer.values()), 12), length, answer))
        return max(answers, key=lambda answer: answer[:2])[2] if answers else None


@pytest.mark.parametrize("seed", range(8))
def test_answers_as_a_scan_of_all_text_does(seed: int) -> None:
    rng = random.Random(seed)
    source = Suffix(max_depth=6, min_match=1 + seed % 2, max_hits=6, max_spec_factor=1.5)
    scan = Scan(6, 1 + seed % 2, 6, 1.5)
    streams = [begun(source, [rng.randrange(3) for _ in range(rng.randrange(1, 6))]) for _ in range(3)]
    own = [[_Added(i, s.tokens[: end + 1]) for end in range(len(s.tokens))] for i, s in enumerate(streams)]
    shared: list[_Added] = []
    for _ in range(40):
        whose, count = rng.randrange(3), rng.randrange(1, 4)
        stream = streams[whose]
        generate(source, stream, [rng.randrange(3) for _ in range(count)])
        new = [_Added(whose, stream.tokens[: end + 1]) for end in range(len(stream.tokens))][-count:]
        own[whose] += new
        shared += new
        for asked, index in zip(streams, own, strict=True):
            state, drafted = source.state(asked), list[int]()
            while state is not None:
                answer = source.distribution(state)
                expected = scan.distribution([index, shared], asked.tokens, drafted)
                assert expected is not None
                assert dict(zip(answer.tokens, answer.probabilities, strict=True)) == pytest.approx(expected)
                assert len(set(answer.tokens)) == len(answer.tokens)
                assert list(answer.probabilities) == sorted(answer.probabilities, reverse=True)
                assert sum(answer.probabilities) <= 1.0
                token = rng.randrange(3)
                state = source.step(state, token)
                drafted.append(token)
            assert scan.distribution([index, shared], asked.tokens, drafted) is None


def test_learns_how_often_a_match_goes_on_as_before() -> None:
    source = Suffix()
    stream = begun(source, [1, 2, 3, 1, 2])
    state = source.state(stream)
    start = source.distribution(state).probabilities[0]
    for _ in range(50):
        source.settle(state, 9)
    assert source.distribution(state).probabilities[0] < start / 2
    for _ in range(300):
        source.settle(state, 3)
    assert start < source.distribution(state).probabilities[0] <= 1.0
    source.reset()
    assert source.distribution(source.state(stream)).probabilities[0] == start


def test_the_shared_index_forgets_the_oldest() -> None:
    source = Suffix(max_tokens=20)
    ended(source, [9], [1, 2, 3])
    assert source.state(begun(source, [1, 2])) is not None
    rng = random.Random(0)
    for _ in range(30):
        ended(source, [9], [rng.randrange(100, 1000) for _ in range(5)])
        assert len(source._shared) <= 20
    assert source.state(begun(source, [1, 2])) is None


def test_a_streams_own_index_is_bounded() -> None:
    source = Suffix(max_stream_tokens=20, max_tokens=1)
    stream = begun(source, [1, 2, 3, *range(100, 200)])
    generate(source, stream, [1, 2])
    assert source.state(stream) is None
    assert len(source._entries[stream].occurrences) == 20


def test_reset_forgets_the_outputs_and_streams_under_way_go_on() -> None:
    source = Suffix()
    stream = begun(source, [9])
    generate(source, stream, [1, 2, 3])
    source.reset()
    assert source.state(begun(source, [1, 2])) is None
    generate(source, stream, [4])
    assert list(source.distribution(source.state(begun(source, [2, 3]))).tokens) == [4]


def test_a_stream_that_ends_leaves_only_its_output() -> None:
    source = Suffix()
    ended(source, [1, 2, 3], [4])
    assert not source._entries
    assert len(source._shared) == 1
