"""``AttentionScorer``: the importance of steps from a causal model's last layer of attention.

The model's own code runs, with the attention implementation that computes weights (eager), and a hook keeps the last
layer's. So one layer's weights [batch, heads, n, n] are the memory, and batches are bounded by them and by the logits.
Rows are padded on the right: later tokens change nothing for a causal model, so there is no mask.

The first token of what a model reads draws most of the attention, whatever it says (an attention sink,
https://arxiv.org/abs/2309.17453). In the paper's definition that is a token of the step, and A is divided by the step's
length, so that the shortest steps seem the most important. With ``sink`` a token of the vocabulary that begins or ends
texts is read before the step and takes that part.

What is too long for ``context`` is cut: of the text that is read after the step at most the last half of the context is
kept (its cue is at its end), of the step the first tokens that then fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from reason.compress.importance import Relevance
from reason.errors import UnsupportedModel, UsageError

if TYPE_CHECKING:
    import torch

    from reason.types import Path

__all__ = ["AttentionScorer"]

_MAX_SCORES = 1 << 22  # batch * n * n, of one head
_MAX_LOGITS = 1 << 26  # batch * rows * vocabulary
_ROWS = 64  # whose logits are float32 at once
_LEAST_CONTEXT = 16


class _Row(NamedTuple):
    """A step and the text after it, as tokens."""

    number: int  # of the step
    before: Path
    step: Path
    text: Path

    @property
    def path(self) -> Path:
        return self.before + self.step + self.text

    @property
    def length(self) -> int:
        return len(self.path)

    @property
    def start(self) -> int:
        """Where the text begins."""
        return len(self.before) + len(self.step)


class AttentionScorer:
    """A ``Scorer`` over a transformers causal language model. ``load`` makes one from a model's name.

    Args:
        model: on its device, in eval mode. It is set to eager attention.
        tokenizer: its tokenizer.
        context: tokens of a step and the text after it; at most the model's own limit.
        sink: read a token before each step that draws the attention that is no step's own.

    Raises:
        UnsupportedModel: it cannot give attention weights, or has no token for ``sink``.
        UsageError: the context is too short.
    """

    def __init__(self, model: Any, tokenizer: Any, *, name: str, context: int = 1024, sink: bool = False) -> None:
        if context < _LEAST_CONTEXT:
            raise UsageError(f"the scorer's context must be at least {_LEAST_CONTEXT} tokens, got {context}")
        self._model, self._tokenizer, self._name = model, tokenizer, name
        config = model.config.get_text_config()
        self._context = min(context, getattr(config, "max_position_embeddings", None) or context)
        self._before: Path = ()  # the step
        if sink:
            ends = [getattr(tokenizer, f"{kind}_token_id", None) for kind in ("bos", "eos")]
            self._before = tuple(token for token in ends if token is not None)[:1]
            if not self._before:
                raise UnsupportedModel(f"{name} has no token that begins or ends texts, so none to be the sink")
        try:
            model.set_attn_implementation("eager")
        except (ValueError, ImportError) as error:
            raise UnsupportedModel(f"{name} has no eager attention, so no weights: {error}") from error
        self._weights: torch.Tensor | None = None  # [batch, heads, n, n] of the forward under way
        last = config.num_hidden_layers - 1
        layers = [
            m for m in model.modules() if getattr(m, "layer_idx", None) == last and "Attention" in type(m).__name__
        ]
        if not layers:
            raise UnsupportedModel(f"{name}: its last attention layer is not found; use another model as scorer")
        layers[0].register_forward_hook(self._keep)

    @classmethod
    def load(
        cls,
        model: str | None = None,
        *,
        device: str = "auto",
        dtype: str = "auto",
        context: int = 1024,
        sink: bool = False,
    ) -> AttentionScorer:
        """Loads a model by name, see ``reason.models.resolve``.

        Args:
            device: "auto" takes a CUDA device if there is one.
            dtype: "auto" is bf16 where the machine computes in it and float32 elsewhere.

        Raises:
            ModelError: the weights cannot be had.
        """
        import torch

        from reason.models import load_model, load_tokenizer, resolve
        from reason.runtime.linear import can_pack

        found = resolve(model)
        where = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        if dtype == "auto":
            fast = torch.cuda.is_bf16_supported() if where.type == "cuda" else can_pack(torch.bfloat16, where)
            dtype = "bfloat16" if fast else "float32"
        loaded = load_model(found.folder, dtype=getattr(torch, dtype), device=where)
        return cls(loaded, load_tokenizer(found.folder), name=found.name, context=context, sink=sink)

    @property
    def name(self) -> str:
        return self._name

    def relevance(self, steps: Sequence[str], text: str, cue: str) -> Iterator[Sequence[tuple[int, Relevance]]]:
        """See ``Scorer``."""
        after = self._encode(text + cue)[-(self._context // 2) :]
        room = self._context - len(self._before) - len(after)
        rows = [_Row(number, self._before, self._encode(step)[:room], after) for number, step in enumerate(steps)]
        if not after or not all(row.step for row in rows):
            raise UsageError("a step or the text after it has no tokens")
        for batch in self._batches(sorted(rows, key=lambda row: row.length)):
            yield self._forward(batch)

    def _encode(self, text: str) -> Path:
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))

    def _batches(self, rows: Sequence[_Row]) -> Iterator[list[_Row]]:
        """Rows of like lengths, the shortest first, as many as memory allows."""
        vocab_size = self._model.config.get_text_config().vocab_size
        batch: list[_Row] = []
        for row in rows:
            size = len(batch) + 1
            first = batch[0] if batch else row
            scores, logits = size * row.length**2, size * (row.length - first.start + 1) * vocab_size
            if batch and (scores > _MAX_SCORES or logits > _MAX_LOGITS):
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch

    def _forward(self, batch: Sequence[_Row]) -> list[tuple[int, Relevance]]:
        import torch

        length, start = batch[-1].length, batch[0].start - 1  # the first row of logits that anyone needs
        padded = [row.path + row.text[-1:] * (length - row.length) for row in batch]
        tokens = torch.tensor(padded, device=self._model.device)  # [batch, length]
        kept = torch.arange(start, length, device=self._model.device)
        with torch.inference_mode():
            logits = self._model(input_ids=tokens, use_cache=False, logits_to_keep=kept).logits
            weights, self._weights = self._weights, None
            if weights is None:
                raise UnsupportedModel(f"{self.name} gives no attention weights; use another model as scorer")
            return [
                (row.number, self._of_row(row, weights[place], logits[place, row.start - 1 - start :]))
                for place, row in enumerate(batch)
            ]

    @staticmethod
    def _of_row(row: _Row, weights: torch.Tensor, logits: torch.Tensor) -> Relevance:
        """Args:
        weights: [heads, n, n], from each position to each.
        logits: [at least len(text), vocab], from the last token of the step on.
        """
        import torch
        from torch.nn.functional import cross_entropy

        text = len(row.text)
        seen = weights[:, row.start : row.length, len(row.before) : row.start]
        attention = float(seen.sum(dtype=torch.float32)) / len(row.step)
        targets = torch.tensor(row.text, device=logits.device)
        losses = [
            float(cross_entropy(logits[i : min(i + _ROWS, text)].float(), targets[i : i + _ROWS], reduction="sum"))
            for i in range(0, text, _ROWS)
        ]
        return Relevance(attention, sum(losses) / text, row.length)

    def _keep(self, module: Any, inputs: Any, outputs: Any) -> None:
        self._weights = outputs[1] if isinstance(outputs, tuple) and len(outputs) > 1 else None
