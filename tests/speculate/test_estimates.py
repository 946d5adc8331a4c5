"""Frequencies that sources learn of themselves."""

from __future__ import annotations

import random

import pytest

from reason.speculate.estimates import LENGTHS, MATCH_PRIORS, Acceptance, length_bucket, match_bucket


def test_starts_at_the_prior_and_counts_it_as_so_many_observations() -> None:
    acceptance = Acceptance((0.5, 0.2), prior_weight=4.0)
    assert acceptance.rate(0) == 0.5
    acceptance.update(0, True)
    assert acceptance.rate(0) == pytest.approx((4 * 0.5 + 1) / 5)
    acceptance.update(0, False)
    assert acceptance.rate(0) == pytest.approx((4 * 0.5 + 1) / 6)
    assert acceptance.rate(1) == 0.2


def test_forgets_what_is_beyond_the_horizon() -> None:
    acceptance = Acceptance((0.5,), horizon=20.0)
    for _ in range(500):
        acceptance.update(0, True)
    assert acceptance.rate(0) > 0.99
    for _ in range(60):
        acceptance.update(0, False)
    assert acceptance.rate(0) < 0.05


def test_comes_to_the_frequency_and_stays_a_probability() -> None:
    rng = random.Random(1)
    acceptance = Acceptance((0.9,), horizon=1000.0)
    for _ in range(5000):
        acceptance.update(0, rng.random() < 0.3)
        assert 0.0 <= acceptance.rate(0) <= 1.0
    assert acceptance.rate(0) == pytest.approx(0.3, abs=0.06)


def test_reset_goes_back_to_the_priors() -> None:
    acceptance = Acceptance((0.5,), prior_weight=4.0)
    acceptance.update(0, True)
    acceptance.reset()
    acceptance.update(0, False)
    assert acceptance.rate(0) == pytest.approx(4 * 0.5 / 5)


def test_every_length_has_the_bucket_of_the_greatest_bound_below() -> None:
    for length in range(1, 100):
        bucket = length_bucket(length)
        assert LENGTHS[bucket] <= length
        assert bucket + 1 == len(LENGTHS) or length < LENGTHS[bucket + 1]


def test_every_match_has_a_prior_and_more_evidence_never_a_lower_one() -> None:
    buckets = [[match_bucket(length, count) for count in (1, 2, 3, 4, 100)] for length in LENGTHS]
    assert sorted({bucket for row in buckets for bucket in row}) == list(range(len(MATCH_PRIORS)))
    for row in buckets:
        priors = [MATCH_PRIORS[bucket] for bucket in row]
        assert priors == sorted(priors)
    for column in zip(*buckets, strict=True):
        priors = [MATCH_PRIORS[bucket] for bucket in column]
        assert priors == sorted(priors)
