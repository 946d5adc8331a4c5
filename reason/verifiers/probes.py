"""What verifiers read off the model's hidden states while it writes: probes, and which they are."""

from __future__ import annotations

from collections.abc import Iterable

from reason.types import Embedder, Engine, Probe, Verifier

__all__ = ["fingerprint", "probes_of"]


def probes_of(verifiers: Iterable[Verifier], engine: Engine) -> tuple[Probe, ...]:
    """The probes that some verifiers ask for, each name once."""
    asked = [find(engine) for verifier in verifiers if (find := getattr(verifier, "probes", None)) is not None]
    return tuple({probe.name: probe for probes in asked for probe in probes}.values())


def fingerprint(measure: Verifier | Embedder, model: str | None) -> str:
    """Which trained part a verifier reads with, in short; "" for those without one.

    Args:
        model: the policy's name; None where it is not known yet.
    """
    find = getattr(measure, "fingerprint", None)
    return "" if find is None else str(find(model))
