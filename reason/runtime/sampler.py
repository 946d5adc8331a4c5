"""Drawing tokens by the coupled rule: the token at a position is argmax(log p + G), G keyed by (seed, key, position).

The head of p (its ``HEAD_TOKENS`` likeliest tokens, a function of p alone) gets per-token noise; all other tokens
form one group with log-mass log P_tail and one Gumbel of its own, and if that wins, the token is drawn inside it by
inverse CDF. By max-stability of Gumbel noise this is an exact sample of p; it costs the vocabulary one pass, not a
hash per token. Temperature and truncation apply to p first. Coupled draws: arXiv 2408.07978.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from reason.runtime.native import native_kernels
from reason.runtime.native.kernels import Kernels
from reason.runtime.noise import TAIL_DRAW, TAIL_GUMBEL, gumbel, position_state, uniform
from reason.types import Sampling, TokenLogprobs

__all__ = [
    "HEAD_TOKENS",
    "TOP_TOKENS",
    "Draw",
    "TopRows",
    "draw_tokens",
    "probabilities",
    "raw_logprobs",
    "row_statistics",
    "truncates",
]

HEAD_TOKENS = 64
TOP_TOKENS = 10
"""Tokens of a row that draft sources get to see."""

_BLOCK = 128  # columns whose maximum stands for them in the exact top-k

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]


class Draw(NamedTuple):
    """One token to draw: which row of logits, under which noise, how."""

    row: int
    seed: int
    key: int
    position: int
    sampling: Sampling


@dataclass(slots=True)
class _Head:
    """The head of each row's p (after temperature, before truncation)."""

    tokens: I64  # [rows, head], most likely first, ties by token id
    scaled: F64  # [rows, head] logits / temperature
    log_mass: F64  # [rows] logsumexp of the scaled logits over the whole vocabulary


@dataclass(slots=True)
class TopRows:
    """What draft sources learn from: the likeliest tokens of some rows, and p after temperature, before truncation."""

    rows: list[int]
    tokens: I64  # [rows, TOP_TOKENS]; -1 in vocabularies that have fewer
    probabilities: F64  # [rows, TOP_TOKENS]

    @classmethod
    def of(cls, rows: list[int], head: _Head) -> TopRows:
        tokens, scaled = head.tokens[:, :TOP_TOKENS], head.scaled[:, :TOP_TOKENS]
        return cls.padded(rows, tokens, np.exp(scaled - head.log_mass[:, None]))

    @classmethod
    def padded(cls, rows: list[int], tokens: I64, probabilities: F64) -> TopRows:
        """From at most ``TOP_TOKENS`` tokens of each row."""
        if missing := TOP_TOKENS - tokens.shape[1]:
            tokens = np.pad(tokens, ((0, 0), (0, missing)), constant_values=-1)
            probabilities = np.pad(probabilities, ((0, 0), (0, missing)))
        return cls(rows, tokens, probabilities)


def draw_tokens(logits: torch.Tensor, draws: Sequence[Draw], tops: list[TopRows] | None = None) -> list[int]:
    """Draws one token for each entry of ``draws`` from ``logits`` [rows, vocab], processed already (penalties,
    grammar), not yet divided by temperature. Several draws may use one row. ``tops``, if given, gets the likeliest
    tokens of the rows, each row once a temperature."""
    results = [-1] * len(draws)
    greedy = [i for i, d in enumerate(draws) if d.sampling.temperature == 0.0]
    if greedy:
        rows = sorted({draws[i].row for i in greedy})
        best = dict(zip(rows, logits[rows].argmax(dim=-1).tolist(), strict=True))
        for i in greedy:
            results[i] = best[draws[i].row]
        if tops is not None:
            used = logits if len(rows) == logits.shape[0] else logits[rows]
            tops.append(TopRows.of(rows, _head(used, 1.0)))
    by_temperature: dict[float, list[int]] = {}
    for i, d in enumerate(draws):
        if d.sampling.temperature != 0.0:
            by_temperature.setdefault(d.sampling.temperature, []).append(i)
    for temperature, members in by_temperature.items():
        _draw_at(logits, draws, members, temperature, results, tops)
    return results


def probabilities(logits: torch.Tensor, sampling: Sampling) -> F64:
    """The distribution that ``sampling`` draws from at one row of logits [vocab], processed already: temperature and
    truncation applied, [vocab] float64 that sums to 1. Greedy is all on the best token."""
    if sampling.temperature == 0.0:
        row = np.zeros(logits.shape[0])
        row[int(logits.argmax())] = 1.0
        return row
    scaled = logits.double().cpu().numpy() / sampling.temperature
    row = np.exp(scaled - scaled.max())
    if truncates(sampling):
        order = np.argsort(-scaled, kind="stable")
        kept = _truncate(scaled[order], float(np.logaddexp.reduce(scaled)), sampling)
        row[order[kept:]] = 0.0
    result: F64 = row / row.sum()
    return result


def raw_logprobs(
    logits: torch.Tensor, rows: Sequence[int], tokens: Sequence[int], top: int, statistics: bool = False
) -> list[TokenLogprobs]:
    """Log-probabilities at temperature 1 of ``tokens[i]`` in row ``rows[i]`` of the *unprocessed* logits, with the
    likeliest ``top`` of the row and, if asked, the row's statistics. A row that is named twice is computed once.

    Tokens of log-probability -inf are left out of the self-certainty, which they would make infinite.
    """
    if not rows:
        return []
    distinct = sorted(set(rows))
    place = {row: i for i, row in enumerate(distinct)}
    at = [place[row] for row in rows]
    used = logits if len(distinct) == logits.shape[0] else logits[distinct]
    numbers = row_statistics(used, statistics)  # [distinct, 3]
    indices = torch.tensor([at, list(tokens)], device=logits.device)
    own = (used[indices[0], indices[1]].float() - numbers[indices[0], 0]).tolist()
    tops: list[tuple[tuple[int, float], ...]] = [()] * len(distinct)
    if top:
        values, ids = _top(used, min(top, used.shape[1]))
        values = values.float() - numbers[:, :1]
        tops = [tuple(zip(i, v, strict=True)) for i, v in zip(ids.tolist(), values.tolist(), strict=True)]
    if not statistics:
        return [TokenLogprobs(value, tops[i]) for value, i in zip(own, at, strict=True)]
    pairs = numbers[:, 1:].tolist()
    return [TokenLogprobs(value, tops[i], *pairs[i]) for value, i in zip(own, at, strict=True)]


def row_statistics(logits: torch.Tensor, everything: bool, *, synchronize: bool = True) -> torch.Tensor:
    """log-sum-exp, entropy and self-certainty of each row, [rows, 3]; without ``everything`` only the first counts.
    ``synchronize``: may wait for the device to see whether there is less to do."""
    if (kernels := _kernels_for(logits)) is not None:
        return kernels.row_statistics(logits)
    out = torch.empty((logits.shape[0], 3), dtype=torch.float32, device=logits.device)
    step = _chunk(logits)
    for r in range(0, logits.shape[0], step):
        part = logits[r : r + step].float()
        if everything:
            out[r : r + step] = _statistics_of(part, synchronize)
        else:
            out[r : r + step, 0] = torch.logsumexp(part, dim=-1)
    return out


def _statistics_of(rows: torch.Tensor, synchronize: bool) -> torch.Tensor:
    """See ``row_statistics``; of float32 rows. Sums are float32, what is made of them is double."""
    top = rows.amax(dim=-1, keepdim=True)
    shifted = rows - top
    total = shifted.sum(dim=-1).double()
    count = torch.full_like(total, rows.shape[1])
    if not (synchronize and bool(total.isfinite().all())):
        possible = rows > -torch.inf
        total = shifted.masked_fill(~possible, 0.0).sum(dim=-1).double()
        count = possible.sum(dim=-1).double()
    shifted.clamp_(min=-150.0)  # whose exponential is 0: no 0 * inf
    weights = shifted.exp()
    mass = weights.sum(dim=-1).double()
    entropy = mass.log() - torch.linalg.vecdot(weights, shifted).double() / mass
    certainty = mass.log() - total / count - count.log()
    log_mass = mass.log() + top[:, 0].double()
    return torch.stack([log_mass, entropy.clamp(min=0.0), certainty.clamp(min=0.0)], dim=1).float()


def _chunk(logits: torch.Tensor) -> int:
    """Rows to take at a time: on a CPU, few enough to stay in the cache."""
    return 2 if logits.device.type == "cpu" else max(1, logits.shape[0])


def _draw_at(
    logits: torch.Tensor,
    draws: Sequence[Draw],
    members: list[int],
    temperature: float,
    results: list[int],
    tops: list[TopRows] | None,
) -> None:
    """All draws of one temperature together."""
    rows = sorted({draws[i].row for i in members})
    place = {row: i for i, row in enumerate(rows)}
    used = logits if len(rows) == logits.shape[0] else logits[rows]
    head = _head(used, temperature)
    if tops is not None:
        tops.append(TopRows.of(rows, head))
    state = position_state(
        [draws[i].seed for i in members], [draws[i].key for i in members], [draws[i].position for i in members]
    )
    at = np.array([place[draws[i].row] for i in members])
    noise = gumbel(state[:, None], head.tokens[at])  # [members, head]
    plain = [m for m, i in enumerate(members) if not truncates(draws[i].sampling)]
    winners = _draw_full(used, head, at[plain], noise[plain], state[plain], temperature)
    for m, token in zip(plain, winners.tolist(), strict=True):
        results[members[m]] = token
    for m, i in enumerate(members):
        sampling, row = draws[i].sampling, int(at[m])
        if truncates(sampling):
            results[i] = _draw_truncated(used[row], head, row, noise[m], state[m : m + 1], sampling)


def truncates(sampling: Sampling) -> bool:
    """Whether top-k, top-p or min-p leave tokens out."""
    return bool(sampling.top_k) or sampling.top_p < 1.0 or sampling.min_p > 0.0


def _head(logits: torch.Tensor, temperature: float) -> _Head:
    size = min(HEAD_TOKENS, logits.shape[1])
    if (kernels := _kernels_for(logits)) is not None:
        values, tokens, masses = kernels.row_heads(logits, size, 1.0 / temperature)
        return _Head(tokens.numpy(), values.numpy().astype(np.float64) / temperature, masses.numpy())
    values, tokens = _top_by_blocks(logits, size)
    scaled = values.double() / temperature
    log_mass = scaled[:, 0].clone()
    step = _chunk(logits)
    buffer = torch.empty((step, logits.shape[1]), dtype=torch.float32, device=logits.device)
    for r in range(0, logits.shape[0], step):
        part = buffer[: logits[r : r + step].shape[0]].copy_(logits[r : r + step])
        part.sub_(values[r : r + step, :1].float()).mul_(1.0 / temperature).exp_()
        log_mass[r : r + step] += part.sum(dim=-1).log().double()
    return _Head(tokens.cpu().numpy(), scaled.cpu().numpy(), log_mass.cpu().numpy())


def _kernels_for(logits: torch.Tensor) -> Kernels | None:
    """The kernels, where they take such rows."""
    fits = logits.device.type == "cpu" and logits.dtype in (torch.bfloat16, torch.float32)
    return native_kernels() if fits else None


def _top(logits: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The exact top ``size`` of each row: values and tokens, [rows, size]. Equal ones are in order of token id; which
    of several that tie at the end are in is left to ``topk`` where the kernels do not run."""
    if (kernels := _kernels_for(logits)) is not None:
        values, tokens, _ = kernels.row_heads(logits, size, 1.0)
        return values, tokens
    return _top_by_blocks(logits, size)


def _top_by_blocks(logits: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """``_top`` in torch operations: the top tokens lie in the top blocks by block maximum."""
    rows, vocab = logits.shape
    blocks = -(-vocab // _BLOCK)
    if size >= vocab or blocks <= 2 * size:
        return _ordered_top(logits, None, size)
    whole = vocab // _BLOCK * _BLOCK
    maxima = logits[:, :whole].reshape(rows, -1, _BLOCK).amax(dim=-1)
    if whole < vocab:
        maxima = torch.cat([maxima, logits[:, whole:].amax(dim=-1, keepdim=True)], dim=1)
    chosen = torch.topk(maxima, size, dim=-1, sorted=False).indices.sort(dim=-1).values
    columns = (chosen[:, :, None] * _BLOCK + torch.arange(_BLOCK, device=logits.device)).view(rows, -1)
    values = logits.gather(1, columns.clamp(max=vocab - 1)).masked_fill_(columns >= vocab, -torch.inf)
    return _ordered_top(values, columns, size)


def _ordered_top(values: torch.Tensor, columns: torch.Tensor | None, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    top, index = torch.topk(values, size, dim=-1)
    if columns is not None:
        index = columns.gather(1, index)
    order = index.argsort(dim=-1)  # by token id, then stably by value
    top, index = top.gather(1, order), index.gather(1, order)
    order = top.argsort(dim=-1, descending=True, stable=True)
    return top.gather(1, order), index.gather(1, order)


def _draw_full(logits: torch.Tensor, head: _Head, at: I64, noise: F64, state: U64, temperature: float) -> I64:
    """Draws from the untruncated p, one for each entry of ``at`` (rows of ``logits``); [members]."""
    scaled = head.scaled[at]  # [members, head]
    perturbed = scaled + noise
    best = perturbed.argmax(axis=1)[:, None]
    winners: I64 = np.take_along_axis(head.tokens[at], best, axis=1)[:, 0]
    if scaled.shape[1] == logits.shape[1]:
        return winners
    head_share = np.exp(scaled - head.log_mass[at, None]).sum(axis=1)
    with np.errstate(divide="ignore"):
        tail_log_mass = head.log_mass[at] + np.log(np.maximum(0.0, 1.0 - head_share))
    tail_wins = tail_log_mass + gumbel(state, TAIL_GUMBEL) > np.take_along_axis(perturbed, best, axis=1)[:, 0]
    for m in np.nonzero(tail_wins)[0]:
        row = logits[int(at[m])].double() / temperature
        weights = (row - float(scaled[m, 0])).exp_()
        weights[torch.from_numpy(head.tokens[at[m]]).to(row.device)] = 0.0
        if not weights.any():  # the tail's mass was a rounding error
            continue
        winners[m] = _inverse_cdf(weights, float(uniform(state[m : m + 1], TAIL_DRAW)[0]))
    return winners


def _inverse_cdf(weights: torch.Tensor, u: float) -> int:
    """The first index at which the running sum passes ``u`` of the total; never one of zero weight."""
    cumulative = weights.cumsum(0)
    index = int(torch.searchsorted(cumulative, u * float(cumulative[-1]), right=True))
    if index >= len(weights):  # rounding at the far end
        index = int(weights.nonzero()[-1])
    return index


def _draw_truncated(row: torch.Tensor, head: _Head, at: int, noise: F64, state: U64, sampling: Sampling) -> int:
    """A draw from p cut by top-k, then top-p, then min-p, each over what the one before kept, as transformers does.
    Falls back to the whole sorted row where the cut reaches beyond the head."""
    tokens, scaled, log_mass = head.tokens[at], head.scaled[at], float(head.log_mass[at])
    kept = _truncate(scaled, log_mass, sampling)
    whole = sampling.top_k > len(tokens) or (kept == len(tokens) and not sampling.top_k)  # mass needs all of the top k
    beyond = whole and len(tokens) < row.shape[0]
    if beyond:
        ordered = row.double().sort(descending=True, stable=True)
        tokens = ordered.indices.cpu().numpy()
        scaled = ordered.values.cpu().numpy() / sampling.temperature
        kept = _truncate(scaled, log_mass, sampling)
        noise = gumbel(state, tokens[:kept])
    return int(tokens[:kept][int((scaled[:kept] + noise[:kept]).argmax())])


def _truncate(scaled: F64, log_mass: float, sampling: Sampling) -> int:
    """How many of the descending ``scaled`` logits are kept; at least one."""
    kept = len(scaled)
    if sampling.top_k:
        kept = min(kept, sampling.top_k)
        log_mass = float(np.logaddexp.reduce(scaled[:kept]))
    probabilities = np.exp(scaled[:kept] - log_mass)
    if sampling.top_p < 1.0:
        before = np.cumsum(probabilities) - probabilities  # a token is kept while the mass before it is below top_p
        kept = max(1, int((before < sampling.top_p).sum()))
    if sampling.min_p > 0.0:
        kept = max(1, int((probabilities[:kept] >= sampling.min_p * probabilities[0]).sum()))
    return kept
