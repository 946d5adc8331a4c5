"""Goose, on examples by hand and against a scan of the text."""

from __future__ import annotations

import pickle
import random
from collections.abc import Sequence

import numpy as np
import pytest

from reason.speculate.draft import CONTEXT, TOP, Rows, Stream
from reason.speculate.sources.goose import Goose


def begun(source: Goose, tokens: list[int]) -> Stream:
    stream = Stream(list(tokens), len(tokens), temperature=0.0)
    source.begin(stream)
    return stream


def generate(source: Goose, stream: Stream, tokens: list[int]) -> None:
    stream.tokens += tokens
    source.extend(stream, len(tokens))


def rows(*entries: tuple[Sequence[int], dict[int, float]]) -> Rows:
    """Rows from (path's end, probabilities); tokens 1000, 1001 ... of probability 0 fill them up."""
    contexts = [[-1] * (CONTEXT - len(end)) + list(end) for end, _ in entries]
    tokens = [[*row, *range(1000, 1000 + TOP - len(row))] for _, row in entries]
    probabilities = [[*row.values(), *[0.0] * (TOP - len(row))] for _, row in entries]
    return Rows(np.array(contexts), np.array(tokens), np.array(probabilities))


def shown(source: Goose, tokens: list[int]) -> dict[int, float] | None:
    """The distribution at the end of a new stream."""
    stream = begun(source, tokens)
    state = source.state(stream)
    source.end(stream)
    if state is None:
        return None
    answer = source.distribution(state)
    assert list(answer.probabilities) == sorted(answer.probabilities, reverse=True)
    assert len(set(answer.tokens)) == len(answer.tokens)
    assert sum(answer.probabilities) <= 1.0
    return dict(zip(answer.tokens, answer.probabilities, strict=True))


def test_branches_are_the_last_row_as_a_softmax_over_its_entries() -> None:
    source = Goose()
    source.observe(rows(([7], {1: 0.6, 2: 0.2})))
    answer = shown(source, [7])
    assert answer is not None
    assert list(answer) == [1, 2]
    assert answer[1] == pytest.approx(3 * answer[2])
    source.observe(rows(([7], {5: 0.5}), ([7], {6: 0.5})))
    assert list(shown(source, [7]) or ()) == [6]


def test_bigrams_are_asked_first() -> None:
    source = Goose()
    source.observe(rows(([3, 7], {1: 0.9}), ([4, 7], {2: 0.9})))
    assert list(shown(source, [3, 7]) or ()) == [1]
    assert list(shown(source, [4, 7]) or ()) == [2]
    assert list(shown(source, [5, 7]) or ()) == [2]
    assert list(shown(source, [7]) or ()) == [2]
    assert shown(source, [7, 3]) is None


def test_hardly_likely_entries_are_no_branches() -> None:
    source = Goose(min_score=0.05)
    source.observe(rows(([7], {1: 0.95, 2: 0.04})))
    assert list(shown(source, [7]) or ()) == [1]


def test_branches_go_on_from_token_to_token() -> None:
    source = Goose()
    source.observe(rows(([1], {2: 0.9}), ([1, 2], {3: 0.9}), ([9, 2], {4: 0.9})))
    stream = begun(source, [1])
    state = source.state(stream)
    before = pickle.dumps(state)
    after = source.step(state, 2)
    assert list(source.distribution(after).tokens) == [3]
    assert source.step(after, 3) is None  # nothing is known after 3
    assert pickle.dumps(state) == before


def test_the_spine_copies_the_first_occurrence() -> None:
    source = Goose()
    stream = begun(source, [1, 2, 3, 40, 41, 1, 2, 3, 50, 1, 2, 3])
    state = source.state(stream)
    for token in (40, 41, 1):
        assert list(source.distribution(state).tokens) == [token]
        state = source.step(state, token)
    assert source.step(state, 9) is None


def test_the_spine_goes_on_beyond_the_texts_end() -> None:
    source = Goose()
    stream = begun(source, [1, 2, 3, 1, 2, 3])
    state = source.state(stream)
    for token in (1, 2, 3, 1, 2, 3, 1):
        assert list(source.distribution(state).tokens) == [token]
        state = source.step(state, token)


def confidence(source: Goose, tokens: list[int]) -> float:
    return max((shown(source, tokens) or {0: 0.0}).values())


def test_confidence_starts_at_gooses_figures() -> None:
    source = Goose()
    fresh = range(100, 140).__iter__()

    def text(length: int) -> list[int]:
        run = [next(fresh) for _ in range(length)]
        return [*run, 50, 60, *run]

    assert confidence(source, text(4)) == pytest.approx(0.6 * 4 / 8)
    assert confidence(source, text(12)) == pytest.approx(0.7 + 0.2 * 4 / 12)
    assert confidence(source, text(20)) == pytest.approx(0.7 + 0.2 * 8 / 12)


def test_consensus_needs_two_occurrences_that_agree() -> None:
    source = Goose()
    once = confidence(source, [8, 1, 2, 3, 50, 9, 1, 2, 3])
    agreed = confidence(source, [8, 1, 2, 3, 50, 7, 1, 2, 3, 50, 9, 1, 2, 3])
    disagreed = confidence(source, [8, 1, 2, 3, 50, 7, 1, 2, 3, 51, 9, 1, 2, 3])
    assert once == disagreed < 0.3
    assert agreed > 0.9
    # The n-grams of one length decide: 6 1 2 3 occurred once, so that 1 2 3 agreed does not count.
    assert confidence(source, [8, 1, 2, 3, 50, 6, 1, 2, 3, 50, 5, 6, 1, 2, 3]) < 0.5


@pytest.mark.parametrize("seed", range(6))
def test_the_spine_is_that_of_a_scan_of_the_text(seed: int) -> None:
    rng = random.Random(seed)
    source = Goose(max_ngram=4, min_ngram=1 + seed % 3)
    stream = begun(source, [rng.randrange(3) for _ in range(rng.randrange(1, 6))])
    for _ in range(60):
        tokens, places = stream.tokens, list[int]()
        for n in range(4, seed % 3, -1):
            places = [i for i in range(n, len(tokens)) if tokens[i - n : i] == tokens[-n:]]
            if places:
                break
        state = source.state(stream)
        if not places:
            assert state is None
        else:
            assert state.spine.at == places[0]
            assert state.spine.agreed == (len(places) > 1 and len({tokens[i] for i in places}) == 1)
            back = 0
            while back < 32 and back < places[0] and tokens[places[0] - 1 - back] == tokens[-1 - back]:
                back += 1
            assert state.spine.length == back
        generate(source, stream, [rng.randrange(3) for _ in range(rng.randrange(1, 4))])


def test_branches_beside_the_spine_get_their_share_of_what_it_leaves() -> None:
    text = [1, 2, 3, 50, 9, 1, 2, 3]
    share = 0.4
    source = Goose(branch_share=share)
    spine = confidence(source, text)
    source.observe(rows(([3], {50: 0.5, 51: 0.3, 52: 0.2})))
    beside = shown(source, [9, 3]) or {}
    assert list(beside) == [50, 51, 52]
    merged = shown(source, text) or {}
    assert merged[50] == spine  # the spine's own, not counted twice
    for token in (51, 52):
        assert merged[token] == pytest.approx(share * (1 - spine) * beside[token])


def test_leaving_the_spine_leaves_the_branches() -> None:
    source = Goose()
    source.observe(rows(([3, 51], {60: 0.9})))
    stream = begun(source, [1, 2, 3, 50, 9, 1, 2, 3])
    state = source.state(stream)
    assert list(source.distribution(source.step(state, 51)).tokens) == [60]
    assert list(source.distribution(source.step(state, 50)).tokens) == [9]
    assert source.step(state, 52) is None


def test_learns_how_often_spine_and_rows_are_right() -> None:
    source = Goose()
    source.observe(rows(([3], {51: 0.9})))
    stream = begun(source, [1, 2, 3, 50, 9, 1, 2, 3])
    state = source.state(stream)
    start = dict(zip(*source.distribution(state)[:2], strict=True))
    for _ in range(100):
        source.settle(state, 50)
    right = dict(zip(*source.distribution(state)[:2], strict=True))
    assert right[50] > 0.85 > start[50]
    assert right[51] < start[51] / 5
    source.reset()
    assert source.state(begun(source, [3])) is None
    assert source.distribution(source.state(stream)).probabilities[0] == start[50]


def test_tables_are_bounded_and_the_first_goes_first() -> None:
    source = Goose(max_rows=5)
    for token in range(40):
        source.observe(rows(([100, token], {token + 1: 0.9}), ([101, token], {token + 2: 0.9})))
        assert len(source._unigrams) <= 5
        assert len(source._bigrams) <= 5
    assert shown(source, [100, 3]) is None
    assert list(shown(source, [100, 39]) or ()) == [40]
    assert list(shown(source, [101, 39]) or ()) == [41]
    source.observe(rows(*(([token], {7: 0.9}) for token in range(200, 212))))  # more in one go than there is room for
    assert [token for token in range(200, 212) if shown(source, [token])] == [207, 208, 209, 210, 211]


def test_rows_that_hold_nothing_are_skipped() -> None:
    source = Goose()
    source.observe(rows(([7], {}), ([8], {1: 0.9})))
    assert shown(source, [7]) is None
    assert list(shown(source, [8]) or ()) == [1]


def test_rows_are_shared_and_texts_are_not() -> None:
    source = Goose()
    begun(source, [1, 2, 3, 4])
    assert shown(source, [9, 1, 2, 3]) is None
    source.observe(rows(([1, 2, 3], {4: 0.9})))
    assert list(shown(source, [9, 2, 3]) or ()) == [4]


def test_only_a_streams_latest_places_stay() -> None:
    source = Goose(max_ngram=3, max_tokens=8)
    stream = begun(source, [1, 2, 3, 4, *range(100, 110), 1, 2, 3])
    assert source.state(stream) is None
    rng = random.Random(0)
    for _ in range(60):
        generate(source, stream, [rng.randrange(2) for _ in range(2)])
        index = source._indexes[stream]
        assert len(index.first) <= 8
        assert index.agreed.keys() <= index.first.keys()


def test_a_stream_that_ends_leaves_nothing_behind() -> None:
    source = Goose()
    source.end(begun(source, [1, 2, 3]))
    assert not source._indexes
