"""One model, its KV forest and its packed forward.

    runner = ModelRunner(model, num_slots=65536)
    branch = runner.forest.open(prompt)
    logits = runner.forward([branch]).logits([branch])  # prefill: every pending token, one row

Several branches go into one forward as one row of tokens with explicit positions and no padding.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from reason.errors import UnsupportedModel, UsageError
from reason.runtime.attention.plan import (
    GPU_MIN_SAVED_TOKENS,
    MIN_SAVED_TOKENS,
    NATIVE_MIN_SAVED_TOKENS,
    Row,
    RowBatch,
    advance_rows,
    plan_rows,
)
from reason.runtime.backbone import TESTED, FusedBackbone, make_backbone
from reason.runtime.captured import CapturedForwards, CudaCapture
from reason.runtime.forest import Branch, KVForest, Node
from reason.runtime.gpu import gpu_kernels_for
from reason.runtime.kv_pool import KVPool
from reason.runtime.native import kernels_for
from reason.runtime.quantized import products_for
from reason.runtime.slots import SCRATCH_SLOT
from reason.runtime.transfer import send

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from reason.runtime.gpu.work import WorkAhead

__all__ = ["Forward", "ModelRunner", "Places", "RowPlanner", "kv_shape"]

_FIXED_ROPE_TYPES = frozenset({"default", "linear", "llama3", "yarn", "proportional"})
"""RoPE types whose frequencies do not depend on the total length. KV cached under another length would be wrong."""


class RowPlanner:
    """Collects the rows of one forward, each once, up to a limit."""

    def __init__(self, limit: int) -> None:
        self.rows: list[Row] = []
        self._limit = limit
        self._seen: set[tuple[int, int]] = set()
        self._pending_upto: dict[int, int] = {}  # id(node) -> its pending tokens below this index are rows already

    @property
    def room(self) -> int:
        """How many more rows fit."""
        return max(0, self._limit - len(self.rows))

    def add(self, node: Node, index: int) -> None:
        """Adds a row whatever the limit; its pending ancestors must be rows already."""
        if (id(node), index) not in self._seen:
            self._seen.add((id(node), index))
            self.rows.append(Row(node, index))

    def add_pending(self, runs: Sequence[tuple[Node, int]]) -> bool:
        """Adds the pending tokens of a path (see ``Branch.runs``), oldest first, as far as they fit; returns whether
        all of them are rows now."""
        for node, length in runs:
            first = max(node.computed, self._pending_upto.get(id(node), 0))
            if first >= length:
                continue
            last = min(length, first + self.room)
            for index in range(first, last):
                self.add(node, index)
            self._pending_upto[id(node)] = last
            if last < length:
                return False
        return True

    def add_last(self, branch: Branch) -> bool:
        """Adds what a row of logits at the branch's end needs; False if the limit cut it off."""
        node, parent = branch.node, branch.node.parent
        if parent is not None and node.computed == branch.offset - 1 and parent.computed == len(parent):
            self.add(node, branch.offset - 1)  # decoding: one token is new
            return True
        if not self.add_pending(branch.runs()):
            return False
        self.add(branch.node, branch.offset - 1)
        return True


class Places(NamedTuple):
    """``rows``: packed row numbers, ascending; ``of_branch[i]``: the index in ``rows`` of branch i's row."""

    rows: list[int]
    of_branch: list[int]


class Forward:
    """What one packed forward left behind: hidden states by row.

    Args:
        kept: [rows, hidden_size] by layer, of those that were asked for; -1 is ``hidden``, which is always there.
    """

    def __init__(
        self, runner: ModelRunner, batch: RowBatch, hidden: torch.Tensor, kept: Mapping[int, torch.Tensor]
    ) -> None:
        self._runner = runner
        self.batch = batch
        self.hidden = hidden  # [rows, hidden_size], after the final norm
        self.kept = {**kept, -1: hidden}

    @torch.inference_mode()
    def row_logits(self, numbers: Sequence[int], *, transient: bool = False) -> torch.Tensor:
        """Logits of packed rows by number, [len(numbers), vocab]. ``transient`` ones are good until the next forward:
        they may lie in memory that the runner keeps, because fresh pages for a wide row cost more than its product."""
        hidden = self.hidden
        if len(numbers) < hidden.shape[0] or any(n != i for i, n in enumerate(numbers)):
            hidden = hidden.index_select(0, send(np.array(numbers), hidden.device))
        out = self._runner.scratch(hidden.shape[0], hidden.dtype) if transient else None
        return self._runner.backbone.logits(hidden, out)

    def states(self, layer: int, numbers: Sequence[int]) -> torch.Tensor:
        """A kept layer's states of packed rows by number, [len(numbers), hidden_size]."""
        kept = self.kept[layer]
        return kept.index_select(0, send(np.array(numbers), kept.device))

    def logits(self, branches: Sequence[Branch]) -> torch.Tensor:
        """Logits at the last token of each branch, [branches, vocab]."""
        places = self.places(branches)
        return self.row_logits(places.rows)[places.of_branch]

    def places(self, branches: Sequence[Branch]) -> Places:
        """Which rows hold the branches' last tokens, each once: branches at one place share a row of logits."""
        numbers = [self.batch.row_number(branch) for branch in branches]
        rows = sorted(set(numbers))
        place = {number: i for i, number in enumerate(rows)}
        return Places(rows, [place[number] for number in numbers])

    def known_rows(self, wanted: Sequence[tuple[Node, int]]) -> list[int]:
        """The numbers of the leading ``wanted`` (node, index) places that this forward computed."""
        numbers: list[int] = []
        for node, index in wanted:
            number = self.batch.number.get((id(node), index))
            if number is None:
                break
            numbers.append(number)
        return numbers


class ModelRunner:
    """Owns the weights, the KV pool and the forest of one model.

    Args:
        model: an ``AutoModelForCausalLM``; its weights are taken over (fused, packed) and the object must not be
            used afterwards.
        num_slots: KV tokens the pool holds.
        max_positions: the longest path; by default what the config says, at most ``num_slots``.
        quantize: None, "int8" or "int4", see ``runtime.quantized``.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        num_slots: int,
        max_positions: int | None = None,
        quantize: str | None = None,
    ) -> None:
        config = model.config.get_text_config()
        _refuse_moving_rope(config)
        self.config = config
        self.device = model.device
        self.dtype = model.dtype
        self.vocab_size = int(config.vocab_size)
        self.num_layers = int(config.num_hidden_layers)
        self._scratch: torch.Tensor | None = None
        self._no_states = torch.empty(0)
        self.max_positions = min(max_positions or int(config.max_position_embeddings), num_slots - 1)
        self.forest = KVForest(num_slots)
        self.kv = KVPool(*kv_shape(config, num_slots), dtype=model.dtype, device=model.device)
        tested = config.model_type in TESTED
        expected = None if tested else _own_logits(model, self.vocab_size)
        try:
            with torch.inference_mode():
                products = products_for(quantize, model.dtype, model.device)
                self.backbone = make_backbone(model, self.max_positions, products)
        except AttributeError as error:
            if tested:
                raise
            raise self._unsupported(f"are built in another way ({error})") from error
        kernels = kernels_for(self.dtype, self.device)
        _, _, kv_heads, head_dim = kv_shape(config, num_slots)
        heads = int(config.num_attention_heads)
        native = kernels is not None and kernels.can_attend(heads // kv_heads, head_dim)
        self.native = (
            native and isinstance(self.backbone, FusedBackbone) and self.backbone.native and quantize != "int4"
        )
        """Whether the compiled kernels do all that is large."""
        self._min_saved_tokens = NATIVE_MIN_SAVED_TOKENS if native else MIN_SAVED_TOKENS
        self.gpu = gpu_kernels_for(self.device, self.dtype, heads, kv_heads, head_dim)
        if self.gpu is not None:
            self._min_saved_tokens = GPU_MIN_SAVED_TOKENS
        self.captured: CapturedForwards | None = None
        if self.gpu is not None and self.device.type == "cuda" and isinstance(self.backbone, FusedBackbone):
            self.captured = CapturedForwards(self._eager, self.gpu, CudaCapture(self.device))
        self._planned: tuple[int, RowBatch] | None = None  # the last plan, and the forest's structure then
        self._ahead: tuple[RowBatch, WorkAhead] | None = None  # of that plan, and what follows from it
        self.rows_at_once = 1 << 30
        self.forwards = 0
        self.launched = 0.0
        """When the device was given its last forward; ``time.perf_counter``."""
        if expected is not None:
            self._compare(expected, _TOLERANCE[quantize or str(self.dtype).removeprefix("torch.")])

    def release(self) -> None:
        """Frees the weights and the KV tensors; the forest, which is small, stays for a last look."""
        del self.backbone, self.kv, self.captured

    def check_layer(self, layer: int) -> None:
        """Whether the states of a layer can be kept: 0 is the first's, -1 the last's after the final norm.

        Raises:
            UsageError: there is no such layer.
        """
        if not -1 <= layer < self.num_layers - 1:
            last = self.num_layers - 2
            raise UsageError(f"layer must be 0 to {last}, or -1 for the last after the final norm, got {layer}")

    def _compare(self, expected: torch.Tensor, tolerance: float) -> None:
        """Refuses a model that computes something which this runner does not, or keeps a state that is no KV.

        Args:
            expected: see ``_own_logits``.
            tolerance: the largest difference, as a share of the largest logit.
        """
        try:
            got = self._probe()
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            raise self._unsupported(f"are built in another way ({type(error).__name__}: {error})") from error
        if float((got - expected).abs().max()) > tolerance * max(1.0, float(expected.abs().max())):
            raise self._unsupported("compute logits that this runtime does not reproduce")

    def _unsupported(self, why: str) -> UnsupportedModel:
        tested = ", ".join(sorted(TESTED))
        return UnsupportedModel(f"models of type {self.config.model_type!r} {why}; tested types: {tested}")

    def _probe(self) -> torch.Tensor:
        """Two branches that share a beginning go on side by side, token by token: their logits, as ``_own_logits``."""
        paths = _probe_paths(self.vocab_size)
        branches = [self.forest.open(path[: _SHARED + 1]) for path in paths]
        found: list[torch.Tensor] = []
        try:
            for tokens in zip(*(path[_SHARED + 1 :] for path in paths), strict=True):
                found.append(self.forward(branches).logits(branches).float())
                for branch, token in zip(branches, tokens, strict=True):
                    self.forest.append(branch, token)
            found.append(self.forward(branches).logits(branches).float())
        finally:
            for branch in branches:
                self.forest.close(branch)
            self.forest.clear()
        return torch.stack(found, dim=1)

    def synchronize(self) -> None:
        """Waits for what the device was told to do, so that a clock read afterwards tells the truth."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def time_forward(self, rows: int) -> float:
        """Seconds of a forward with so many rows and their logits, on a short path of their own."""
        branch = self.forest.open([(1 + 7919 * i) % self.vocab_size for i in range(rows)])
        path = [Row(node, index) for node, length in branch.runs() for index in range(length)]
        try:
            for _ in range(1 if self.captured is None else self.captured.settling):
                self.synchronize()
                began = time.perf_counter()
                logits = self.forward_rows(path).row_logits(range(rows), transient=True)
                del logits
                self.synchronize()
                seconds = time.perf_counter() - began
            return seconds
        finally:
            self.forest.close(branch)
            self.forest.clear()

    def scratch(self, rows: int, dtype: torch.dtype) -> torch.Tensor:
        """Memory for transient logits, [rows, vocab], the same each time."""
        if self._scratch is None or self._scratch.shape[0] < rows or self._scratch.dtype != dtype:
            self._scratch = torch.empty((-(-rows // 32) * 32, self.vocab_size), dtype=dtype, device=self.device)
        return self._scratch[:rows]

    def forward(self, branches: Iterable[Branch]) -> Forward:
        """Computes everything pending on the branches' paths, and a row for the last token of each."""
        planner = RowPlanner(limit=1 << 30)
        for branch in branches:
            planner.add_last(branch)
        return self.forward_rows(planner.rows)

    @torch.inference_mode()
    def forward_rows(self, rows: Sequence[Row], layers: Iterable[int] = ()) -> Forward:
        """One packed forward; the rows' nodes count as computed up to them afterwards.

        Args:
            layers: whose states are kept, see ``check_layer``.
        """
        batch = self._plan(rows)
        kept = {layer: self._no_states for layer in layers if layer >= 0}
        hidden = self._compute(batch, kept)
        return Forward(self, batch, hidden, kept)

    def _plan(self, rows: Sequence[Row]) -> RowBatch:
        """How the rows are packed. While branches only grow, an iteration's plan follows from the last one's."""
        structure = self.forest.structure
        batch = None
        if self._planned is not None and self._planned[0] == structure:
            last = self._planned[1]
            batch = advance_rows(last, rows)
            if batch is not None and self._ahead is not None and self._ahead[0] is last:
                slots = batch.write_slots.numpy()
                if (slots != SCRATCH_SLOT).all():  # each token is new
                    batch.plan.work = self._ahead[1].filled(slots)
        self._ahead = None
        if batch is None:
            batch = plan_rows(rows, "cpu" if self.gpu is not None else self.device, self._min_saved_tokens)
        self._planned = structure, batch
        return batch

    def plan_ahead(self) -> None:
        """Makes the next forward's plan while the device computes this one's, for the case that all branches go on by a
        token."""
        if self.gpu is None or self._planned is None or self._planned[0] != self.forest.structure:
            return
        batch = self._planned[1]
        if (plan := batch.grown()) is not None:
            self._ahead = batch, self.gpu.work_ahead(plan)

    def _compute(self, batch: RowBatch, kept: dict[int, torch.Tensor]) -> torch.Tensor:
        """The rows' hidden states. Where memory does not suffice for all of them at once, they are computed in halves,
        in their order, in which no row comes before one that it attends to."""
        if len(batch.rows) <= self.rows_at_once:
            hidden = self._try(batch, kept)
            if hidden is not None:
                self.forwards += 1
                for node, index in batch.rows:
                    if index >= node.computed:
                        self.forest.mark_computed(node, index + 1)
                return hidden
            self.rows_at_once = len(batch.rows) // 2  # and no more from now on
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        whole: dict[int, torch.Tensor] = {}
        step = self.rows_at_once  # a part may find that it is too large itself
        for begin in range(0, len(batch.rows), step):
            part = self._plan(batch.rows[begin : begin + step])
            states = dict.fromkeys(kept, self._no_states)
            states[-1] = self._compute(part, states)
            numbers = send(np.array([batch.number[id(node), index] for node, index in part.rows]), self.device)
            for layer, of_part in states.items():
                if layer not in whole:
                    whole[layer] = of_part.new_empty((len(batch.rows), of_part.shape[1]))
                whole[layer].index_copy_(0, numbers, of_part)
        hidden = whole.pop(-1)
        kept.update(whole)
        return hidden

    def _try(self, batch: RowBatch, kept: dict[int, torch.Tensor]) -> torch.Tensor | None:
        """One forward; None where there is no memory for it, unless it is a single row's."""
        try:
            if self.captured is not None and not kept:
                launch = self.captured.prepare(batch)
            else:
                launch = partial(self._eager, batch if self.gpu is None else self.gpu.upload(batch), kept)
            self.launched = time.perf_counter()
            return launch()
        except torch.OutOfMemoryError:
            if len(batch.rows) == 1:
                raise
        return None

    def _eager(self, batch: RowBatch, kept: dict[int, torch.Tensor] | None = None) -> torch.Tensor:
        return self.backbone.hidden(batch, self.kv, kept)


_SHARED, _OWN = 8, 4  # tokens of the probe: of both its paths, and of each alone
_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1, "float16": 0.1, "int8": 0.2, "int4": 0.4}
"""A state that is no KV makes logits as far off as they are large."""


def _probe_paths(vocab_size: int) -> list[list[int]]:
    shared = [(1 + 7919 * i) % vocab_size for i in range(_SHARED)]
    return [shared + [(2 + 5 * one + 104_729 * i) % vocab_size for i in range(_OWN)] for one in range(2)]


@torch.inference_mode()
def _own_logits(model: Any, vocab_size: int) -> torch.Tensor:
    """transformers' logits where each of the probe's two paths is alone, [paths, tokens, vocab] float32."""
    tokens = torch.tensor(_probe_paths(vocab_size), device=model.device)
    logits: torch.Tensor = model.eval()(input_ids=tokens, use_cache=False).logits[:, _SHARED:].float()
    return logits


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
