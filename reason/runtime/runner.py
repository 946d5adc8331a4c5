"""One model, its KV forest and its packed forward.

    runner = ModelRunner(model, num_slots=65536)
    branch = runner.forest.open(prompt)
    logits = runner.forward([branch]).logits([branch])       # prefill: every pending token of the path, one row of logits

Several branches go into one forward as one row of tokens with explicit positions and no padding.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from reason.errors import UnsupportedModel
from reason.runtime.attention.plan import Row, RowBatch, plan_rows
from reason.runtime.backbone import make_backbone
from reason.runtime.forest import Branch, KVForest
from reason.runtime.kv_pool import KVPool

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["Forward", "ModelRunner", "pending_rows"]

_FIXED_ROPE_TYPES = frozenset({"default", "linear", "llama3", "yarn", "proportional"})
"""RoPE types whose frequencies do not depend on the total length. KV cached under another length would be wrong."""


def pending_rows(branch: Branch, upto: int | None = None) -> list[Row]:
    """The rows a forward must have so that the branch's last token gets a row: the pending tokens of its path, oldest
    first, at most ``upto`` of them, or the last token again if all is computed."""
    parts: list[list[Row]] = []
    for node, length in reversed(branch.runs()):
        if node.computed >= length:
            break
        parts.append([Row(node, index) for index in range(node.computed, length)])
        if node.computed:
            break
    rows = [row for part in reversed(parts) for row in part]
    if not rows:
        return [Row(branch.node, branch.offset - 1)]
    return rows if upto is None else rows[:upto]


class Forward:
    """What one packed forward left behind: final hidden states by row."""

    def __init__(self, runner: ModelRunner, batch: RowBatch, hidden: torch.Tensor) -> None:
        self._runner = runner
        self.batch = batch
        self.hidden = hidden  # [rows, hidden_size]

    def logits(self, branches: Sequence[Branch]) -> torch.Tensor:
        """Logits at the last token of each branch, [branches, vocab]; branches at one place share the product."""
        numbers = [self.batch.row_number(branch) for branch in branches]
        return self.row_logits(numbers)

    def row_logits(self, numbers: Sequence[int]) -> torch.Tensor:
        """Logits of packed rows by number, [len(numbers), vocab]."""
        unique = sorted(set(numbers))
        hidden = self.hidden
        if len(unique) < hidden.shape[0]:
            hidden = hidden.index_select(0, torch.tensor(unique, device=hidden.device))
        logits = self._runner.backbone.logits(hidden)
        if len(unique) == len(numbers) and unique == list(numbers):
            return logits
        place = {number: i for i, number in enumerate(unique)}
        return logits.index_select(0, torch.tensor([place[n] for n in numbers], device=logits.device))


class ModelRunner:
    """Owns the weights, the KV pool and the forest of one model.

    Args:
        model: an ``AutoModelForCausalLM``; its weights are taken over (fused, packed) and the object must not be
            used afterwards.
        num_slots: KV tokens the pool holds.
        max_positions: the longest path; by default what the config says, at most ``num_slots``.
    """

    def __init__(self, model: PreTrainedModel, *, num_slots: int, max_positions: int | None = None) -> None:
        config = model.config.get_text_config()
        _refuse_moving_rope(config)
        self.config = config
        self.device = model.device
        self.dtype = model.dtype
        self.vocab_size = int(config.vocab_size)
        self.max_positions = min(max_positions or int(config.max_position_embeddings), num_slots - 1)
        self.forest = KVForest(num_slots)
        self.kv = KVPool(*kv_shape(config, num_slots), dtype=model.dtype, device=model.device)
        with torch.inference_mode():
            self.backbone = make_backbone(model, self.max_positions)
        self.forwards = 0

    def forward(self, branches: Iterable[Branch]) -> Forward:
        """Computes everything pending on the branches' paths, and a row for the last token of each."""
        return self.forward_rows([row for branch in branches for row in pending_rows(branch)])

    @torch.inference_mode()
    def forward_rows(self, rows: Sequence[Row]) -> Forward:
        """One packed forward; the rows' nodes count as computed up to them afterwards."""
        batch = plan_rows(rows, self.device)
        hidden = self.backbone.hidden(batch, self.kv)
        self.forwards += 1
        for node, index in batch.rows:
            if index >= node.computed:
                self.forest.mark_computed(node, index + 1)
        return Forward(self, batch, hidden)


def kv_shape(config: Any, num_slots: int) -> tuple[int, int, int, int]:
    """(layers, slots, kv_heads, head_dim) of a model's KV pool."""
    heads = int(config.num_attention_heads)
    kv_heads = int(getattr(config, "num_key_value_heads", None) or heads)
    head_dim = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    return int(config.num_hidden_layers), num_slots, kv_heads, head_dim


def _refuse_moving_rope(config: Any) -> None:
    parameters = getattr(config, "rope_parameters", None) or {}
    sets = parameters.values() if parameters and all(isinstance(v, dict) for v in parameters.values()) else [parameters]
    for rope in sets:
        kind = rope.get("rope_type", "default")
        if kind not in _FIXED_ROPE_TYPES:
            raise UnsupportedModel(
                f"RoPE type {kind!r} changes its frequencies with the total length, so cached KV would become wrong; "
                f"supported: {', '.join(sorted(_FIXED_ROPE_TYPES))}"
            )
