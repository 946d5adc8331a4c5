"""Retrieval, on examples by hand and against a scan of the datastore."""

from __future__ import annotations

import json
import pickle
import random
from pathlib import Path

import pytest

from reason.engine.scripted import ByteCodec
from reason.errors import UsageError
from reason.speculate.draft import Stream
from reason.speculate.estimates import MATCH_PRIORS, match_bucket
from reason.speculate.occurrences import ladder
from reason.speculate.sources.retrieval import Retrieval


def begun(source: Retrieval, tokens: list[int]) -> Stream:
    stream = Stream(list(tokens), len(tokens), temperature=0.0)
    source.begin(stream)
    return stream


def generate(source: Retrieval, stream: Stream, tokens: list[int]) -> None:
    stream.tokens += tokens
    source.extend(stream, len(tokens))


def ended(source: Retrieval, prompt: list[int], output: list[int]) -> None:
    stream = begun(source, prompt)
    generate(source, stream, output)
    source.end(stream)


def prior(length: int, occurrences: int) -> float:
    return MATCH_PRIORS[match_bucket(length, occurrences)]


def test_counts_what_followed_in_the_texts() -> None:
    source = Retrieval(texts=[[1, 2, 3, 4], [1, 2, 3, 5], [0, 1, 2, 6]])
    state = source.state(begun(source, [9, 1, 2]))
    tokens, probabilities, _ = source.distribution(state)
    assert list(tokens) == [3, 6]
    assert list(probabilities) == pytest.approx([prior(2, 3) * 2 / 3, prior(2, 3) / 3])
    before = pickle.dumps(state)
    after = source.step(state, 3)
    assert sorted(source.distribution(after).tokens) == [4, 5]
    assert list(source.distribution(after).probabilities) == pytest.approx([prior(3, 2) / 2] * 2)
    assert source.step(state, 4) is None
    assert pickle.dumps(state) == before


def test_texts_and_outputs_count_together_at_equal_length() -> None:
    source = Retrieval(texts=[[1, 2, 3]])
    ended(source, [9], [1, 2, 4, 0, 1, 2, 4])
    tokens, probabilities, _ = source.distribution(source.state(begun(source, [1, 2])))
    assert list(tokens) == [4, 3]
    assert list(probabilities) == pytest.approx([prior(2, 3) * 2 / 3, prior(2, 3) / 3])


def test_the_longer_match_speaks_alone() -> None:
    source = Retrieval(texts=[[0, 1, 2, 3]])
    ended(source, [9], [1, 2, 4])
    assert list(source.distribution(source.state(begun(source, [0, 1, 2]))).tokens) == [3]
    assert list(source.distribution(source.state(begun(source, [9, 1, 2]))).tokens) == [4]


def test_outputs_are_shared_while_they_grow_and_prompts_are_not() -> None:
    source = Retrieval()
    stream = begun(source, [1, 2, 3])
    asked = begun(source, [1, 2])
    assert source.state(asked) is None
    generate(source, stream, [4, 5])
    assert source.state(asked) is None
    assert list(source.distribution(source.state(begun(source, [3, 4]))).tokens) == [5]
    assert list(source.distribution(source.state(begun(source, [2, 3]))).tokens) == [4]  # led to by a prompt


def test_without_learning_only_the_texts_count() -> None:
    source = Retrieval(texts=[[5, 6, 7]], learn=False)
    ended(source, [9], [1, 2, 3])
    assert source.state(begun(source, [1, 2])) is None
    assert list(source.distribution(source.state(begun(source, [5, 6]))).tokens) == [7]


@pytest.mark.parametrize("seed", range(6))
def test_answers_as_a_scan_of_the_datastore_does(seed: int) -> None:
    rng = random.Random(seed)
    lengths = ladder(1 + seed % 3, 6)
    texts = [[rng.randrange(4) for _ in range(rng.randrange(15))] for _ in range(3 * (seed % 2))]
    source = Retrieval(texts=texts, min_match=1 + seed % 3, max_match=6, max_hits=10_000)
    streams = [begun(source, [rng.randrange(4) for _ in range(rng.randrange(1, 6))]) for _ in range(3)]
    for _ in range(30):
        generate(source, rng.choice(streams), [rng.randrange(4) for _ in range(rng.randrange(1, 4))])
        paths = [(stream.tokens, stream.prompt_length) for stream in streams] + [(text, 0) for text in texts]
        tokens = rng.choice(streams).tokens
        rest: list[list[int]] = []
        n = 0
        for n in reversed(lengths):
            rest = [
                path[i:]
                for path, first in paths
                for i in range(max(n, first), len(path))
                if path[i - n : i] == tokens[-n:]
            ]
            if rest and n <= len(tokens):
                break
            rest = []
        state = source.state(next(stream for stream in streams if stream.tokens is tokens))
        while rest:
            answer = source.distribution(state)
            following = [path[0] for path in rest]
            rate = prior(n, len(rest))
            expected = {t: rate * following.count(t) / len(following) for t in following}
            assert dict(zip(answer.tokens, answer.probabilities, strict=True)) == pytest.approx(expected)
            assert len(set(answer.tokens)) == len(answer.tokens)
            assert list(answer.probabilities) == sorted(answer.probabilities, reverse=True)
            assert sum(answer.probabilities) <= 1.0
            token = rng.randrange(4)
            state = source.step(state, token)
            rest, n = [path[1:] for path in rest if path[0] == token and len(path) > 1], n + 1
        assert state is None


def test_no_more_hits_than_the_bound() -> None:
    source = Retrieval(texts=[[1, 2, token] for token in range(10, 60)], max_hits=8)
    ended(source, [9], [1, 2, 3])
    tokens = source.distribution(source.state(begun(source, [1, 2]))).tokens
    assert len(tokens) == 8
    assert 3 in tokens  # what this run wrote comes before the texts


def test_learns_how_often_matches_go_on() -> None:
    source = Retrieval(texts=[[1, 2, 3]])
    state = source.state(begun(source, [1, 2]))
    (start,) = source.distribution(state).probabilities
    for _ in range(50):
        source.settle(state, 9)
    (low,) = source.distribution(state).probabilities
    for _ in range(300):
        source.settle(state, 3)
    (high,) = source.distribution(state).probabilities
    assert low < start < high <= 1.0


def test_reset_keeps_the_texts_and_forgets_the_outputs() -> None:
    source = Retrieval(texts=[[5, 6, 7]])
    stream = begun(source, [9])
    generate(source, stream, [1, 2, 3])
    source.reset()
    assert source.state(begun(source, [1, 2])) is None
    assert source.state(begun(source, [5, 6])) is not None
    generate(source, stream, [4])
    assert list(source.distribution(source.state(begun(source, [2, 3]))).tokens) == [4]


def test_outputs_are_bounded_and_streams_leave_nothing_else() -> None:
    source = Retrieval(max_tokens=10)
    ended(source, [9], [1, 2, 3])
    for start in range(100, 200, 5):
        ended(source, [9], list(range(start, start + 5)))
        assert len(source._outputs) <= 10
    assert source.state(begun(source, [1, 2])) is None
    source = Retrieval()
    ended(source, [9], [1, 2, 3])
    assert not source._last


def test_too_long_texts_are_refused() -> None:
    with pytest.raises(UsageError, match="max_text_tokens"):
        Retrieval(texts=[[1, 2, 3], [4, 5]], max_text_tokens=4)


def test_reads_texts_and_json_lines(tmp_path: Path) -> None:
    plain, lines = tmp_path / "plain.txt", tmp_path / "lines.jsonl"
    plain.write_text("the cat sat", encoding="utf-8")
    lines.write_text(
        json.dumps({"text": "a dog\u2028ran", "id": 1}, ensure_ascii=False)
        + "\n\n"
        + json.dumps({"text": "on"})
        + "\n",
        encoding="utf-8",
    )
    codec = ByteCodec()
    source = Retrieval.from_files([plain, str(lines)], codec, min_match=1)
    for context, following in (("the ca", "t"), ("a do", "g"), ("o", "gn")):
        answer = source.distribution(source.state(begun(source, list(codec.encode(context)))))
        assert sorted(answer.tokens) == sorted(codec.encode(following))
    assert source.state(begun(source, list(codec.encode("xn")))) is None  # texts do not run into each other


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"text"', "line 2: not JSON"),
        ("a.jsonl", b'{"body": "x"}', 'line 1: expected an object with a "text"'),
        ("a.jsonl", b'"x"', 'line 1: expected an object with a "text"'),
        ("a.jsonl", b'{"text": 3}', 'line 1: expected an object with a "text"'),
        ("a.txt", b"\xff\xfe", "not UTF-8"),
    ],
)
def test_a_bad_file_is_said_to_be_one(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=message):
        Retrieval.from_files([tmp_path / name], ByteCodec())


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read .*missing\.txt"):
        Retrieval.from_files([tmp_path / "missing.txt"], ByteCodec())
