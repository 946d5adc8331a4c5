"""Traces of other programs as recordings: what counts as a sample, what is one problem, and how text becomes tokens."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reason.errors import UsageError
from reason.speculate.policy import Goodput
from reason.speculate.replay import replay
from reason.speculate.sources import make_source
from reason.speculate.speculator import Speculator
from reason.speculate.traces import VOCABULARY, load_tokenizer, load_traces

WORDS = (b"he", b"ll", b"hell", b" w", b"or", b" wor", "é".encode())

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes rows as a file of traces, in a folder beside that of a small vocabulary."""

    def make(*rows: Any, name: str = "some.jsonl.gz", vocabulary: bool = True) -> Path:
        if vocabulary:
            tokens = [*(bytes([byte]) for byte in range(256)), *WORDS]
            lines = [base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens)]
            (tmp_path / "tokenizer").mkdir(exist_ok=True)
            with gzip.open(tmp_path / VOCABULARY, "wb") as out:
                out.writelines(lines)
        file = tmp_path / "traces" / name
        file.parent.mkdir(exist_ok=True)
        text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
        file.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        return file

    return make


def streams(file: Path) -> list[tuple[str, tuple[int, ...], list[list[int]]]]:
    """Of each problem its id, prompt and samples."""
    return [(p.id, p.prompt, [s.tokens.tolist() for s in p.samples]) for p in load_traces(file).problems]


def test_token_ids(write: Write) -> None:
    row = {"id": "a", "model": "m", "prompt_token_ids": [1, 2], "prompt": "no", "samples": [{"token_ids": [3, 4, 5]}]}
    file = write(row, {**row, "id": "b", "prompt_token_ids": [1], "samples": []}, vocabulary=False)
    assert streams(file) == [("a", (1, 2), [[3, 4, 5]])]
    loaded = load_traces(file)
    assert (loaded.model, loaded.temperature, loaded.has_rows) == ("m", 0.0, False)


def test_texts(write: Write) -> None:
    e = 256 + WORDS.index("é".encode())
    rows = [
        {"task_id": 7, "problem": "hell", "samples": ["he", {"text": "é"}, ""]},
        {"prompt": "é", "problem": "no", "thinking": "he\n", "content": "ll"},
    ]
    tags = [*b"<think>\n", 256, *b"\n</think>\n\n", 257]
    assert streams(write(*rows)) == [("7", (258,), [[256], [e]]), ("2", (e,), [tags])]
    assert streams(write(*rows, name="plain.jsonl")) == streams(write(*rows))


def test_lines_with_one_prompt_are_one_problem(write: Write) -> None:
    rows = [
        {"id": "a", "prompt": "hell", "token_ids": [1], "model": "m"},
        {"id": "b", "prompt": "he", "token_ids": [2], "model": "n"},
        {"id": "c", "prompt": "hell", "text": "he", "model": "m"},
        {"id": "d", "token_ids": [3]},
        {"id": "e", "token_ids": [3]},  # without a prompt nothing says that they belong together
    ]
    file = write(*rows)
    assert streams(file) == [
        ("a", (258,), [[1], [256]]),
        ("b", (256,), [[2]]),
        ("d", (), [[3]]),
        ("e", (), [[3]]),
    ]
    loaded = load_traces(file)
    assert loaded.model == "m, n"
    assert [[s.key for s in p.samples] for p in loaded.problems] == [[0, 1], [0], [0], [0]]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"id": 1, "messages": []},
            "line 2: no sample with token_ids, text, or thinking and content; there is id, mes",
        ),
        ({"samples": [3]}, "line 2: a sample is an object or a text, got 3"),
        ({"samples": [{"answer": "4"}]}, "line 2: no sample with token_ids"),
        ({"samples": "he"}, "line 2: expected an object, its samples a list"),
        ([1, 2], "line 2: expected an object, its samples a list"),
        ({"token_ids": [1, "2"]}, "line 2: token_ids is not a list of token ids"),
        ({"token_ids": [1, -2]}, "line 2: token_ids is not a list of token ids"),
        ("{", "is not a file of JSON lines"),
    ],
)
def test_what_is_no_trace(write: Write, row: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_traces(write({"token_ids": [1]}, row))


def test_files_that_cannot_be_read(write: Write, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is not a file of JSON lines: .*No such file"):
        load_traces(tmp_path / "none.jsonl")
    torn = write({"token_ids": list(range(1000))})
    torn.write_bytes(torn.read_bytes()[:-20])
    with pytest.raises(UsageError, match="is not a file of JSON lines"):
        load_traces(torn)
    none: list[list[Any]] = [[], [{"samples": []}]]
    for rows in none:
        with pytest.raises(UsageError, match="there is no token stream in"):
            load_traces(write(*rows))


def test_texts_need_the_vocabulary(write: Write, tmp_path: Path) -> None:
    file = write({"text": "he"}, vocabulary=False)
    with pytest.raises(UsageError, match=r"qwen\.tiktoken\.gz to make tokens of them is neither in its folder nor"):
        load_traces(file)
    (tmp_path / VOCABULARY).parent.mkdir()
    (tmp_path / VOCABULARY).write_bytes(b"no gzip")
    with pytest.raises(UsageError, match="is not a gzipped file of token ranks"):
        load_traces(file)


def test_merges_follow_ranks(write: Write, tmp_path: Path) -> None:
    write({"token_ids": [1]})
    tokenizer = load_tokenizer(tmp_path / VOCABULARY)
    for text, pieces in {
        "hello world": ["hell", "o", " wor", "l", "d"],  # he and ll before hell
        "hel": ["he", "l"],
        "12'll": ["1", "2", "'", "ll"],  # digits one by one
        "é\n\nx": ["é", "\n", "\n", "x"],
        "": [],
    }.items():
        tokens = [*(bytes([byte]) for byte in range(256)), *WORDS]
        ids = tokenizer.encode(text).ids
        assert [tokens[i] for i in ids] == [piece.encode() for piece in pieces]
        assert tokenizer.decode(ids) == text


def test_traces_are_replayed(write: Write) -> None:
    sample = {"token_ids": [5, 6, 7, 8] * 30}
    loaded = load_traces(write({"prompt_token_ids": [1, 2], "samples": [sample, sample]}))
    (counted,) = replay(loaded, Speculator(make_source("suffix"), policy=Goodput(nodes=8)))
    assert counted.tokens == 2 * 119
    assert counted.tokens_per_step > 4


def test_the_streams_that_models_produced(data_dir: Path) -> None:
    """On traces that have both, text becomes the recorded tokens."""
    file = data_dir / "traces" / "r1_qwen14b_math_rollouts.jsonl.gz"
    if not file.is_file():
        pytest.skip("no traces among the evaluation data")
    tokenizer = load_tokenizer(data_dir / VOCABULARY)
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    for row in rows:
        assert tokenizer.encode(row["prompt"]).ids == row["prompt_token_ids"]
        for sample in row["samples"][:8]:
            assert tokenizer.encode(sample["text"]).ids == sample["token_ids"]
    loaded = load_traces(file)
    assert [len(problem.samples) for problem in loaded.problems] == [40, 40, 40]
