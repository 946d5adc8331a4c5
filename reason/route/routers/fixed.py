"""Routers that do not look: the two ends that every comparison needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from reason.route.router import Author, Drafted, Rewrite
from reason.types import Completion, Engine
from reason.verifiers.recording import Recording

__all__ = ["Always", "Never"]


@dataclass(frozen=True, kw_only=True)
class _Fixed:
    author: ClassVar[Author]

    def recording(self, draft: Engine) -> Recording:
        return Recording()

    async def choose(self, drafted: Drafted, rewrite: Rewrite) -> Completion | None:
        return await rewrite() if self.author == "target" else None


@dataclass(frozen=True, kw_only=True)
class Always(_Fixed):
    """Every step is the target's; the draft model does not run."""

    author: ClassVar[Author] = "target"


@dataclass(frozen=True, kw_only=True)
class Never(_Fixed):
    """Every step is the draft model's."""

    author: ClassVar[Author] = "draft"
