"""The strategies by name. A new one is a file here, a line below, and it is in ``solve``, the CLI and the docs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from reason.errors import UnknownName, UsageError
from reason.fields import check_types, hints, parse, parse_settings
from reason.search.strategies.ab_mcts import ABMCTS
from reason.search.strategies.astar import AStar
from reason.search.strategies.ats import AutonomousTreeSearch
from reason.search.strategies.auto import Auto
from reason.search.strategies.beam import Beam
from reason.search.strategies.best_first import BestFirst
from reason.search.strategies.best_of_n import BestOfN
from reason.search.strategies.budget_forcing import BudgetForcing
from reason.search.strategies.decoding import layers
from reason.search.strategies.deepconf import DeepConf
from reason.search.strategies.dvts import DVTS
from reason.search.strategies.early_stopping import AdaptiveConsistency, UnanimousWindow
from reason.search.strategies.ets import ETS
from reason.search.strategies.mcts import MCTS, ReSTMCTS, RStarMath
from reason.search.strategies.mctsr import MCTSr
from reason.search.strategies.merge import Merge
from reason.search.strategies.particle import ParticleFilter
from reason.search.strategies.probtree import ProbTree
from reason.search.strategies.rebase import REBASE
from reason.search.strategies.rethink_mcts import RethinkMCTS
from reason.search.strategies.tool_agent import ToolAgent
from reason.search.strategies.tot import TreeOfThoughts
from reason.search.tree import Strategy
from reason.types import Budget

__all__ = [
    "STRATEGIES",
    "breadth_of",
    "for_budget",
    "known_fields",
    "make_strategy",
    "parse_fields",
    "typed_fields",
]

STRATEGIES: dict[str, type[Any]] = {
    "auto": Auto,
    "best-of-n": BestOfN,
    "beam": Beam,
    "dvts": DVTS,
    "rebase": REBASE,
    "ets": ETS,
    "best-first": BestFirst,
    "merge": Merge,
    "adaptive-consistency": AdaptiveConsistency,
    "esc": UnanimousWindow,
    "deepconf": DeepConf,
    "astar": AStar,
    "particle": ParticleFilter,
    "budget-forcing": BudgetForcing,
    "tot": TreeOfThoughts,
    "ats": AutonomousTreeSearch,
    "mcts": MCTS,
    "rest-mcts": ReSTMCTS,
    "rstar-math": RStarMath,
    "mctsr": MCTSr,
    "rethink-mcts": RethinkMCTS,
    "tool-agent": ToolAgent,
    "ab-mcts": ABMCTS,
    "probtree": ProbTree,
}


def make_strategy(name: str | Strategy, **fields: Any) -> Strategy:
    """A strategy by name, with its fields; a strategy object is passed through.

    A wrapper ("esc") takes its own fields, ``inner`` (a name or an object) and the inner strategy's fields.

    Raises:
        UnknownName: no strategy, or no field, of that name.
        UsageError: a field has a value that it does not take.
    """
    if not isinstance(name, str):
        if isinstance(name, type) or not isinstance(name, Strategy):
            raise UsageError(f"a strategy is a name or an object with ask, tell and answer, got {name!r}")
        if fields:
            raise UsageError(f"give fields with a strategy's name, not with an object: {', '.join(fields)}")
        return name
    kind = _kind(name)
    known = known_fields(name, fields.get("inner"))
    if unknown := [field for field in fields if field not in known]:
        raise UnknownName(f"field of {name}", unknown[0], known)
    own = {field: value for field, value in fields.items() if field in hints(kind) and field != "inner"}
    check_types(kind, own)
    if "inner" in hints(kind):
        rest = {field: value for field, value in fields.items() if field not in hints(kind)}
        own["inner"] = _inner(kind, fields.get("inner"), rest)
    strategy: Strategy = kind(**own)
    return strategy


def breadth_of(strategy: Strategy) -> str | None:
    """The field that a strategy's cost grows with: how many solutions it samples, how wide or how long it searches. Its
    class names it in ``breadth``; a wrapper's is that of what it wraps. None where there is none."""
    for layer in layers(strategy):
        if name := getattr(layer, "breadth", None):
            return str(name)
        if "inner" not in hints(type(layer)):  # nobody tells ``auto`` the breadth of what it chose
            return None
    return None


def for_budget(name: str | Strategy, fields: Mapping[str, Any], budget: Budget | None) -> dict[str, Any]:
    """The fields, and the budget where a strategy, or one that it wraps, chooses by it and is not told another."""
    given = dict(fields)
    if isinstance(name, str) and budget is not None and budget.policy_tokens is not None:
        inner = fields.get("inner")
        if (inner is None or isinstance(inner, str)) and "budget_tokens" in known_fields(name, inner):
            given.setdefault("budget_tokens", budget.policy_tokens)
    return given


def known_fields(name: str, inner: str | Strategy | None = None) -> Mapping[str, Any]:
    """The types of the fields that may be given with a strategy's name; with a wrapper's the inner strategy's too."""
    kind = _kind(name)
    if "inner" not in hints(kind):
        return hints(kind)
    inside = inner if inner is not None else kind().inner
    return {**(known_fields(inside) if isinstance(inside, str) else hints(type(inside))), **hints(kind)}


def parse_fields(name: str, settings: Iterable[str]) -> dict[str, Any]:
    """``["num_samples=8"]`` as fields of the right types, for the command line.

    Raises:
        UnknownName, UsageError: as ``make_strategy`` and ``parse_settings``.
    """
    return typed_fields(name, parse_settings(settings))


def typed_fields(name: str, texts: Mapping[str, str]) -> dict[str, Any]:
    """Texts by field as values of the right types.

    Raises:
        UnknownName, UsageError: as ``make_strategy``.
    """
    known = known_fields(name, texts.get("inner"))
    if unknown := [key for key in texts if key not in known]:
        raise UnknownName(f"field of {name}", unknown[0], known)
    return {key: text if key == "inner" else parse(key, text, known[key]) for key, text in texts.items()}


def _kind(name: str) -> type[Any]:
    kind = STRATEGIES.get(name.lower())
    if kind is None:
        raise UnknownName("strategy", name, STRATEGIES)
    return kind


def _inner(wrapper: type[Any], inner: str | Strategy | None, fields: dict[str, Any]) -> Strategy:
    """What a wrapper wraps: by default its own choice, with ``fields`` changed."""
    default = wrapper().inner
    if isinstance(inner, str) and _kind(inner) is not type(default):
        return make_strategy(inner, **fields)
    if inner is not None and not isinstance(inner, str):
        return make_strategy(inner, **fields)
    check_types(type(default), fields)
    changed: Strategy = replace(default, **fields)
    return changed
