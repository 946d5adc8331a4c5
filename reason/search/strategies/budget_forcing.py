"""Budget forcing (s1; Muennighoff et al., https://arxiv.org/abs/2501.19393): one solution that thinks longer, or no
longer, than the model would.

    extend   where the model ends its thinking, "Wait" is put in place of the end, at most num_waits times
    cut      at max_thinking_tokens the end of thinking is put into its mouth, and it goes on to the answer

The solution of a model that does not think, or not this time, is extended where it ends; the last answer in it counts.
Its answer after each extension is a solution of its own in the tree; with ``select`` = "majority" they vote, and a
model that thinks answers after each thought.

We depart from s1 in beginning "Wait" as a new paragraph, and in not adding "Final Answer:" after a cut: the prompt says
what form the answer has. s1 does not let an extension be empty; here a model that ends it at once has used it up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from reason.errors import UsageError
from reason.search.strategies.decoding import Decoding, check_at_least
from reason.search.tree import ROOT, Action, Expand, Node, Room, Tree
from reason.search.voting import vote
from reason.types import Answer

__all__ = ["BudgetForcing"]

_ANSWER_TOKENS = 100
"""Of max_tokens what is left for the answer, as in s1, but at most half."""


@dataclass(frozen=True, kw_only=True)
class BudgetForcing(Decoding):
    """See the module's docstring. The note ``waits`` counts a node's extensions so far.

    Args:
        num_waits: extensions at most; 0 only cuts.
        wait: what is put where the model would have ended.
        min_tokens: what is so long already is not extended; 0 extends whatever its length.
        max_thinking_tokens: where thinking is cut; 0 leaves 100 of max_tokens for the answer.
        select: the last answer, or a vote among the answers after each extension.
    """

    num_waits: int = 2
    wait: str = "Wait"
    min_tokens: int = 0
    max_thinking_tokens: int = 0
    select: Literal["last", "majority"] = "last"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 0, "num_waits", "min_tokens", "max_thinking_tokens")
        if not self.wait.strip():
            raise UsageError(f"wait must be some text, got {self.wait!r}")
        if self.max_thinking_tokens >= self.max_tokens:
            raise UsageError(
                "max_thinking_tokens must be less than max_tokens, which are for the answer too, "
                f"got {self.max_thinking_tokens} and {self.max_tokens}"
            )

    @property
    def measures(self) -> tuple[str, ...]:
        return ()

    def ask(self, tree: Tree, room: Room) -> Sequence[Action]:
        if room.expansions <= 0:
            return []
        actions: list[Action] = []
        for node in tree.nodes:
            actions += self._moves(tree, node)[len(tree.children(node.id)) :]
        return actions

    def tell(self, tree: Tree, done: Sequence[int]) -> None:
        for node in done:
            parent = tree[tree[node].parent or ROOT]
            place = [child.id for child in tree.children(parent.id)].index(node)
            (prompt,) = [move.prompt for move in self._moves(tree, parent)[place : place + 1]] or [""]
            tree.note(node, waits=parent.notes.get("waits", 0) + (prompt == self._wait(tree, parent)))

    def answer(self, tree: Tree) -> Answer:
        answered = [node for node in tree.finished() if node.answer is not None]
        return vote(tree, "majority", answered[-1:] if answered and self.select == "last" else None)

    def _moves(self, tree: Tree, node: Node) -> list[Expand]:
        """What is to be written after a node, in order; it does not change but to get longer."""
        if node.finish_reason in (None, "length", "error", "cancelled"):
            return []
        if node.id == ROOT:
            return [self._write(tree, node, "", thinking=tree.thinking is not None)]
        wait = [self._write(tree, node, self._wait(tree, node), node.thinking)] if self._may_wait(tree, node) else []
        if node.thinking:
            answer = [self._write(tree, node, _end_of_thinking(tree, node), thinking=False)]
            if self.select == "majority" or not wait:
                return answer + wait
            failed = any(child.failed for child in tree.children(node.id))
            return wait + answer if failed else wait
        if node.open:  # cut as thinking is, but it was none
            return [self._write(tree, node, "", thinking=False)]
        answers_a_thought = tree.thinking is not None and tree.thinking.end in tree.text(node.id)
        return [] if answers_a_thought else wait

    def _may_wait(self, tree: Tree, node: Node) -> bool:
        """Whether what ended here by itself may be extended."""
        limit = self._thinking_limit if node.thinking else self.max_tokens
        return (
            node.notes.get("waits", 0) < self.num_waits
            and node.path_tokens < limit
            and (self.min_tokens == 0 or node.path_tokens < self.min_tokens)
        )

    def _write(self, tree: Tree, node: Node, prompt: str, thinking: bool) -> Expand:
        """Goes on after ``prompt``: to the end of the thought, or to the end."""
        left = max(1, (self._thinking_limit if thinking else self.max_tokens) - node.path_tokens)
        return Expand(
            node=node.id,
            prompt=prompt,
            until=left if thinking else "end",
            max_tokens=left,
            stop=(tree.thinking.end,) if thinking and tree.thinking is not None else (),
            sampling=self.sampling,
            open_ended=True,
        )

    @property
    def _thinking_limit(self) -> int:
        return self.max_thinking_tokens or max(self.max_tokens - _ANSWER_TOKENS, self.max_tokens // 2, 1)

    def _wait(self, tree: Tree, node: Node) -> str:
        text = tree.text(node.id)
        return self.wait if not text or text[-1].isspace() else f"\n\n{self.wait}"


def _end_of_thinking(tree: Tree, node: Node) -> str:
    assert tree.thinking is not None, "only models with marks are known to think"
    return ("" if tree.text(node.id).endswith("\n") else "\n") + tree.thinking.end + "\n\n"
