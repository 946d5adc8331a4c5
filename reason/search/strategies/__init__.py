"""The strategies by name. A new one is a file here, a line below, and it is in ``solve``, the CLI and the docs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from reason.errors import UnknownName, UsageError
from reason.fields import check_types, hints, parse
from reason.search.strategies.ab_mcts import ABMCTS
from reason.search.strategies.astar import AStar
from reason.search.strategies.ats import AutonomousTreeSearch
from reason.search.strategies.auto import Auto
from reason.search.strategies.beam import Beam
from reason.search.strategies.best_first import BestFirst
from reason.search.strategies.best_of_n import BestOfN
from reason.search.strategies.budget_forcing import BudgetForcing
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
from reason.search.strategies.tot import TreeOfThoughts
from reason.search.tree import Strategy
from reason.types import Budget

__all__ = ["STRATEGIES", "for_budget", "make_strategy", "parse_fields"]

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
    known = _known_fields(name, fields.get("inner"))
    if unknown := [field for field in fields if field not in known]:
        raise UnknownName(f"field of {name}", unknown[0], known)
    own = {field: value for field, value in fields.items() if field in hints(kind) and field != "inner"}
    check_types(kind, own)
    if "inner" in hints(kind):
        rest = {field: value for field, value in fields.items() if field not in hints(kind)}
        own["inner"] = _inner(kind, fields.get("inner"), rest)
    strategy: Strategy = kind(**own)
    return strategy


def for_budget(name: str | Strategy, fields: Mapping[str, Any], budget: Budget | None) -> dict[str, Any]:
    """The fields, and the budget where a strategy chooses by it and is not told another."""
    asks = isinstance(name, str) and "budget_tokens" in hints(_kind(name)) and "budget_tokens" not in fields
    if not asks or budget is None or budget.policy_tokens is None:
        return dict(fields)
    return {**fields, "budget_tokens": budget.policy_tokens}


def parse_fields(name: str, settings: list[str]) -> dict[str, Any]:
    """``["num_samples=8"]`` as fields of the right types, for the command line.

    Raises:
        UnknownName, UsageError: as ``make_strategy``; also a setting without "=".
    """
    texts: dict[str, str] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise UsageError(f"a strategy setting is written field=value, got {setting!r}")
        texts[key.strip().replace("-", "_")] = text.strip()
    known = _known_fields(name, texts.get("inner"))
    if unknown := [key for key in texts if key not in known]:
        raise UnknownName(f"field of {name}", unknown[0], known)
    return {key: text if key == "inner" else parse(key, text, known[key]) for key, text in texts.items()}


def _kind(name: str) -> type[Any]:
    kind = STRATEGIES.get(name.lower())
    if kind is None:
        raise UnknownName("strategy", name, STRATEGIES)
    return kind


def _known_fields(name: str, inner: str | Strategy | None) -> Mapping[str, Any]:
    """The fields that may be given with a strategy's name; for a wrapper the inner strategy's too."""
    return _fields_of(_kind(name), inner)


def _fields_of(kind: type[Any], inner: str | Strategy | None = None) -> Mapping[str, Any]:
    if "inner" not in hints(kind):
        return hints(kind)
    if inner is None or isinstance(inner, str):
        inside = _fields_of(type(kind().inner) if inner is None else _kind(inner))
    else:
        inside = hints(type(inner))
    return {**inside, **hints(kind)}


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
