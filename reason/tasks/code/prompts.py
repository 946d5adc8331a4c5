"""How programs are asked for. The worked examples are our own."""

from __future__ import annotations

from reason.tasks.prompts import Prompt, Worked

__all__ = ["COMPLETE", "WRITE"]

_ENDING = "Answer with the whole program in one ```python block."


def _worked(asked: str, tests: str, signature: str, docstring: str, body: str) -> tuple[Worked, Worked]:
    """An example for each of the prompts."""
    head = f'{signature}\n    """{docstring}"""\n'
    solution = f"```python\n{head}{body}\n```"
    return (
        Worked(head.rstrip(), solution),
        Worked(f"{asked}\n\nYour code should pass this test:\n{tests}", f"```python\n{signature}\n{body}\n```"),
    )


_EXAMPLES = (
    _worked(
        "Write a function that gives every second letter of a text, from the first on, in capitals.",
        'assert alternate_shout("meadow") == "MAO"',
        "def alternate_shout(text: str) -> str:",
        "Every second letter of a text, from the first on, in capitals.\n"
        "    >>> alternate_shout(\"meadow\")\n    'MAO'\n    ",
        "    return text[::2].upper()",
    ),
    _worked(
        "Write a function that tells how many steps of at most three metres lead up a slope of some metres.",
        "assert steps_up(7) == 3",
        "def steps_up(metres: int) -> int:",
        "How many steps of at most three metres lead up a slope.\n    >>> steps_up(7)\n    3\n    ",
        "    return -(-metres // 3)",
    ),
    _worked(
        "Write a function that keeps the pairs of a list whose second part is longer than the first.",
        'assert growing_pairs([("a", "bb"), ("cc", "d")]) == [("a", "bb")]',
        "def growing_pairs(pairs: list) -> list:",
        'The pairs whose second part is longer than the first.\n    >>> growing_pairs([("a", "bb"), ("cc", "d")])\n'
        "    [('a', 'bb')]\n    ",
        "    return [(first, second) for first, second in pairs if len(second) > len(first)]",
    ),
    _worked(
        "Write a function that gives the readings of a meter as the amounts used between them.",
        "assert amounts_used([3, 10, 12]) == [7, 2]",
        "def amounts_used(readings: list) -> list:",
        "The amounts used between the readings of a meter.\n    >>> amounts_used([3, 10, 12])\n    [7, 2]\n    ",
        "    return [later - earlier for earlier, later in zip(readings, readings[1:])]",
    ),
)

COMPLETE = Prompt(
    template="Complete this Python function.\n\n```python\n{problem}\n```\n\n" + _ENDING,
    worked=tuple(complete for complete, _ in _EXAMPLES),
)
"""For the beginning of a program, up to a function's docstring."""

WRITE = Prompt(template="{problem}\n\n" + _ENDING, worked=tuple(write for _, write in _EXAMPLES))
"""For a description, and tests after it."""
