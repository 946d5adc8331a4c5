"""The stand-in for a reward model where only speed is compared: a checksum of the text costs nothing, is the same in
every program, and prefers nobody's steps."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from reason.types import Engine, Trajectory


def checksum(text: str) -> float:
    """A number in [0, 1)."""
    return zlib.crc32(text.strip().encode()) / 2**32


class Checksum:
    """The same as a verifier of reason's."""

    name: ClassVar[str] = "checksum"
    statistics: ClassVar[bool] = False
    top_logprobs: ClassVar[int | None] = None
    probability: ClassVar[bool] = True

    async def score(self, trajectories: Sequence[Trajectory], engine: Engine, owner: str) -> list[float]:
        return [checksum(trajectory.text) for trajectory in trajectories]
