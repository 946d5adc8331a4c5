"""The package as a whole: what it exports, what importing it costs, its errors."""

from __future__ import annotations

import importlib.metadata
import json
import pickle
import subprocess
import sys
from dataclasses import fields

import pytest

import reason
from reason import errors
from reason.errors import ReasonError, UnknownName, UsageError
from reason.types import Usage

HEAVY = ("torch", "transformers", "numpy", "scipy", "rich", "typer", "sentence_transformers", "math_verify", "sympy")


def test_what_it_exports() -> None:
    assert reason.__all__ == [
        "Budget",
        "Problem",
        "ReasonError",
        "Sampling",
        "Solution",
        "Solver",
        "Usage",
        "asolve",
        "solve",
    ]
    assert all(getattr(reason, name) is not None for name in reason.__all__)


def test_the_version_is_the_distributions() -> None:
    assert reason.__version__ == importlib.metadata.version("reason-toolkit")


def test_importing_it_is_cheap() -> None:
    code = (
        "import sys, time; began = time.perf_counter(); import reason; seconds = time.perf_counter() - began;"
        "import json; print(json.dumps([seconds, sorted({m.partition('.')[0] for m in sys.modules})]))"
    )
    seconds = []
    for _ in range(3):  # the machine may be busy
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
        taken, modules = json.loads(out.stdout)
        assert not set(HEAVY) & set(modules)
        seconds.append(taken)
    assert min(seconds) < 0.8


def test_the_ledger_row_is_pinned() -> None:
    assert (
        [f.name for f in fields(Usage)]
        == list(Usage().as_dict())
        == [
            "prompt_tokens",
            "policy_tokens",
            "verifier_tokens",
            "calls",
            "forwards",
            "draft_forwards",
            "drafted_tokens",
            "accepted_tokens",
            "draft_model_tokens",
            "routed_steps",
            "escalated_steps",
            "short_cuts",
            "unique_kv_tokens_peak",
            "unique_kv_tokens_mean",
            "solver_seconds",
            "seconds",
        ]
    )


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_is_in_the_tree(name: str) -> None:
    kind = getattr(errors, name)
    assert issubclass(kind, ReasonError)
    assert name in (errors.__doc__ or "")
    assert kind.__doc__


def test_unknown_names() -> None:
    error = UnknownName("strategy", "beem", ["beam", "best-of-n"])
    assert str(error) == "unknown strategy 'beem'. Did you mean 'beam'? Known: beam, best-of-n."
    assert isinstance(error, UsageError)
    sent = pickle.loads(pickle.dumps(error))
    assert (str(sent), sent.known) == (str(error), error.known)
    sent = pickle.loads(pickle.dumps(error))
    assert (str(sent), sent.known) == (str(error), error.known)
    assert str(UnknownName("model", "x", [])) == "unknown model 'x'. Known: none."
