"""Draws where the logits are: ``runtime.sampler`` in batched torch operations that never wait for the host.

The rule is the sampler's, with the same noise: the head of p by argmax(log p + G), its tail by inverse CDF, truncation
first. What differs is that every draw of a forward is made at once, whatever its temperature, and that nothing about
the values decides what is launched. So no sum is taken of a whole row in order: an inverse CDF goes by blocks of
columns, then through one block. And of tokens that tie at the head's end the lowest are in it, so that a draw does not
depend on how wide a head the draws beside it need; the sampler leaves that to ``topk``.

A nucleus (top-p or min-p without top-k) is looked for among the ``NUCLEUS_TOKENS`` likeliest. A row whose nucleus is
larger is ``undecided``, and drawn again with ``whole``, which sorts it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from reason.runtime import sampler
from reason.runtime.device_noise import gumbel, uniform
from reason.runtime.noise import TAIL_DRAW, TAIL_GUMBEL, position_state
from reason.runtime.sampler import TOP_TOKENS, Draw, row_statistics, truncates
from reason.runtime.transfer import send

__all__ = ["NUCLEUS_TOKENS", "Laws", "RawRows"]

NUCLEUS_TOKENS = 512

_COLUMNS = 256  # of a block of the inverse CDF
_TOP_COLUMNS = 128  # of a block whose greatest value stands for it
_PLACES = 0xFFFF_FFFF
_ELEMENTS = 1 << 25  # of a row block that is worked on at once: what bounds the memory


class Laws:
    """p at some rows of logits, one for each draw, and what can be drawn from it.

    Args:
        logits: [rows, vocab], processed already, not yet divided by temperature.
        draws: at least one; several may use one row.
        whole: sorts whole rows, so that nothing is undecided.
    """

    def __init__(self, logits: torch.Tensor, draws: Sequence[Draw], *, whole: bool = False) -> None:
        self._logits = logits
        self._vocab = logits.shape[1]
        samplings = [draw.sampling for draw in draws]
        self._greedy_only = all(sampling.temperature == 0.0 for sampling in samplings)
        self._any_plain = any(s.temperature != 0.0 and not truncates(s) for s in samplings)
        self._any_limited = any(s.temperature == 0.0 or truncates(s) for s in samplings)
        self._width = self._vocab if whole else min(self._vocab, _width(draws))
        self._step = max(1, _ELEMENTS // (self._vocab * (4 if whole else 1)))  # the noise of a whole row is wide
        states = position_state([d.seed for d in draws], [d.key for d in draws], [d.position for d in draws])
        floats = np.array([[s.temperature or 1.0, s.top_p, s.min_p] for s in samplings]).T
        integers = np.array([[d.row, d.sampling.temperature == 0.0, d.sampling.top_k] for d in draws], dtype=np.int64).T
        sent = send(np.concatenate([integers, floats.view(np.int64), states.view(np.int64)[None]]), logits.device)
        self._rows, greedy, self._top_k = sent[0], sent[1], sent[2]
        self._temperature, self._top_p, self._min_p = sent[3:6].view(torch.float64)  # each [draws]
        self._state = sent[6]
        self._greedy = greedy.bool()
        truncated = (self._top_k > 0) | (self._top_p < 1.0) | (self._min_p > 0.0)
        self._limited = self._greedy | truncated  # p is a part of the head
        self._in_order = [d.row for d in draws] == list(range(logits.shape[0]))
        self._read()

    def _read(self) -> None:
        """The head of each p and its masses; the sample of its tail where one may be wanted."""
        parts = [self._read_rows(*rows) for rows in self._blocks()]
        tokens, scaled, tail_mass, tail_tokens = (torch.cat(part) for part in zip(*parts, strict=True))
        self._tokens = tokens  # [draws, width] int64, likeliest first, ties by token id
        self._scaled = scaled  # [draws, width] float64, logits / temperature
        head = min(sampler.HEAD_TOKENS, self._width)
        weights = (scaled - scaled[:, :1]).exp()
        self._tail_log_mass = scaled[:, 0] + tail_mass.log()
        self._log_mass = scaled[:, 0] + (weights[:, :head].sum(dim=1) + tail_mass).log()
        self._tail_tokens = tail_tokens
        self.possible = scaled[:, 0] > -torch.inf
        """[draws] bool: whether any token is."""
        self._kept, self.undecided = self._truncate()
        """[draws] bool: whether p goes on beyond what was looked at."""
        kept_mass = (weights * self._kept).sum(dim=1)
        # Of exp(scaled - greatest), over all that p goes on to.
        self._mass = torch.where(self._limited, kept_mass, (self._log_mass - scaled[:, 0]).exp())

    def _read_rows(self, begin: int, end: int) -> tuple[torch.Tensor, ...]:
        logits = self._of(begin, end)
        values, tokens = _likeliest(logits, self._width)
        scaled = values.double() / self._temperature[begin:end, None]
        head = min(sampler.HEAD_TOKENS, self._width)
        if head == self._vocab:
            nothing = torch.zeros_like(scaled[:, 0])
            return tokens, scaled, nothing, tokens[:, 0]
        weights = self._weights(logits, values[:, :1], begin, end)
        weights.scatter_(1, tokens[:, :head], 0.0)
        sums = _block_sums(weights)
        if not self._any_plain:
            return tokens, scaled, sums.sum(dim=1), tokens[:, 0]
        u = uniform(self._state[begin:end], torch.full_like(self._state[begin:end], TAIL_DRAW))
        return tokens, scaled, sums.sum(dim=1), _inverse_cdf(weights, sums, u)

    def _truncate(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Which of the head's tokens p is limited to, top-k, then top-p, then min-p, [draws, width] bool; and whether
        that may not be all of them, [draws] bool."""
        place = torch.arange(self._width, device=self._tokens.device)
        among = (self._top_k[:, None] == 0) | (place < self._top_k[:, None])
        top_k_mass = self._scaled.masked_fill(~among, -torch.inf).logsumexp(dim=1)
        log_mass = torch.where(self._top_k > 0, top_k_mass, self._log_mass)
        p = (self._scaled - log_mass[:, None]).exp()
        before = p.cumsum(dim=1) - p
        kept = among & ((before < self._top_p[:, None]) | (self._top_p[:, None] >= 1.0))
        kept &= (p >= self._min_p[:, None] * p[:, :1]) | (self._min_p[:, None] <= 0.0)
        undecided = kept.all(dim=1) & (self._top_k == 0) & self._limited & ~self._greedy & (self._width < self._vocab)
        kept &= ~self._greedy[:, None]
        kept[:, 0] = True
        return kept, undecided

    def likeliest(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The likeliest tokens, [draws, TOP_TOKENS] int64, and p of them before truncation, float64; fewer where the
        vocabulary has fewer."""
        size = min(TOP_TOKENS, self._width)
        return self._tokens[:, :size], (self._scaled[:, :size] - self._log_mass[:, None]).exp()

    def draw(self) -> torch.Tensor:
        """The plain sample of each p, argmax(log p + G), [draws] int64."""
        if self._greedy_only:
            return self._tokens[:, 0]
        return torch.cat([self._draw_head(begin, end) for begin, end in self._blocks()])

    def _draw_head(self, begin: int, end: int) -> torch.Tensor:
        rows = slice(begin, end)
        tokens, state = self._tokens[rows], self._state[rows]
        head = torch.arange(self._width, device=tokens.device) < sampler.HEAD_TOKENS
        in_play = torch.where(self._limited[rows, None], self._kept[rows], head)
        perturbed = self._scaled[rows] + gumbel(state[:, None], tokens)
        perturbed.masked_fill_(~in_play, -torch.inf)
        best, index = perturbed.max(dim=1)
        winners = tokens.gather(1, index[:, None])[:, 0]
        if not self._any_plain:
            return winners
        tail = self._tail_log_mass[rows] + gumbel(state, torch.full_like(state, TAIL_GUMBEL))
        return torch.where((tail > best) & ~self._limited[rows], self._tail_tokens[rows], winners)

    def probabilities(self, tokens: torch.Tensor) -> torch.Tensor:
        """p of ``tokens`` [draws, n] int64, float64; 0 where a token is -1."""
        known = tokens >= 0
        logits = self._logits[self._rows[:, None], tokens.clamp(min=0)]
        p = (logits.double() / self._temperature[:, None] - self._scaled[:, :1]).exp() / self._mass[:, None]
        if self._any_limited:
            kept = torch.stack(
                [(self._kept & (self._tokens == tokens[:, i : i + 1])).any(dim=1) for i in range(tokens.shape[1])],
                dim=1,
            )
            known = known & (kept | ~self._limited[:, None])
        return torch.where(known, p, 0.0)

    def choose(
        self, tokens: torch.Tensor, weights: torch.Tensor, outside: torch.Tensor, uniforms: torch.Tensor
    ) -> torch.Tensor:
        """A token of each row by inverse CDF, [draws] int64, from ``weights`` [draws, n] at ``tokens`` [draws, n] (-1:
        nothing) and ``outside`` [draws] times p at all others; ``uniforms`` [draws] in (0, 1)."""
        places = torch.where(tokens < 0, self._vocab, tokens)
        weights = torch.where(tokens < 0, 0.0, weights * self._mass[:, None])
        chosen: list[torch.Tensor] = []
        for begin, end in self._blocks():
            rows = slice(begin, end)
            logits = self._of(begin, end)
            law = self._weights(logits, logits.gather(1, self._tokens[rows, :1]), begin, end)
            if self._any_limited:
                limited = self._limited[rows, None]
                head, scaled = self._tokens[rows], self._scaled[rows]
                kept = torch.where(self._kept[rows], (scaled - scaled[:, :1]).exp().float(), 0.0)
                kept = torch.where(limited, kept, law.gather(1, head))
                law.masked_fill_(limited, 0.0).scatter_(1, head, kept)
            law.mul_(outside[rows, None].float()).scatter_(1, places[rows], weights[rows].float())
            chosen.append(_inverse_cdf(law, _block_sums(law), uniforms[rows]))
        return torch.cat(chosen)

    def _blocks(self) -> Iterator[tuple[int, int]]:
        """The draws that are worked on together."""
        count = len(self._rows)
        return ((begin, min(begin + self._step, count)) for begin in range(0, count, self._step))

    def _of(self, begin: int, end: int) -> torch.Tensor:
        """The rows of logits of some draws."""
        return self._logits[begin:end] if self._in_order else self._logits.index_select(0, self._rows[begin:end])

    def _weights(self, logits: torch.Tensor, greatest: torch.Tensor, begin: int, end: int) -> torch.Tensor:
        """exp((logits - greatest) / temperature), [draws, columns] float32: whole blocks, at least one column of
        padding, which is 0."""
        columns = (self._vocab // _COLUMNS + 1) * _COLUMNS
        weights = torch.empty((end - begin, columns), dtype=torch.float32, device=logits.device)
        weights[:, self._vocab :] = 0.0
        inverse = (1.0 / self._temperature[begin:end, None]).float()
        weights[:, : self._vocab].copy_(logits).sub_(greatest.float()).mul_(inverse).exp_()
        return weights


def _width(draws: Sequence[Draw]) -> int:
    """How many of a row's likeliest tokens are looked at."""
    truncated = [draw.sampling for draw in draws if draw.sampling.temperature != 0.0 and truncates(draw.sampling)]
    widths = [sampling.top_k or NUCLEUS_TOKENS for sampling in truncated]
    return max(sampler.HEAD_TOKENS, *widths) if widths else sampler.HEAD_TOKENS


def _likeliest(logits: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The values and the tokens of each row's top ``size``, both [rows, size]: the greatest first, of equal ones the
    lowest token. They lie in the top blocks, by greatest value and then by place."""
    rows, vocab = logits.shape
    whole = vocab // _TOP_COLUMNS * _TOP_COLUMNS
    if size == 0 or whole // _TOP_COLUMNS <= 2 * size:
        tokens = _top_places(logits, torch.arange(vocab, device=logits.device), size)
    else:
        greatest = logits[:, :whole].view(rows, -1, _TOP_COLUMNS).amax(dim=-1)
        if whole < vocab:
            greatest = torch.cat([greatest, logits[:, whole:].amax(dim=-1, keepdim=True)], dim=1)
        blocks = _top_places(greatest, torch.arange(greatest.shape[1], device=logits.device), size)
        inside = torch.arange(_TOP_COLUMNS, device=logits.device)
        columns = (blocks[:, :, None] * _TOP_COLUMNS + inside).view(rows, -1)
        values = logits.gather(1, columns.clamp(max=vocab - 1)).masked_fill_(columns >= vocab, -torch.inf)
        tokens = _top_places(values, columns, size)
    return logits.gather(1, tokens.clamp(max=vocab - 1)), tokens


def _top_places(values: torch.Tensor, places: torch.Tensor, size: int) -> torch.Tensor:
    """Of each row's ``values`` [rows, n] the ``places`` [rows, n] or [n] of the top ``size``, by value and then by the
    lowest place: integers that are ordered so, a value's bits above its place's complement."""
    bits = (values.float() + 0.0).view(torch.int32)  # without negative zeros
    order = bits ^ ((bits >> 31) & 0x7FFF_FFFF)
    top = torch.topk((order.long() << 32) | (_PLACES - places), size, dim=-1).values
    return _PLACES - (top & _PLACES)


def _block_sums(weights: torch.Tensor) -> torch.Tensor:
    """[rows, blocks] float64."""
    return weights.view(len(weights), -1, _COLUMNS).sum(dim=-1, dtype=torch.float64)


def _inverse_cdf(weights: torch.Tensor, sums: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """In each row the first column at which the running sum passes ``uniforms`` of the total, [rows] int64; never one
    of weight 0, but for rows that have nothing else.

    Args:
        weights: [rows, columns] float32, whole blocks.
        sums: of the blocks, [rows, blocks].
    """
    cumulative = sums.cumsum(dim=1)
    passed = uniforms[:, None] * cumulative[:, -1:]
    block = _first_beyond(cumulative, passed, sums)
    before = cumulative.gather(1, block) - sums.gather(1, block)
    inside = weights.view(len(weights), -1, _COLUMNS).gather(1, block[:, :, None].expand(-1, -1, _COLUMNS))[:, 0]
    column = _first_beyond(inside.cumsum(dim=1, dtype=torch.float64), (passed - before).clamp(min=0.0), inside)
    return (block * _COLUMNS + column)[:, 0]


def _first_beyond(cumulative: torch.Tensor, passed: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The first index at which ``cumulative`` [rows, n] is more than ``passed`` [rows, 1]; the last one of any weight
    where rounding leaves none."""
    index = torch.searchsorted(cumulative, passed, right=True)
    places = torch.arange(weights.shape[1], device=weights.device)
    last = torch.where(weights > 0.0, places, 0).amax(dim=1, keepdim=True)
    return torch.minimum(index, last)


class RawRows:
    """What is recorded of the rows of unprocessed logits, as ``sampler.raw_logprobs`` has it.

    Args:
        top: how many of the likeliest tokens.
        statistics: entropy and self-certainty too.
    """

    def __init__(self, logits: torch.Tensor, top: int, statistics: bool) -> None:
        self._logits = logits
        step = max(1, _ELEMENTS // logits.shape[1])

        def in_parts(read: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
            return torch.cat([read(logits[r : r + step]) for r in range(0, len(logits), step)])

        self.numbers = in_parts(lambda rows: row_statistics(rows, statistics, synchronize=False))
        """[rows, 3] float32: log-sum-exp, entropy, self-certainty; without ``statistics`` only the first counts."""
        values, self.top_tokens = _likeliest(logits, min(top, logits.shape[1]))  # [rows, top]
        self.top_logprobs = values.float() - self.numbers[:, :1]

    def logprobs(self, rows: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Of ``tokens`` [n] in ``rows`` [n], float32."""
        return self._logits[rows, tokens].float() - self.numbers[rows, 0]
