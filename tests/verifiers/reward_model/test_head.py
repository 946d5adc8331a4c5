"""Reward heads, and what is read of a checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from reason.errors import ModelError, UsageError
from reason.models.load import load_backbone, read_weights
from reason.verifiers.reward_model.formats import PRMFormat
from reason.verifiers.reward_model.head import Layer, RewardHead

STATE = torch.tensor([1.0, -2.0, 0.5])


def test_products_with_relu_between_them() -> None:
    first, second = torch.randn(4, 3), torch.randn(2, 4)
    head = RewardHead([Layer(first, torch.ones(4)), Layer(second, None)])
    expected = (second @ (first @ STATE + 1).relu()).softmax(-1)[1]
    assert head.score(STATE) == pytest.approx(expected.item())
    assert head.score(STATE.bfloat16()) == pytest.approx(expected.item())


def test_soft_capped_logits() -> None:
    rows = torch.tensor([[0.0, 0.0, 4.0], [6.0, 0.0, 0.0]])
    head = RewardHead([Layer(rows, None)], softcap=5.0)
    expected = (torch.tanh(rows @ STATE / 5) * 5).softmax(-1)[1]
    assert head.score(STATE) == pytest.approx(expected.item())


@pytest.mark.parametrize("place", ["score", "classifier", "v_head.summary", "v_head", "value_head", "reward_head"])
def test_heads_by_their_places(place: str, tmp_path: Path) -> None:
    weight = torch.tensor([[1.0, 2.0, 3.0]])
    others = {"model.norm.weight": torch.ones(3), "scores.weight": torch.zeros(1, 3)}
    save_file({f"{place}.weight": weight.bfloat16(), f"{place}.bias": torch.tensor([0.5])}, tmp_path / "a.safetensors")
    save_file(others, tmp_path / "b.safetensors")
    assert RewardHead.of_checkpoint(tmp_path, 3, activation="none").score(STATE) == pytest.approx(-1.0)


def test_a_folder_without_weights(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no \*.safetensors weights"):
        read_weights(tmp_path, ["score."])
    with pytest.raises(ModelError, match="no configuration that can be read"):
        load_backbone(tmp_path, dtype=torch.float32)


def test_formats_that_do_not_fit_together() -> None:
    with pytest.raises(UsageError, match="words go with head='words'"):
        PRMFormat(layout="text", head="words")
    with pytest.raises(UsageError, match="words go with head='words'"):
        PRMFormat(layout="text", head="weights", words=("+", "-"))
    with pytest.raises(UsageError, match="in layout 'turns' every step is answered by a word"):
        PRMFormat(layout="turns", head="weights")
