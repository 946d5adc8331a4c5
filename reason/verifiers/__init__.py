"""Verifiers: what judges steps and answers, and embedders. A new one is a file here and a line below, and it is in
``solve`` and the CLI."""

from __future__ import annotations

from typing import Any

from reason.fields import check_object, make
from reason.types import Capabilities, Embedder, Verifier
from reason.verifiers.aggregate import AGGREGATIONS, aggregate, check_aggregation
from reason.verifiers.agreement import Agreement
from reason.verifiers.codet import CodeT
from reason.verifiers.confidence import Confidence
from reason.verifiers.embeddings import AUTO_EMBEDDING, DEFAULT_EMBEDDER, EMBEDDERS, default_embedder, is_embedding
from reason.verifiers.ensemble import Ensemble
from reason.verifiers.entropy import Entropy
from reason.verifiers.judge import Judge
from reason.verifiers.logprob import LogProb
from reason.verifiers.needs import check_needs
from reason.verifiers.public_tests import PublicTests
from reason.verifiers.reward_model import ProcessRewardModel
from reason.verifiers.self_certainty import SelfCertainty
from reason.verifiers.separability import Separability
from reason.verifiers.span_logprob import SpanLogProb
from reason.verifiers.tools import Tools
from reason.verifiers.value_head import HeadVerifier, find_shipped
from reason.verifiers.value_prompt import ValuePrompt

__all__ = [
    "AGGREGATIONS",
    "DEFAULT_EMBEDDER",
    "DEFAULT_VERIFIER",
    "EMBEDDERS",
    "VERIFIERS",
    "VERIFIERS_OF",
    "aggregate",
    "check_aggregation",
    "check_needs",
    "default_embedder",
    "default_verifier",
    "make_embedder",
    "make_measure",
    "make_verifier",
    "meant_by",
]

VERIFIERS: dict[str, type[Any]] = {
    "agreement": Agreement,
    "codet": CodeT,
    "confidence": Confidence,
    "entropy": Entropy,
    "head": HeadVerifier,
    "judge": Judge,
    "logprob": LogProb,
    "public-tests": PublicTests,
    "self-certainty": SelfCertainty,
    "separability": Separability,
    "span-logprob": SpanLogProb,
    "tools": Tools,
    "value-prompt": ValuePrompt,
}

VERIFIERS_OF: dict[str, type[Any]] = {"ensemble": Ensemble, "prm": ProcessRewardModel}
"""Those that are nothing without their first field, which is written without its name: ``prm:MODEL``."""

DEFAULT_VERIFIER = "auto"
"""What strategies measure with unless told otherwise: what ``default_verifier`` says of the model."""


def default_verifier(model: str | None, can: Capabilities | None = None) -> str:
    """The name of the verifier that needs nothing but the model: the value head that comes with the package for it,
    else self-certainty.

    Args:
        can: what its engine tells; all, if it is not known. Where a server keeps whole rows to itself it is logprob,
            and agreement where it tells no log-probabilities at all.
    """
    can = can or Capabilities()
    if can.states and model is not None and find_shipped(model) is not None:
        return "head"
    if can.statistics:
        return "self-certainty"
    return "logprob" if can.logprobs else "agreement"


def meant_by(name: str, model: str | None, can: Capabilities | None = None) -> str:
    """What a name among a strategy's measures stands for: the default verifier and embedder are chosen by the model and
    its engine; otherwise as ``default_verifier``."""
    if name == DEFAULT_VERIFIER:
        return default_verifier(model, can)
    return default_embedder(can) if name == AUTO_EMBEDDING else name


def make_verifier(name: str | Verifier, /, **fields: Any) -> Verifier:
    """A verifier by name, with its fields; a verifier object is passed through.

    Fields may also be written into the name, ``"confidence:variant=tail,window=512"``, where no value has a comma. A
    reward model is ``"prm:MODEL,format=…"``; several verifiers are ``"ensemble:judge+prm:MODEL,how=min"``, with
    semicolons for the commas of one of them.

    Raises:
        UnknownName: no verifier, or no field, of that name.
        UsageError: a field has a value that it does not take, or is given twice.
    """
    if not isinstance(name, str):
        check_object("a verifier", name, Verifier, "score", fields)
        return name
    verifier: Verifier = make("verifier", VERIFIERS | VERIFIERS_OF, name, fields, parsers={"members": _members})
    return verifier


def make_embedder(name: str | Embedder, /, **fields: Any) -> Embedder:
    """An embedder by name; otherwise as ``make_verifier``."""
    if not isinstance(name, str):
        check_object("an embedder", name, Embedder, "embed", fields)
        return name
    embedder: Embedder = make("embedder", EMBEDDERS, name, fields)
    return embedder


def make_measure(name: str) -> Verifier | Embedder:
    """The verifier or embedder of a name that a strategy measures with; otherwise as ``make_verifier``."""
    if is_embedding(name):
        return make_embedder(name)
    return make_verifier(name)


def _members(text: str) -> tuple[Verifier, ...]:
    """The verifiers of an ensemble, "a+b:field=value;field=value"."""
    return tuple(make_verifier(part.strip().replace(";", ",")) for part in text.split("+"))
