"""How likely a drafted token is to be accepted, given that its parent is: how candidates are ranked and calibrated.

Under ``coupled`` the sample at a place is argmax(log p + G) with noise G that the draft side can compute as well, so a
source's candidates are ranked by s = log q + G. How far the best is ahead says how likely it wins under the true p:

    estimate(token) = softmax(s / spread)[token]

with what the source says nothing about as one more candidate of mass 1 - sum q. Under the other rules, and for greedy
requests, candidates are ranked by q and the estimate is q. Either is then calibrated by what happened: per proposer,
depth and step of the estimate, an average of acceptances that starts from the estimate itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from reason.runtime.noise import StreamNoise
from reason.speculate.draft import Distribution, Stream

__all__ = ["Candidate", "Ranking"]

_SPREAD = 1.2
"""How far log q is off log p, in units of which differences of s are judged."""
_MOST = 8
"""Candidates that are looked at, likeliest first."""
_EULER = 0.5772156649015329  # the mean of Gumbel noise
_STEPS = 12  # of the estimate, for calibration
_PRIOR = 12.0  # visits that the uncalibrated estimate counts as
_HORIZON = 400.0  # visits over which acceptances are averaged
_DEPTHS = (1, 2, 4)  # depths up to each are calibrated together


class Candidate(NamedTuple):
    """A token that may be drafted."""

    token: int
    estimate: float  # calibrated
    proposer: str
    bucket: int  # of the calibration


class Ranking:
    """Ranks what sources expect, and learns how good the estimates are.

    Args:
        coupled: whether candidates meet the position's noise.
    """

    def __init__(self, *, coupled: bool = True) -> None:
        self._coupled = coupled
        self._rates: dict[tuple[str, int], list[float]] = {}  # (proposer, bucket) -> [rate, visits]

    def candidates(
        self, stream: Stream, noise: StreamNoise, depth: int, expected: Distribution, floor: float = 0.0
    ) -> list[Candidate]:
        """The candidates for the place ``depth`` tokens beyond the stream's end (1 is the next token), in the order of
        the estimates before calibration, which says nothing of one place's candidates among themselves; those whose
        estimate is below ``floor`` are left out."""
        tokens, probabilities, proposers = expected
        count = min(len(tokens), _MOST)
        if not count:
            return []
        perturbed = self._coupled and stream.temperature > 0.0
        if perturbed:
            estimates = _perturbed(noise.at(len(stream.tokens) + depth - 1), tokens, probabilities, count)
        else:
            estimates = list(probabilities[:count])
        base = _STEPS * (2 * _depth_class(depth) + perturbed)
        found: list[Candidate] = []
        for i in sorted(range(count), key=estimates.__getitem__, reverse=True):
            raw = estimates[i]
            if raw < 0.004:  # calibration raises nothing from here
                break
            proposer = proposers[i] if proposers else ""
            bucket = base + min(_STEPS - 1, int(raw * _STEPS))
            rate = self._rates.get((proposer, bucket))
            if rate is not None:
                weight = rate[1] / (rate[1] + _PRIOR)
                raw += weight * (rate[0] - raw)
            if raw >= floor:
                found.append(Candidate(tokens[i], raw, proposer, bucket))
        return found

    def settle(self, proposer: str, bucket: int, accepted: bool) -> None:
        """A drafted candidate whose parent was accepted was accepted or not."""
        rate = self._rates.setdefault((proposer, bucket), [0.0, 0.0])
        rate[1] = min(rate[1] + 1.0, _HORIZON)
        rate[0] += (accepted - rate[0]) / rate[1]

    def reset(self) -> None:
        """Forgets the calibration."""
        self._rates.clear()


def _depth_class(depth: int) -> int:
    return sum(depth > border for border in _DEPTHS)


def _perturbed(state: int, tokens: Sequence[int], probabilities: Sequence[float], count: int) -> list[float]:
    """Estimates under the noise of one position."""
    scores = [math.log(max(probabilities[i], 1e-12)) + StreamNoise.gumbel(state, tokens[i]) for i in range(count)]
    rest = max(1.0 - sum(probabilities[:count]), 1e-3)
    scores.append(math.log(rest) + _EULER)
    best = max(scores)
    weights = [math.exp((score - best) / _SPREAD) for score in scores]
    total = sum(weights)
    return [weight / total for weight in weights[:-1]]
