"""Row statistics, by the compiled kernel and by torch, against float64."""

from __future__ import annotations

import math

import pytest
import torch

from reason.runtime import sampler
from reason.runtime.native import native_kernels
from reason.runtime.sampler import raw_logprobs

KINDS = ("normal", "flat", "tied", "peaked", "one sure", "masked", "wide", "far from zero", "one possible")


@pytest.fixture(params=["native", "torch"])
def _implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "native" and native_kernels() is None:
        pytest.skip("no compiled kernels on this machine")
    if request.param == "torch":
        monkeypatch.setattr(sampler, "native_kernels", lambda: None)


def make_rows(kind: str, vocab: int, rows: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(vocab)
    logits = torch.randn(rows, vocab, generator=generator) * 3
    if kind == "flat":
        return logits * 0 + 1.25
    if kind == "tied":
        return logits.round()
    if kind == "peaked":
        logits[:, vocab // 2] += 9
    elif kind == "one sure":
        logits[:, vocab // 2] += 60
    elif kind == "masked":
        logits[torch.rand(rows, vocab, generator=generator) < 0.3] = -torch.inf
        logits[:, vocab // 2] = 1.0
    elif kind == "wide":
        logits *= 3e4
    elif kind == "far from zero":
        logits -= 700
    elif kind == "one possible":
        logits[:] = -torch.inf
        logits[:, vocab // 2] = -3.0
    return logits


def reference(logits: torch.Tensor) -> list[tuple[float, float]]:
    """(entropy, self-certainty over what is possible) of each row."""
    result = []
    for row in logits.double():
        scores = torch.log_softmax(row[row > -torch.inf], dim=0)
        result.append((float(-(scores.exp() * scores).sum()), float(-math.log(len(scores)) - scores.mean())))
    return result


@pytest.mark.usefixtures("_implementation")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("vocab", [1, 31, 32, 77, 400, 9999])
@pytest.mark.parametrize("kind", KINDS)
def test_statistics_are_those_of_float64(kind: str, vocab: int, dtype: torch.dtype) -> None:
    logits = make_rows(kind, vocab).to(dtype)
    token = vocab // 2
    results = raw_logprobs(logits, range(5), [token] * 5, 0, statistics=True)
    own = logits.double().log_softmax(dim=-1)[:, token].tolist()
    for result, expected, (entropy, certainty) in zip(results, own, reference(logits), strict=True):
        assert result.token == pytest.approx(expected, rel=1e-6, abs=1e-4 if kind == "far from zero" else 2e-6)
        assert result.entropy == pytest.approx(entropy, rel=1e-4, abs=3e-6)
        assert result.self_certainty == pytest.approx(certainty, rel=1e-4, abs=3e-6)
        assert result.entropy is not None
        assert result.entropy >= 0
        assert result.self_certainty is not None
        assert result.self_certainty >= 0


@pytest.mark.usefixtures("_implementation")
def test_a_whole_vocabulary() -> None:
    logits = make_rows("normal", 151_936, rows=3).to(torch.bfloat16)
    for result, (entropy, certainty) in zip(
        raw_logprobs(logits, range(3), [0] * 3, 0, statistics=True), reference(logits), strict=True
    ):
        assert result.entropy == pytest.approx(entropy, rel=1e-5)
        assert result.self_certainty == pytest.approx(certainty, rel=1e-5)


@pytest.mark.usefixtures("_implementation")
def test_rows_are_computed_once_and_told_to_all_who_share_them(monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[int] = []
    compute = sampler.row_statistics

    def counting(logits: torch.Tensor, everything: bool) -> torch.Tensor:
        computed.append(logits.shape[0])
        return compute(logits, everything)

    monkeypatch.setattr(sampler, "row_statistics", counting)
    logits = make_rows("normal", 400)
    rows, tokens = [3, 0, 3, 3, 1], [7, 7, 8, 7, 0]
    results = raw_logprobs(logits, rows, tokens, 2, statistics=True)
    assert computed == [3]
    expected = reference(logits)
    scores = logits.double().log_softmax(dim=-1)
    for result, row, token in zip(results, rows, tokens, strict=True):
        assert result.token == pytest.approx(float(scores[row, token]), abs=1e-5)
        assert result.entropy == pytest.approx(expected[row][0], rel=1e-4)
        assert [i for i, _ in result.top] == scores[row].topk(2).indices.tolist()
    assert results[0] == results[3]


@pytest.mark.usefixtures("_implementation")
def test_only_what_is_asked_for() -> None:
    logits = make_rows("normal", 40)
    (plain,) = raw_logprobs(logits, [2], [5], 0)
    (more,) = raw_logprobs(logits, [2], [5], 0, statistics=True)
    assert (plain.entropy, plain.self_certainty, plain.top) == (None, None, ())
    assert plain.token == pytest.approx(more.token, abs=1e-6)
    assert raw_logprobs(logits, [], [], 3, statistics=True) == []


def test_rows_in_strides(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slice of a padded head: the kernel reads rows that touch."""
    padded = make_rows("normal", 96)
    expected = raw_logprobs(padded[:, :77].clone(), range(5), [1] * 5, 3, statistics=True)
    assert raw_logprobs(padded[:, :77], range(5), [1] * 5, 3, statistics=True) == expected


@pytest.mark.skipif(native_kernels() is None, reason="no compiled kernels on this machine")
@pytest.mark.parametrize("value", [math.nan, math.inf, None])
def test_broken_rows_give_nan_and_spoil_no_others(value: float | None) -> None:
    kernels = native_kernels()
    assert kernels is not None
    logits = make_rows("normal", 100, rows=3)
    expected = kernels.row_statistics(logits)
    if value is None:
        logits[1] = -torch.inf
    else:
        logits[1, 40] = value
    got = kernels.row_statistics(logits)
    assert torch.equal(got[[0, 2]], expected[[0, 2]])
    assert bool(got[1].isnan().all())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_every_device_gives_the_same(kind: str, dtype: torch.dtype, device: torch.device) -> None:
    logits = make_rows(kind, 4000).to(dtype)
    rows, tokens = [4, 0, 0, 2], [2000, 2000, 2001, 2000]
    if kind == "one possible":
        tokens = [2000] * 4
    expected = reference(logits)
    for result, row in zip(raw_logprobs(logits.to(device), rows, tokens, 1, statistics=True), rows, strict=True):
        assert result.entropy == pytest.approx(expected[row][0], rel=1e-4, abs=3e-6)
        assert result.self_certainty == pytest.approx(expected[row][1], rel=1e-4, abs=3e-6)
        assert len(result.top) == 1
