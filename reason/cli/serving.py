"""What the commands that serve have in common: a service over a model, checked before the model is loaded."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from reason.cli.model_options import ModelOptions
from reason.errors import UsageError

if TYPE_CHECKING:
    from reason.serve.limits import Limits
    from reason.serve.service import Service

__all__ = ["check_installed", "open_service"]


@contextlib.contextmanager
def open_service(
    model: str | None,
    *,
    strategy: str,
    setting: Sequence[str] | None,
    allow: Sequence[str] | None,
    limits: Limits,
    loading: ModelOptions,
) -> Iterator[Service]:
    """A service; its model is loaded here and freed in the end.

    Args:
        model: see ``Solver``.
        strategy, setting: of requests that name no strategy; the settings are "FIELD=VALUE".
        allow: see ``Service.allowed``.
        loading: how the model is loaded, or which server runs it.

    Raises:
        ReasonError: one of them is wrong, or the model cannot be loaded.
    """
    from reason.api import Solver
    from reason.search.measuring import find_verifiers
    from reason.search.strategies import make_strategy, parse_fields
    from reason.serve.service import Service

    fields = parse_fields(strategy, setting or [])
    find_verifiers(make_strategy(strategy, **fields))  # before the model is loaded
    with Solver(model, **loading.as_dict()) as solver:
        yield Service(
            solver=solver, strategy=strategy.lower(), fields=fields, allowed=frozenset(allow or ()), limits=limits
        )


def check_installed(*packages: str) -> None:
    """Raises UsageError if the extra that servers need is missing."""
    import importlib.util

    if missing := [name for name in packages if importlib.util.find_spec(name) is None]:
        raise UsageError(f"this needs {', '.join(missing)}: pip install 'reason-toolkit[serve]'")
