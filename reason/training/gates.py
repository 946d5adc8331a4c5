"""Several gates on the same answers: a verifier that asks others and writes down what each says."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from reason.training.writing import write_whole
from reason.types import Engine, Trajectory, Verifier
from reason.verifiers.probes import fingerprint
from reason.verifiers.several import Several

__all__ = ["GateRecorder"]


class GateRecorder(Several):
    """Its own scores say nothing.

    Args:
        gates: by name.
        folder: gets a file for each problem.
    """

    name: ClassVar[str] = "gates"
    probability: ClassVar[bool] = True

    def __init__(self, gates: Mapping[str, Verifier], folder: Path) -> None:
        self._gates = dict(gates)
        self.members = tuple(self._gates.values())
        self._folder = folder

    def fingerprint(self, model: str | None) -> str:
        """Which gates they are, and the heads that they read with: of an evaluation with others the scores are none."""
        return "; ".join(f"{name} {fingerprint(gate, model)}".strip() for name, gate in self._gates.items())

    async def score(self, trajectories: Sequence[Trajectory], engine: Engine, owner: str) -> list[float]:
        by_gate = {name: await gate.score(trajectories, engine, owner) for name, gate in self._gates.items()}
        for place, trajectory in enumerate(trajectories):
            scores = {name: found[place] for name, found in by_gate.items()}
            write_whole(self._folder / f"{trajectory.problem.id}.json", json.dumps(scores).encode())
        return [1.0] * len(trajectories)

    def read(self, problem: str) -> dict[str, float]:
        """What the gates said of a problem's answer; nothing where none was there."""
        try:
            scores: dict[str, float] = json.loads((self._folder / f"{problem}.json").read_bytes())
        except FileNotFoundError:
            return {}
        return scores
