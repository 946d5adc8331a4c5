"""What speculation saved, from the ledger's numbers."""

from __future__ import annotations

from reason.report.grains import grains
from reason.types import Usage


def test_a_grain_that_is_not_in_use_has_no_row() -> None:
    assert grains(Usage(policy_tokens=10).as_dict()) == []


def test_each_grain_says_what_stood() -> None:
    usage = Usage(
        policy_tokens=1000,
        drafted_tokens=1600,
        accepted_tokens=400,
        draft_model_tokens=700,
        routed_steps=40,
        escalated_steps=10,
        short_cuts=6,
    )
    tokens, steps, answers = grains(usage.as_dict(), planned=8)
    assert tokens.cells == ("tokens", "1,600", "400 (25%)", "40% of tokens without their own forward")
    assert steps.cells == ("steps", "40", "30 (75%)", "the large model wrote 300 of 1,000 tokens")
    assert answers.cells == ("answers", "8", "6 (75%)", "6 searches")


def test_a_plan_alone_says_whose_tokens_there_were() -> None:
    (answers,) = grains(Usage(policy_tokens=50, draft_model_tokens=50, short_cuts=1).as_dict(), planned=1)
    assert answers.cells == ("answers", "1", "1 (100%)", "1 search; the large model wrote 0 of 50 tokens")
    (answers,) = grains(Usage(policy_tokens=90, draft_model_tokens=50).as_dict(), planned=1)
    assert answers.cells == ("answers", "1", "0 (0%)", "0 searches; the large model wrote 40 of 90 tokens")


def test_nothing_generated_is_no_error() -> None:
    (row,) = grains({"policy_tokens": 0, "drafted_tokens": 4, "accepted_tokens": 0})
    assert row.cells == ("tokens", "4", "0 (0%)", "")
