"""Prompts."""

from __future__ import annotations

from reason.tasks.prompts import math_messages


def test_asks_for_steps_and_a_box_after_the_problem() -> None:
    (message,) = math_messages("  What is 1 + 1?\n")
    assert message["role"] == "user"
    assert message["content"].startswith("What is 1 + 1?\n")
    assert message["content"].endswith("put your final answer within \\boxed{}.")
