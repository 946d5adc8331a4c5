"""What changes a row of logits before a token is drawn: penalties, user functions, grammars.

All act on one float32 row for one path, so they can be applied at every draft node exactly as in plain decoding.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from reason.errors import UsageError
from reason.runtime.grammar import Grammar
from reason.runtime.transfer import send
from reason.types import Sampling

__all__ = ["NOTHING_POSSIBLE", "change_row", "needs_processing", "process_row"]

NOTHING_POSSIBLE = "the logits processors and the grammar together leave no token possible"


def needs_processing(sampling: Sampling) -> bool:
    """Whether a row must be changed before drawing, temperature and truncation aside."""
    return (
        sampling.repetition_penalty != 1.0
        or sampling.presence_penalty != 0.0
        or sampling.frequency_penalty != 0.0
        or bool(sampling.processors)
        or sampling.json_schema is not None
        or sampling.regex is not None
        or sampling.lark is not None
    )


def process_row(
    logits: torch.Tensor,  # [vocab], any float dtype; not changed
    prefix: Sequence[int],
    generated: Sequence[int],
    sampling: Sampling,
    grammar: Grammar | None,
) -> torch.Tensor:
    """Returns the row to draw from, [vocab] float32.

    Raises:
        UsageError: a processor returned another shape, or left no token possible.
    """
    row = change_row(logits, prefix, generated, sampling, grammar)
    if not bool(torch.isfinite(row).any()):
        raise UsageError(NOTHING_POSSIBLE)
    return row


def change_row(
    logits: torch.Tensor,
    prefix: Sequence[int],
    generated: Sequence[int],
    sampling: Sampling,
    grammar: Grammar | None,
) -> torch.Tensor:
    """``process_row`` without the look at whether any token is left, for which a device must be waited for."""
    row = logits.float().clone()
    if sampling.repetition_penalty != 1.0:
        seen = send(np.array(sorted({*prefix, *generated}), dtype=np.int64), row.device)
        values = row[seen]
        row[seen] = torch.where(values > 0, values / sampling.repetition_penalty, values * sampling.repetition_penalty)
    if (sampling.presence_penalty or sampling.frequency_penalty) and generated:
        tokens, counts = np.unique(np.asarray(generated, dtype=np.int64), return_counts=True)
        amount = sampling.presence_penalty + sampling.frequency_penalty * counts
        row[send(tokens, row.device)] -= send(amount, row.device).to(row.dtype)
    for processor in sampling.processors:
        changed = processor((*prefix, *generated), row)
        if changed.shape != logits.shape:
            raise UsageError(f"a logits processor returned shape {tuple(changed.shape)} for {tuple(logits.shape)}")
        row = changed.to(row)
    if grammar is not None:
        row = row.masked_fill(send(~grammar.allowed(row.shape[0]).numpy(), row.device), -torch.inf)
    return row
