"""The prompts that problems are put in."""

from __future__ import annotations

from reason.types import Message

__all__ = ["BOXED_INSTRUCTION", "math_messages"]

BOXED_INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."
"""The wording that the model cards of Qwen2.5-Math and DeepSeek-R1 ask for."""


def math_messages(problem: str) -> tuple[Message, ...]:
    """A problem as one user turn that asks for steps and a boxed answer; the system turn is left to the template.

    This is the "qwen-boxed" prompt of the Qwen2.5-Math evaluation (https://github.com/QwenLM/Qwen2.5-Math).
    """
    return (Message(role="user", content=f"{problem.strip()}\n{BOXED_INSTRUCTION}"),)
