"""An agent with tools: it writes until it calls one, reads what the tool says, and goes on, until it answers.

    <python>print(17 * 23)</python>   ->   <output>391</output>

The tools are the verifier "tools": Python in the sandbox, a calculator, and a search of the problem's passages if it
has any. A call ends a node, what the tool says is the node's feedback, and the next node begins with it, in the same
turn, so that the path's KV stays. It is the loop of ReAct (Yao et al., https://arxiv.org/abs/2210.03629) and of PAL
(Gao et al., https://arxiv.org/abs/2211.10435), with one worked example instead of a few. Where the calls run out, or
the tokens, what is there is closed with the form in which the problem wants its answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from reason.search.strategies.decoding import Decoding, check_at_least
from reason.search.tree import ROOT, Action, Expand, Measure, Node, Room, Tree
from reason.search.voting import vote
from reason.tasks.prompts import math_messages
from reason.types import Answer, Message, Problem

__all__ = ["ToolAgent"]

TOOLS = "tools"

_CLOSINGS = ("</python>", "</calc>", "</search>")
_INSTRUCTION = """You may use tools. Write a call, stop, and its output is shown to you; then go on.
<python>a program that prints what you want to know</python>
<calc>an arithmetic expression</calc>{search}
Call a tool for every calculation that is not trivial. When you know the answer, say it in the form asked for.

Example: What is the sum of the squares of the whole numbers from 1 to 12?
<python>print(sum(n * n for n in range(1, 13)))</python>
<output>
650
</output>
The sum is \\boxed{{650}}."""
_SEARCH = "\n<search>a few words, to look something up in the passages</search>"
_CLOSING_TOKENS = 64


@dataclass(frozen=True, kw_only=True)
class ToolAgent(Decoding):
    """See the module's docstring.

    Args:
        num_samples: agents that work side by side; their answers vote.
        max_calls: calls of each.
        turn_tokens: limit of what is written between two calls.
    """

    breadth: ClassVar[str] = "num_samples"

    num_samples: int = 1
    max_calls: int = 6
    turn_tokens: int = 384
    temperature: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, "num_samples", "turn_tokens")
        check_at_least(self, 0, "max_calls")

    @property
    def measures(self) -> tuple[str, ...]:
        return (TOOLS,)

    def ask(self, tree: Tree, room: Room) -> Sequence[Action]:
        begun = len(tree.children(ROOT))
        actions: list[Action] = []
        if begun < self.num_samples:
            actions.append(
                Expand(
                    node=ROOT,
                    num_samples=self.num_samples - begun,
                    until=min(self.turn_tokens, self.max_tokens),
                    max_tokens=min(self.turn_tokens, self.max_tokens),
                    prompt=_prompt(tree.problem),
                    sampling=self.sampling,
                    stop=_CLOSINGS,
                    open_ended=True,
                )
            )
        calling = [leaf for leaf in tree.leaves() if leaf.open]
        asked = tuple(
            leaf.id for leaf in calling if TOOLS not in leaf.scores and (leaf.id, TOOLS) not in tree.measuring
        )
        if asked:
            actions.append(Measure(nodes=asked, name=TOOLS))
        actions += [self._next(tree, leaf) for leaf in calling if TOOLS in leaf.scores]
        return actions if room.expansions > 0 else [each for each in actions if isinstance(each, Measure)]

    def tell(self, tree: Tree, done: Sequence[int]) -> None:
        return None

    def answer(self, tree: Tree) -> Answer:
        return vote(tree, "majority")

    def _next(self, tree: Tree, leaf: Node) -> Expand:
        said = leaf.feedback.get(TOOLS, "")
        tag = next((each for each in _CLOSINGS if _is_open(leaf.text, each)), _CLOSINGS[0])
        output = f"{tag}\n<output>\n{said}\n</output>\n" if leaf.scores[TOOLS][0] else ""  # or it wrote for too long
        left = min(self.turn_tokens, self.max_tokens - leaf.path_tokens)
        if leaf.depth > self.max_calls or left < 1:
            closing = tree.problem.closing
            return Expand(
                node=leaf.id, max_tokens=_CLOSING_TOKENS, prompt=output + closing, stop=("\n",), sampling=self.sampling
            )
        return Expand(
            node=leaf.id,
            until=left,
            max_tokens=left,
            prompt=output,
            sampling=self.sampling,
            stop=_CLOSINGS,
            open_ended=True,
        )


def _is_open(text: str, closing: str) -> bool:
    """Whether a text ends inside of a call."""
    opening = closing.replace("/", "")
    return text.rfind(opening) > text.rfind(closing)


def _prompt(problem: Problem) -> tuple[Message, ...]:
    """The problem's turns, the last with what there is to call."""
    content = problem.content
    *turns, last = math_messages(content) if isinstance(content, str) else content
    instruction = _INSTRUCTION.format(search=_SEARCH if problem.passages else "")
    return (*turns, Message(role="user", content=f"{instruction}\n\n{last['content']}"))
