"""What verifiers and embedders need of an engine beside text, and which of them an engine has enough for."""

from __future__ import annotations

from typing import Any

from reason.errors import UsageError
from reason.types import Capabilities, Embedder, Verifier
from reason.verifiers.embeddings import EMBEDDERS

__all__ = ["check_needs", "check_unrecorded", "lacking"]


def lacking(measure: Verifier | Embedder, can: Capabilities) -> str | None:
    """What an engine does not tell that this one needs, in words; None if it tells all."""
    members: tuple[Verifier | Embedder, ...] = getattr(measure, "members", ())
    if members:
        return next((found for member in members if (found := lacking(member, can)) is not None), None)
    reads_states = getattr(measure, "hidden", False) or getattr(measure, "states", ()) or hasattr(measure, "probes")
    if reads_states and not can.states:
        return "hidden states"
    if getattr(measure, "statistics", False) and not can.statistics:
        return "figures over whole rows of log-probabilities"
    top = getattr(measure, "top_logprobs", None)
    if top is not None and not can.logprobs:
        return "log-probabilities of what is generated"
    if getattr(measure, "uses_score", False) and not can.score:
        return "log-probabilities of a given text"
    return None


def check_needs(measure: Verifier | Embedder, can: Capabilities, model: str) -> None:
    """Refuses a verifier or an embedder that would find nothing to read.

    Raises:
        UsageError: says what it lacks, and which can be used instead.
    """
    lacks = lacking(measure, can)
    if lacks is None:
        return
    from reason.verifiers import VERIFIERS

    embeds = isinstance(measure, Embedder)
    kinds: dict[str, type[Any]] = EMBEDDERS if embeds else VERIFIERS
    able = [name for name, kind in kinds.items() if lacking(kind(), can) is None]
    raise UsageError(
        f"the {'embedder' if embeds else 'verifier'} {measure.name} needs {lacks}, which the engine of {model} does "
        f"not tell; it works with {', '.join(able)}{'' if embeds else ' and prm:MODEL'}"
    )


def check_unrecorded(verifier: Verifier, writer: str) -> None:
    """Refuses a verifier that is to work on one model's engine and reads what another's recorded while it wrote.

    Args:
        writer: the model that writes.

    Raises:
        UsageError: says what can be used instead.
    """
    if verifier.statistics or verifier.top_logprobs is not None:
        raise UsageError(
            f"the verifier {verifier.name} reads what is recorded while a step is written, and {writer} writes it: "
            "take one that reads texts or states (the router reward with reader=draft takes this one)"
        )
