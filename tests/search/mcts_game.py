"""Monte Carlo tree search played against scripts, without an engine."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from reason.search.strategies.mcts import MCTS
from reason.search.tree import ROOT, Action, Cancel, Expand, Measure, Node, Room, Tree
from reason.types import Problem


class Game:
    """Plays a strategy against a script, results in the order asked.

    Args:
        script: what the children are, by their places on the path ("1.0": the root's second child's first). ".5" is a
            step of that score, "=a .5" a solution with answer a, "= .5" one without, "!" fails. Else ``default``. What
            is asked for to the end ends.
        room: samples in flight.
    """

    def __init__(
        self, strategy: MCTS, script: Mapping[str, str] | None = None, *, default: str = ".5", room: int = 64
    ) -> None:
        self.strategy = strategy
        self.tree = Tree(Problem(content="?"), [Node(id=ROOT, parent=None, finish_reason="step")])
        self.asked: list[Action] = []
        self._script = script or {}
        self._default = default
        self._room = room
        self._work: deque[int | Measure] = deque()
        self._classes: list[str] = []
        self._to_the_end = [False]  # by node

    def ask(self) -> list[Action]:
        """Starts what the strategy wants."""
        in_flight = sum(isinstance(work, int) for work in self._work)
        actions = list(self.strategy.ask(self.tree, Room(self._room - in_flight)))
        self.asked += actions
        for action in actions:
            if isinstance(action, Measure):
                self.tree.measuring.update((node, action.name) for node in action.nodes)
                self._work.append(action)
            elif isinstance(action, Cancel):
                for node in action.nodes:
                    self.tree[node].finish_reason = "cancelled"
                self._work = deque(work for work in self._work if work not in action.nodes)
            else:
                for _ in range(min(action.num_samples, self._room - in_flight)):
                    in_flight += 1
                    self._work.append(len(self.tree))
                    self._to_the_end.append(action.until == "end")
                    self.tree.add(Node(id=len(self.tree), parent=action.node))
        return actions

    def tell(self) -> bool:
        """Ends the oldest work. Whether there was any."""
        if not self._work:
            return False
        work = self._work.popleft()
        if isinstance(work, Measure):
            for scored in work.nodes:
                self.tree[scored].scores[work.name] = (float(self._says(scored).split()[-1]),)
                self.tree.measuring.discard((scored, work.name))
            self.strategy.tell(self.tree, work.nodes)
            return True
        says = self._says(work)
        node: Node = self.tree[work]
        ends = says.startswith("=") or self._to_the_end[work]
        node.finish_reason = "error" if says == "!" else "eos" if ends else "step"
        if answer := says.split()[0][1:] if says.startswith("=") else "":
            if answer not in self._classes:
                self._classes.append(answer)
            node.answer, node.answer_class = answer, self._classes.index(answer)
        self.strategy.tell(self.tree, [work])
        return True

    def play(self, tells: int = 10_000) -> Game:
        self.ask()
        while tells and self.tell():
            self.ask()
            tells -= 1
        return self

    def play_until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            work = len(self._work)
            self.play(1)
            assert work or self._work, "it ended before"

    def note(self, name: str) -> dict[str, Any]:
        """A note of all nodes that have it, by their places."""
        return {self.place(node.id): node.notes[name] for node in self.tree.nodes if name in node.notes}

    def expanded(self) -> list[str]:
        """Where expansions were asked for, in order."""
        return [self.place(action.node) for action in self.asked if isinstance(action, Expand)]

    def place(self, node: int) -> str:
        places = [[c.id for c in self.tree.children(n.parent or ROOT)].index(n.id) for n in self.tree.path(node)]
        return ".".join(map(str, places))

    def _says(self, node: int) -> str:
        return self._script.get(self.place(node), self._default)


def plain(**fields: Any) -> MCTS:
    """One selection at a time, two children, no rollouts."""
    return MCTS(**{"in_flight": 1, "simulate": "none", **fields})
