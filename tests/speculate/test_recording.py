"""Recordings: what is saved is what is loaded, and what is no recording is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from reason.errors import UsageError
from reason.speculate.recording import RecordedProblem, RecordedSample, Recording


def sample(key: int, length: int, width: int | None = 3) -> RecordedSample:
    random = np.random.default_rng((key, length))
    tops = None if width is None else random.integers(0, 99, size=(length, width)).astype(np.int32)
    logprobs = None if width is None else -np.sort(random.random((length, width))).astype(np.float16)
    tokens = random.integers(0, 99, size=length)
    return RecordedSample(key=key, tokens=tokens, top_tokens=tops, top_logprobs=logprobs)


def recording(width: int | None = 3) -> Recording:
    """Two problems, the second with samples of other lengths and keys."""
    first = RecordedProblem(id="a/1", seed=0, prompt=(5, 6), samples=(sample(0, 4, width), sample(1, 1, width)))
    second = RecordedProblem(id="ü", seed=7, prompt=(), samples=(sample(3, 9, width),))
    return Recording(model="tiny", temperature=0.8, problems=(first, second))


@pytest.mark.parametrize("width", [3, None])
def test_what_is_saved_is_loaded(tmp_path: Path, width: int | None) -> None:
    made = recording(width)
    made.save(tmp_path / "r.npz")
    loaded = Recording.load(tmp_path / "r.npz")
    assert (loaded.model, loaded.temperature, loaded.has_rows) == ("tiny", 0.8, width is not None)
    assert [(p.id, p.seed, p.prompt) for p in loaded.problems] == [("a/1", 0, (5, 6)), ("ü", 7, ())]
    assert [s.key for _, s in loaded.samples()] == [0, 1, 3]
    for (_, before), (_, after) in zip(made.samples(), loaded.samples(), strict=True):
        assert after.tokens.dtype == np.int64
        np.testing.assert_array_equal(before.tokens, after.tokens)
        if before.top_tokens is None or before.top_logprobs is None:
            assert after.top_tokens is None
            assert after.top_logprobs is None
        else:
            assert after.top_tokens is not None
            assert after.top_logprobs is not None
            np.testing.assert_array_equal(before.top_tokens, after.top_tokens)
            np.testing.assert_array_equal(before.top_logprobs, after.top_logprobs)


def test_rows_of_all_samples_or_of_none(tmp_path: Path) -> None:
    mixed = Recording(
        model="tiny",
        temperature=1.0,
        problems=(RecordedProblem(id="a", seed=0, prompt=(1,), samples=(sample(0, 4), sample(1, 4, None))),),
    )
    assert not mixed.has_rows
    mixed.save(tmp_path / "r.npz")
    assert not Recording.load(tmp_path / "r.npz").has_rows


def test_no_problems(tmp_path: Path) -> None:
    Recording(model="tiny", temperature=0.0, problems=()).save(tmp_path / "r.npz")
    assert Recording.load(tmp_path / "r.npz").problems == ()


def test_a_file_appears_whole(tmp_path: Path) -> None:
    """Another file of the name stays until the new one is there, and nothing else is left."""
    file = tmp_path / "r.npz"
    recording().save(file)
    recording(None).save(file)
    assert [path.name for path in tmp_path.iterdir()] == ["r.npz"]
    assert not Recording.load(file).has_rows


def test_what_is_no_recording(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("tokens")
    np.savez(tmp_path / "other.npz", tokens=np.arange(3))
    np.save(tmp_path / "array.npy", np.arange(3))
    for name in ("text.npz", "other.npz", "missing.npz"):
        with pytest.raises(UsageError, match="is not a recording made by `reason bench record`"):
            Recording.load(tmp_path / name)
