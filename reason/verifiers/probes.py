"""What verifiers read off the model's hidden states while it writes."""

from __future__ import annotations

from collections.abc import Iterable

from reason.types import Engine, Probe, Verifier

__all__ = ["probes_of"]


def probes_of(verifiers: Iterable[Verifier], engine: Engine) -> tuple[Probe, ...]:
    """The probes that some verifiers ask for, each name once."""
    asked = [find(engine) for verifier in verifiers if (find := getattr(verifier, "probes", None)) is not None]
    return tuple({probe.name: probe for probes in asked for probe in probes}.values())
