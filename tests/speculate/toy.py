"""A draft source that anybody can follow."""

from __future__ import annotations

from collections.abc import Sequence

from reason.speculate.draft import Distribution, Rows, Source, State, Stream
from reason.speculate.policy import ForwardTimes, wide_template
from reason.speculate.rules import RULES

ANY = [rule.name for rule in RULES.values() if rule.draws == "any"]
REJECTION = [rule.name for rule in RULES.values() if rule.draws in ("replacement", "without-replacement")]
BUSH = wide_template(nodes=12, depth=3, width=3)


def free_times() -> ForwardTimes:
    """Rows cost nothing."""
    times = ForwardTimes()
    times.set({1: 1.0, 100: 1.0})
    return times


class Toy(Source):
    """Three tokens at each place, a function of the last one; nothing after 9. Notes what it hears."""

    name = "toy"
    stochastic = True

    def __init__(self, name: str = "toy", shift: int = 0) -> None:
        self.name, self.shift = name, shift
        self.settled: list[tuple[State, int]] = []
        self.heard: list[str] = []

    def state(self, stream: Stream) -> State:
        return (stream.tokens[-1],)

    def step(self, state: State, token: int) -> State:
        return None if token == 9 else (*state, token)

    def distribution(self, state: State) -> Distribution:
        first = (state[-1] * 3 + self.shift) % 10
        return Distribution([first, (first + 1) % 10, (first + 5) % 10], [0.6, 0.2, 0.1])

    def settle(self, state: State, token: int) -> None:
        self.settled.append((state, token))

    def prepare(self, streams: Sequence[Stream]) -> None:
        self.heard.append(f"prepare {len(streams)}")

    def observe(self, rows: Rows) -> None:
        self.heard.append(f"observe {len(rows.tokens)}")

    def reset(self) -> None:
        self.heard.append("reset")


def stream_of(*tokens: int, key: int = 0, temperature: float = 0.8, room: int = 100) -> Stream:
    return Stream(list(tokens), 1, temperature, seed=3, key=key, room=room)
