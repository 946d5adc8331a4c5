"""The journal: what it keeps, what it refuses, and what a reader finds in it."""

from __future__ import annotations

import errno
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reason.engine.remote import PieceCodec
from reason.engine.scripted import ScriptedEngine
from reason.errors import ReasonError, UsageError
from reason.search.journal import Journal, JournalMismatch, pack_logprobs, read_journal, unpack_logprobs
from reason.search.strategies.best_of_n import BestOfN
from reason.types import Budget, Completion, Problem, TokenLogprobs

if TYPE_CHECKING:
    from tests.search.conftest import Solve, WatchedEngine

TEXTS = ["so \\boxed{1}", "so \\boxed{2}", "so \\boxed{1}"]


@pytest.fixture
def recorded(solve: Solve, watched: type[WatchedEngine], tmp_path: Path) -> Path:
    file = tmp_path / "traces" / "a.jsonl"
    solve(watched(TEXTS), BestOfN(num_samples=3), journal=file)
    return file


def test_what_a_reader_finds(recorded: Path) -> None:
    run, *events, end = read_journal(recorded)
    assert (run["type"], run["version"], run["content"], run["fields"]["num_samples"]) == ("run", 1, "What?", 3)
    nodes = [event for event in events if event["type"] == "node"]
    assert [(node["id"], node["parent"], node["text"]) for node in nodes] == [(i + 1, 0, TEXTS[i]) for i in range(3)]
    told = [event for event in events if event["type"] == "tell"]
    assert [(event["node"], event["answer"], event["answer_class"]) for event in told] == [
        (1, "1", 0),
        (2, "2", 1),
        (3, "1", 0),
    ]
    assert (end["type"], end["answer"], end["stopped_by"]) == ("end", "1", "done")
    assert end["usage"]["policy_tokens"] == sum(map(len, TEXTS))


def test_a_finished_run_is_replayed_without_the_engine(solve: Solve, recorded: Path) -> None:
    before = recorded.read_bytes()
    solution = solve(ScriptedEngine(lambda prefix: []), BestOfN(num_samples=3), journal=recorded)
    assert (solution.answer, solution.usage.policy_tokens) == ("1", sum(map(len, TEXTS)))
    assert recorded.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({"strategy": BestOfN(num_samples=4)}, "fields.num_samples: 3 there, 4 here"),
        ({"seed": 1}, "seed: 0 there, 1 here"),
        ({"budget": Budget(calls=9)}, "budget.calls: null there, 9 here"),
        (
            {"problem": Problem(content="Why?", equivalent=lambda a, b: a == b)},
            'content: "What\\?" there, "Why\\?" here',
        ),
    ],
)
def test_another_run(solve: Solve, recorded: Path, options: dict[str, Any], difference: str) -> None:
    strategy = options.pop("strategy", BestOfN(num_samples=3))
    with pytest.raises(JournalMismatch, match=f"is the trace of another run .*{difference}.*delete it"):
        solve(ScriptedEngine(TEXTS), strategy, journal=recorded, **options)


def test_a_file_that_is_no_trace(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text("hello\n", encoding="utf-8")
    with pytest.raises(UsageError, match="is not a trace: byte 0 begins no JSON object"):
        Journal(file)
    assert file.read_text(encoding="utf-8") == "hello\n"
    with pytest.raises(ReasonError, match="cannot use the trace file"):
        Journal(tmp_path / "x.jsonl" / "y.jsonl")


def test_a_torn_line_is_cut_off(recorded: Path) -> None:
    whole = recorded.read_bytes()
    recorded.write_bytes(whole + b'{"type":"no')
    with Journal(recorded) as journal:
        assert journal.completion(2, 0) is not None
    assert recorded.read_bytes() == whole


def test_a_trace_of_other_code(recorded: Path) -> None:
    with Journal(recorded) as journal, pytest.raises(JournalMismatch, match="node 2 extended 0 there, 1 here"):
        journal.completion(2, 1)


def test_a_full_disk(recorded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def write(self, data: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self) -> None:
            pass

    with Journal(recorded) as journal:
        journal._stream.close()
        monkeypatch.setattr(journal, "_stream", Full())
        with pytest.raises(ReasonError, match=r"cannot write the trace file .*: No space left on device"):
            journal.add_measure("x", [1], [(1.0,)], usage={})


def test_nothing_is_written_behind_half_a_line(recorded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full in the middle of a line; then there is room again."""
    with Journal(recorded) as journal:
        whole, stream = recorded.read_bytes(), journal._stream

        class Full:
            def write(self, data: bytes) -> int:
                monkeypatch.setattr(self, "write", self.fail, raising=False)
                return stream.write(data[:9])

            def fail(self, data: bytes) -> int:
                raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(journal, "_stream", Full())
        for _ in range(2):
            with pytest.raises(ReasonError, match="No space left on device"):
                journal.add_measure("x", [1], [(1.0,)], usage={})
            monkeypatch.setattr(journal, "_stream", stream)
    with Journal(recorded) as journal:
        assert journal.completion(2, 0) is not None
    assert recorded.read_bytes() == whole


def test_failures_are_not_recorded(tmp_path: Path) -> None:
    with Journal(tmp_path / "a.jsonl") as journal:
        failed = Completion(index=0, token_ids=(), text="", finish_reason="error")
        journal.add_completion(1, 0, failed, (0, 1), {})
    assert list(read_journal(tmp_path / "a.jsonl")) == []


def test_who_drafted_what(tmp_path: Path) -> None:
    with Journal(tmp_path / "a.jsonl") as journal:
        for number, proposers in ((1, ("", "stand", "goose", "stand")), (2, ("", "")), (3, ())):
            done = Completion(index=0, token_ids=(1,) * 4, text="", finish_reason="eos", proposers=proposers)
            journal.add_completion(number, 0, done, (4, 1), {})
    found = [event.get("drafted") for event in read_journal(tmp_path / "a.jsonl")]
    assert found == [{"stand": [1, 3], "goose": [2]}, None, None]


numbers = st.floats(allow_nan=False) | st.just(-math.inf)


@given(
    rows=st.lists(st.tuples(numbers, numbers, numbers), min_size=1, max_size=5),
    top=st.integers(0, 3),
    first=st.sampled_from([151_000, PieceCodec().encode(" something")[0]]),
)
def test_rows_come_back_exactly(rows: list[tuple[float, float, float]], top: int, first: int) -> None:
    tops = tuple((first + i, -0.1 * i) for i in range(top))
    plain = tuple(TokenLogprobs(token, tops) for token, _, _ in rows)
    full = tuple(TokenLogprobs(token, tops, entropy, certainty) for token, entropy, certainty in rows)
    read = tuple(
        TokenLogprobs(token, tops, values=(("head:a", entropy), ("b", certainty))) for token, entropy, certainty in rows
    )
    both = tuple(replace(row, values=said.values) for row, said in zip(full, read, strict=True))
    for given_rows in (plain, full, read, both):
        assert unpack_logprobs(json.loads(json.dumps(pack_logprobs(given_rows)))) == given_rows
    assert unpack_logprobs(None) == ()


def test_rows_of_two_models_have_the_probes_of_each() -> None:
    rows = (
        TokenLogprobs(-0.5, values=(("head", 0.25),)),
        TokenLogprobs(-1.0),
        TokenLogprobs(-2.0, values=(("b", 1.0),)),
    )
    assert unpack_logprobs(json.loads(json.dumps(pack_logprobs(rows)))) == rows


@pytest.mark.parametrize("first", [151_000, PieceCodec().encode(" something")[0]])
def test_rows_need_not_be_equally_wide(first: int) -> None:
    """A server says the same of two tokens once; of a sample in two parts the rows may differ."""
    rows = tuple(TokenLogprobs(-0.5, tuple((first + i, -1.0 * i) for i in range(width))) for width in (2, 0, 3))
    assert unpack_logprobs(json.loads(json.dumps(pack_logprobs(rows)))) == rows


@given(st.text(st.characters(codec=None), max_size=20))
def test_any_text_comes_back(text: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "a.jsonl"
        completion = Completion(index=0, token_ids=(1, 2), text=text, finish_reason="eos", stopped_on=7)
        with Journal(file) as journal:
            journal.add_completion(1, 0, completion, (2, 1), {})
        with Journal(file) as journal:
            assert journal.completion(1, 0) == completion
            assert journal.counts(1) == (2, 1)
