"""Turns that ask for a solution anew: what MCTSr (https://arxiv.org/abs/2406.07394) and AB-MCTS
(https://arxiv.org/abs/2503.04412) refine solutions by."""

from __future__ import annotations

from reason.search.tree import Tree
from reason.tasks.prompts import BOXED_INSTRUCTION
from reason.types import Message

__all__ = ["ask_anew", "say"]


def say(text: str) -> tuple[Message, ...]:
    """A turn of the user's."""
    return (Message(role="user", content=text),)


def ask_anew(tree: Tree, request: str) -> tuple[Message, ...]:
    """A turn that asks for a whole solution, and says again what form its answer has: that of the problem's own prompt,
    where the prompt is ours."""
    ours = isinstance(tree.problem.content, str)
    form = BOXED_INSTRUCTION if ours else "Give the final answer in the form that was asked for."
    return say(f"{request} {form}")
