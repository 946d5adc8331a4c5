"""From names to engines: what cannot be is refused before a model is loaded, and the rest is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from reason.errors import UsageError
from reason.types import Engine

if TYPE_CHECKING:
    from reason.engine.remote import Servers
    from reason.plan import SpecEyes
    from reason.route import Router

__all__ = ["Routing", "check_draft", "check_route", "check_servers", "load_engine"]


class Routing(NamedTuple):
    """A router, and the name of the model that writes steps first; None is a server's only one."""

    router: Router
    small_model: str | None


def check_servers(
    servers: Mapping[str, str | None], draft: str, small_model: str | None, machine: Mapping[str, Any] | None = None
) -> Servers | None:
    """The servers that run the models; None where none is named.

    Args:
        servers: by the names of ``Solver``'s options.
        machine: the options that say how models run here, which a server would ignore.

    Raises:
        UsageError: a setting is not allowed, or is about a model that runs here.
    """
    if not any(servers.values()):
        return None
    from reason.engine.remote import check_servers

    return check_servers(servers, draft=draft, small_model=small_model, machine=machine)


def check_draft(draft: str, engine: Engine | None = None) -> None:
    """Refuses what no engine drafts with, before a model is loaded. Of a draft model only the word before the colon is
    looked at.

    Raises:
        UnknownName: no source of that name.
        UsageError: a source is named twice, or an engine is given, which drafts as it was made to.
    """
    if draft == "auto":
        return
    if engine is not None:
        raise UsageError(f"draft={draft!r} is for models that are loaded by name; {engine.name} is an engine already")
    if draft != "none":
        from reason.speculate.build import make_speculator
        from reason.speculate.sources import DRAFT_MODEL
        from reason.speculate.sources.lookup import Lookup

        make_speculator(draft, others={DRAFT_MODEL: lambda name: Lookup()})


def check_route(
    route: str | Router | None,
    model: str | None,
    small_model: str | None,
    engine: Engine | None = None,
    *,
    plan: str | SpecEyes | None = None,
    named: bool = True,
) -> Routing | None:
    """Refuses a route or a plan that cannot be, before a model is loaded; None where there is neither.

    Args:
        named: the small model needs a name: there is no server of its own that may know it.

    Raises:
        UnknownName: no router, or no plan, of that name.
        UsageError: a setting is not allowed, no small model is known, or an engine is given.
    """
    if plan is not None:
        from reason.plan import make_plan

        make_plan(plan)
    if route is None and plan is None:
        if small_model is not None:
            raise UsageError(
                f"small_model={small_model!r} writes first where there is a route or a plan: give one, too"
            )
        return None
    from reason.models.catalogue import DEFAULT_PAIR, SMALLER
    from reason.route import RoutedEngine, make_router

    if engine is not None:
        if route is None and small_model is None and isinstance(engine, RoutedEngine):  # its draft model answers first
            return None
        raise UsageError(f"routes and plans are for models that are loaded by name; {engine.name} is an engine already")
    router = make_router("always" if route is None else route)
    small = small_model
    if small is None and named:
        small = SMALLER.get((model or DEFAULT_PAIR).lower())
        if small is None:
            raise UsageError(
                f"no smaller model is known that shares its tokens with {model}: name it (small_model, --small-model); "
                f"known pairs: {', '.join(f'{small} for {large}' for large, small in SMALLER.items())}"
            )
    return Routing(router, small)


def load_engine(
    model: str | None, *, routing: Routing | None = None, remote: Servers | None = None, **options: Any
) -> Engine:
    """The engine of a model: one that runs here, one on a server, or a pair of them.

    Args:
        model: see ``Solver``.
        options: of ``LocalEngine.load``.

    Raises:
        ReasonError: a model cannot be had, or not run.
    """
    from reason.models import resolve

    if routing is None and remote is not None:
        return remote.large.connect(model)
    from reason.engine.local import LocalEngine

    if routing is None:
        found = resolve(model)
        return LocalEngine.load(found.folder, name=found.name, **options)
    from reason.models.catalogue import DEFAULT_PAIR
    from reason.route import RoutedEngine

    target: Engine
    draft: Engine
    small = None if remote is not None and remote.small is not None else resolve(routing.small_model)
    if remote is not None:
        target, beside = remote.large.connect(model), None
    else:
        large = resolve(model or DEFAULT_PAIR)
        target = beside = LocalEngine.load(large.folder, name=large.name, **options)
    try:
        if small is None:
            assert remote is not None and remote.small is not None
            draft = remote.small.connect(routing.small_model)
        else:
            draft = LocalEngine.load(small.folder, name=small.name, beside=beside, **options)
        try:
            return RoutedEngine(draft, target, routing.router)
        except BaseException:
            draft.close()
            raise
    except BaseException:
        target.close()
        raise
