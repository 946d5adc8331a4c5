"""What a verifier made of others passes on to them, and takes from them."""

from __future__ import annotations

from reason.types import Engine, Probe, Usage, Verifier
from reason.verifiers.probes import probes_of

__all__ = ["Several"]


class Several:
    """Records for all its ``members``, reads for all of them, and counts what they cost."""

    members: tuple[Verifier, ...]

    @property
    def statistics(self) -> bool:
        return any(member.statistics for member in self.members)

    @property
    def top_logprobs(self) -> int | None:
        return max((member.top_logprobs for member in self.members if member.top_logprobs is not None), default=None)

    @property
    def hidden(self) -> bool:
        return any(getattr(member, "hidden", False) for member in self.members)

    def probes(self, engine: Engine) -> tuple[Probe, ...]:
        """What the members read while steps are generated."""
        return probes_of(self.members, engine)

    def usage(self, owner: str) -> Usage:
        """What those members that run models of their own have cost."""
        total = Usage()
        for member in self.members:
            if (count := getattr(member, "usage", None)) is not None:
                total = total.plus(count(owner))
        return total

    def forget(self, owner: str) -> None:
        """Drops what is counted for an owner whose work is over."""
        for member in self.members:
            if (forget := getattr(member, "forget", None)) is not None:
                forget(owner)

    def close(self) -> None:
        """Frees the members' own models."""
        for member in self.members:
            if (close := getattr(member, "close", None)) is not None:
                close()
