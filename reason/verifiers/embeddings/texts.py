"""What embedders of texts share: vectors are kept by text, and made off the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from reason.types import Trajectory

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["Embed", "TextVectors"]

Embed: TypeAlias = "Callable[[str], npt.NDArray[np.float32]]"
"""The vector of one text."""


class TextVectors:
    """Vectors of texts, the most recently used of them remembered. For any number of threads.

    Texts are embedded one by one, so that a vector cannot depend, by as little as rounding, on what else was asked for.

    Args:
        load: makes what embeds; called once, at the first use.
        size: so many vectors are remembered.
    """

    def __init__(self, load: Callable[[], Embed], size: int = 8192) -> None:
        self._load = load
        self._size = size
        self._embed: Embed | None = None
        self._known: OrderedDict[str, list[float]] = OrderedDict()
        self._lock = threading.Lock()

    async def of_last_steps(self, trajectories: Sequence[Trajectory]) -> list[list[float]]:
        """One vector for each trajectory, of what its last step says."""
        texts = [trajectory.steps[-1].text.strip() if trajectory.steps else "" for trajectory in trajectories]
        return await asyncio.to_thread(self.of, texts)

    def of(self, texts: Sequence[str]) -> list[list[float]]:
        """One vector for each text."""
        with self._lock:
            if self._embed is None:
                self._embed = self._load()
            return [self._one(self._embed, text) for text in texts]

    def _one(self, embed: Embed, text: str) -> list[float]:
        vector = self._known.get(text)
        if vector is None:
            vector = self._known[text] = embed(text).tolist()
        self._known.move_to_end(text)
        if len(self._known) > self._size:
            self._known.popitem(last=False)
        return vector
