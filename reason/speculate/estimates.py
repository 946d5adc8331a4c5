"""How likely what a source proposes is to come: frequencies learnt online, apart for each bucket of evidence."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["LENGTHS", "MATCH_PRIORS", "Acceptance", "length_bucket", "match_bucket"]

LENGTHS = (1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32)
"""The least match length of each bucket of ``length_bucket``."""

_BUCKET_OF = [sum(length >= least for least in LENGTHS[1:]) for length in range(LENGTHS[-1] + 1)]


def length_bucket(length: int) -> int:
    """Which of ``LENGTHS`` a match of ``length`` tokens belongs to: the index of the greatest that is not longer."""
    return _BUCKET_OF[length] if length < len(_BUCKET_OF) else len(LENGTHS) - 1


MATCH_PRIORS = (
    *(0.25, 0.35, 0.55),  # 1 token that occurred once, 2 or 3 times, more often
    *(0.40, 0.50, 0.65),
    *(0.50, 0.55, 0.70),
    *(0.55, 0.65, 0.80),
    *(0.60, 0.75, 0.80),
    *(0.65, 0.75, 0.85),
    *(0.70, 0.80, 0.90),  # 8 tokens
    *(0.80, 0.85, 0.95),
    *(0.85, 0.90, 0.95),
    *(0.90, 0.95, 0.95),
    *(0.95, 0.95, 0.95),
)
"""By ``match_bucket``: how often the next token was one that had followed such a match (DeepSeek-R1 distillations on
competition mathematics)."""


def match_bucket(length: int, occurrences: int) -> int:
    """The bucket of a match of ``length`` tokens that occurred so often, at least once; see ``MATCH_PRIORS``."""
    return length_bucket(length) * 3 + (0 if occurrences == 1 else 1 if occurrences < 4 else 2)


class Acceptance:
    """By bucket, how often what was proposed came: a mean that starts at a prior and forgets what is long ago.

        rate += (accepted - rate) / weight,    weight = min(weight + 1, horizon)

    So a prior counts as ``prior_weight`` observations, and after ``horizon`` of them the mean is an exponential one.

    Args:
        priors: each bucket's rate before anything was seen, in [0, 1].
        prior_weight: how many observations a prior is worth, at least 1.
        horizon: observations that the mean looks back on.
    """

    def __init__(self, priors: Sequence[float], *, prior_weight: float = 8.0, horizon: float = 200.0) -> None:
        assert all(0.0 <= prior <= 1.0 for prior in priors) and 1.0 <= prior_weight <= horizon
        self._priors = tuple(priors)
        self._prior_weight = prior_weight
        self._horizon = horizon
        self.reset()

    def reset(self) -> None:
        """Back to the priors."""
        self._rates = list(self._priors)
        self._weights = [self._prior_weight] * len(self._priors)

    def rate(self, bucket: int) -> float:
        """The estimate, in [0, 1]."""
        return self._rates[bucket]

    def update(self, bucket: int, accepted: float) -> None:
        """What was proposed came (1) or did not (0)."""
        weight = self._weights[bucket] = min(self._weights[bucket] + 1.0, self._horizon)
        self._rates[bucket] += (accepted - self._rates[bucket]) / weight
