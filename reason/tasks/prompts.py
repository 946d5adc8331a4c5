"""The prompts that problems are put in, and worked examples to put before them.

A prompt is one user turn: the problem's text in a template that says how to end. With few-shot examples each of them
comes first, as a user turn and the assistant's solution to it. The examples are our own and in no data set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from reason.types import Message, Problem

__all__ = [
    "BOXED_INSTRUCTION",
    "CHOICE",
    "GAME24",
    "MATH",
    "QA",
    "Prompt",
    "Worked",
    "math_messages",
    "problem_messages",
    "problem_text",
]

BOXED_INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."
"""The wording that the model cards of Qwen2.5-Math and DeepSeek-R1 ask for."""


def math_messages(problem: str) -> tuple[Message, ...]:
    """A problem as one user turn that asks for steps and a boxed answer; the system turn is left to the template.

    This is the "qwen-boxed" prompt of the Qwen2.5-Math evaluation (https://github.com/QwenLM/Qwen2.5-Math).
    """
    return (Message(role="user", content=f"{problem.strip()}\n{BOXED_INSTRUCTION}"),)


def problem_messages(problem: Problem) -> tuple[Message, ...]:
    """A problem as it is asked by itself."""
    return math_messages(problem.content) if isinstance(problem.content, str) else problem.content


def problem_text(problem: Problem) -> str:
    """A problem's text, without worked examples before it."""
    return problem.content if isinstance(problem.content, str) else problem.content[-1]["content"]


class Worked(NamedTuple):
    """A worked example."""

    problem: str
    solution: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """How problems of one kind are asked.

    Args:
        template: the user turn; ``{problem}`` stands for the problem's text.
        worked: the examples there are for few-shot prompts.
    """

    template: str
    worked: tuple[Worked, ...] = ()

    def messages(self, problem: str, *, few_shot: int = 0) -> tuple[Message, ...]:
        """The problem as its user turn, after the first ``few_shot`` worked examples."""
        assert 0 <= few_shot <= len(self.worked)
        turns: list[Message] = []
        for example in self.worked[:few_shot]:
            turns.append(self._turn(example.problem))
            turns.append(Message(role="assistant", content=example.solution))
        return (*turns, self._turn(problem))

    def _turn(self, problem: str) -> Message:
        # Not str.format: the template has the braces of \boxed{} in it.
        return Message(role="user", content=self.template.replace("{problem}", problem.strip()))


MATH = Prompt(
    template="{problem}\n" + BOXED_INSTRUCTION,
    worked=(
        Worked(
            "A baker fills 6 trays with 12 rolls each and sells 50 of the rolls. How many rolls are left?",
            "The baker makes 6 * 12 = 72 rolls.\n\nAfter selling 50 there are 72 - 50 = 22 left.\n\n\\boxed{22}",
        ),
        Worked(
            "A museum asks 9 dollars of an adult and 5 dollars of a child. "
            "How many dollars do 2 adults and 3 children pay together?",
            "The adults pay 2 * 9 = 18 dollars.\n\nThe children pay 3 * 5 = 15 dollars.\n\n"
            "Together that is 18 + 15 = 33 dollars.\n\n\\boxed{33}",
        ),
        Worked(
            "A tank that holds 240 litres is one third full. A pump adds 20 litres a minute. "
            "After how many minutes is the tank full?",
            "There are 240 / 3 = 80 litres in the tank, so 240 - 80 = 160 litres are missing.\n\n"
            "The pump needs 160 / 20 = 8 minutes for them.\n\n\\boxed{8}",
        ),
        Worked(
            "Mira reads 15 pages of a book of 90 pages on Monday and twice as many on Tuesday. "
            "What percentage of the book has she read then?",
            "On Tuesday she reads 2 * 15 = 30 pages.\n\nThat makes 15 + 30 = 45 pages.\n\n"
            "45 / 90 = 0.5, which is 50 percent.\n\n\\boxed{50}",
        ),
    ),
)
"""``math_messages`` with worked examples: for every problem whose answer is a number or a formula."""

CHOICE = Prompt(
    template="{problem}\nPlease reason step by step, and put the letter of the right choice within \\boxed{}.",
    worked=(
        Worked(
            "Which gas do green plants take up for photosynthesis?\n"
            "A. Oxygen\nB. Nitrogen\nC. Carbon dioxide\nD. Helium",
            "Photosynthesis turns carbon dioxide and water into sugar, and gives off oxygen.\n\n"
            "So the gas taken up is carbon dioxide, choice C.\n\n\\boxed{C}",
        ),
        Worked(
            "What is the derivative of x^3 + 2x at x = 1?\nA. 3\nB. 5\nC. 6\nD. 2",
            "The derivative is 3x^2 + 2.\n\nAt x = 1 that is 3 + 2 = 5, choice B.\n\n\\boxed{B}",
        ),
        Worked(
            "A car covers 150 km in 2.5 hours. What is its mean speed?\nA. 60 km/h\nB. 75 km/h\nC. 50 km/h\nD. 55 km/h",
            "Speed is distance over time: 150 / 2.5 = 60 km/h.\n\nThat is choice A.\n\n\\boxed{A}",
        ),
        Worked(
            "How many bits does it take to give each of 1000 items a number of its own?\nA. 8\nB. 9\nC. 12\nD. 10",
            "With n bits there are 2^n numbers.\n\n2^9 = 512 is too few, 2^10 = 1024 is enough, so 10 bits, choice D."
            "\n\n\\boxed{D}",
        ),
    ),
)
"""For a question with lettered choices, one a line."""

GAME24 = Prompt(
    template=(
        "Make 24 from the numbers {problem}. Use each number exactly once, and only +, -, *, / and parentheses.\n"
        "Please reason step by step, and put the expression, on one line, within \\boxed{}."
    ),
    # Each has a number above 13, so that none of the game's puzzles is given away.
    worked=(
        Worked(
            "1, 4, 14, 20",
            "20 - 14 = 6, which leaves 1, 4 and 6.\n\n6 * 4 = 24, which leaves 1 and 24.\n\n24 * 1 = 24.\n\n"
            "\\boxed{(20 - 14) * 4 * 1}",
        ),
        Worked(
            "2, 5, 7, 18",
            "7 + 5 = 12, which leaves 2, 12 and 18.\n\n12 / 2 = 6, which leaves 6 and 18.\n\n18 + 6 = 24.\n\n"
            "\\boxed{18 + (7 + 5) / 2}",
        ),
        Worked(
            "3, 3, 8, 16",
            "16 + 8 = 24, which leaves 3, 3 and 24.\n\n3 / 3 = 1, which leaves 1 and 24.\n\n24 * 1 = 24.\n\n"
            "\\boxed{(16 + 8) * (3 / 3)}",
        ),
        Worked(
            "2, 3, 5, 14",
            "14 + 5 = 19, which leaves 2, 3 and 19.\n\n19 + 3 = 22, which leaves 2 and 22.\n\n22 + 2 = 24.\n\n"
            "\\boxed{14 + 5 + 3 + 2}",
        ),
    ),
)
"""For the game of 24; the problem's text is the numbers."""

QA = Prompt(
    template="{problem}\nPlease reason step by step, and put the answer, in few words, within \\boxed{}.",
    worked=(
        Worked(
            "[1] Oda Lind: Oda Lind is a Norwegian potter who was born in Tromsø.\n\n"
            "[2] Tromsø: Tromsø is a city in Northern Norway, with a cable car up Storsteinen.\n\n"
            "Question: Which mountain does a cable car go up in the town where Oda Lind was born?",
            "Oda Lind was born in Tromsø [1].\n\nTromsø has a cable car up Storsteinen [2].\n\n\\boxed{Storsteinen}",
        ),
        Worked(
            "[1] The Glass Orchard: The Glass Orchard is a film of 1974, directed by Ivo Maran.\n\n"
            "[2] Salt Road: Salt Road is a film of 1969 by the director Lena Orlow.\n\n"
            "Question: Which film came out first, The Glass Orchard or Salt Road?",
            "The Glass Orchard is of 1974 [1].\n\nSalt Road is of 1969 [2], which is earlier.\n\n\\boxed{Salt Road}",
        ),
        Worked(
            "[1] Ivo Maran: Ivo Maran (3 May 1931 - 1998) was the son of the composer Petar Maran.\n\n"
            "[2] The Glass Orchard: The Glass Orchard is a film of 1974, directed by Ivo Maran.\n\n"
            "Question: Who is the father of the director of The Glass Orchard?",
            "Ivo Maran directed The Glass Orchard [2].\n\nHis father was Petar Maran [1].\n\n\\boxed{Petar Maran}",
        ),
        Worked(
            "[1] Brenn: Brenn is a village on the river Ola, in the district of Hest.\n\n"
            "[2] Hest: Hest is a district in the north. Its seat is Vigne.\n\n"
            "[3] Mill of Brenn: The mill of Brenn was built in 1802.\n\n"
            "Question: Are Brenn and Vigne in the same district?",
            "Brenn is in the district of Hest [1].\n\nVigne is its seat [2], so it is there too.\n\n\\boxed{yes}",
        ),
    ),
)
"""For a question after the passages in which its answer may be found."""
