"""The states that leave a layer are transformers' own, in both backbones."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
import torch

from reason.errors import UsageError
from reason.runtime.runner import ModelRunner, RowPlanner

if TYPE_CHECKING:
    from tests.runtime.conftest import MakeModel

PATHS = ((1, 7, 9, 40, 3), (1, 7, 9, 8, 70, 71), (5, 6))
TYPES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {},
    "qwen2": {},
    "qwen3": {},
    "gemma3_text": {"layer_types": ["sliding_attention", "full_attention", "full_attention"], "sliding_window": 4},
}


@pytest.mark.parametrize("model_type", TYPES)
def test_states_of_each_layer(make_model: MakeModel, model_type: str) -> None:
    model = make_model(model_type, num_hidden_layers=3, **TYPES[model_type])
    reference = copy.deepcopy(model)
    runner = ModelRunner(model, num_slots=64)
    branches = [runner.forest.open(path) for path in PATHS]
    planner = RowPlanner(limit=64)
    for branch in branches:
        planner.add_last(branch)
    forward = runner.forward_rows(planner.rows, layers=(0, 1, -1))
    rows = forward.places(branches)
    for path, row in zip(PATHS, rows.of_branch, strict=True):
        with torch.inference_mode():
            out: Any = reference.get_decoder()(input_ids=torch.tensor([path]), output_hidden_states=True)
        for layer in (0, 1, -1):
            states = out.last_hidden_state if layer == -1 else out.hidden_states[layer + 1]
            torch.testing.assert_close(forward.kept[layer][rows.rows[row]], states[0, -1], atol=1e-4, rtol=1e-4)


def test_only_what_is_asked_for_is_kept(make_model: MakeModel) -> None:
    runner = ModelRunner(make_model("llama"), num_slots=64)
    forward = runner.forward([runner.forest.open(PATHS[0])])
    assert list(forward.kept) == [-1]


@pytest.mark.parametrize("layer", [-2, 1, 2])
def test_layers_that_are_not_there(make_model: MakeModel, layer: int) -> None:
    runner = ModelRunner(make_model("llama"), num_slots=64)
    for known in (0, -1):
        runner.check_layer(known)
    with pytest.raises(UsageError, match=f"layer must be 0 to 0, or -1 for the last after the final norm, got {layer}"):
        runner.check_layer(layer)
