"""Several strategies over one task at equal cost: the same problems, the same seeds, one ledger.

Every setting (a strategy, its fields, a budget) is an evaluation in a folder of its own, so that a sweep that was
interrupted goes on where it ended, and one with more settings keeps what is there. What the engine cached and what its
draft sources learnt is dropped between settings: nobody gains by coming later.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from reason.errors import UsageError
from reason.fields import hints
from reason.report.evaluate import Evaluation
from reason.report.summary import Summary
from reason.search.strategies import STRATEGIES, make_strategy, parse_fields
from reason.types import Budget

if TYPE_CHECKING:
    from reason.api import Solver
    from reason.tasks.task import Task

__all__ = ["BREADTHS", "Entry", "Setting", "Sweep", "make_settings", "parse_strategies", "parse_sweep"]

RunOne: TypeAlias = "Callable[[Evaluation, Solver], Awaitable[Summary]]"

BREADTHS = ("num_samples", "width", "num_particles")
"""Fields that say how many solutions are under way: what ``--sweep width`` and a budget set, whatever a strategy calls
it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What is compared with what.

    Args:
        fields: what tells this setting from others of the strategy; ``common`` are those that all settings share.
        group: the swept value, "width=4"; settings are compared with those of their group and budget.
    """

    strategy: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    common: Mapping[str, Any] = field(default_factory=dict)
    budget_tokens: int | None = None
    group: str = ""

    @property
    def label(self) -> str:
        shown = ",".join(f"{key}={_shown(value)}" for key, value in self.fields.items())
        return f"{self.strategy}({shown})" if shown else self.strategy

    @property
    def line(self) -> str:
        """The strategy with what is neither its breadth nor its budget: one line in a plot."""
        kept = {key: value for key, value in self.fields.items() if key not in BREADTHS}
        return Setting(strategy=self.strategy, fields=kept).label

    @property
    def folder(self) -> str:
        """A name that any file system takes."""
        budget = "" if self.budget_tokens is None else f"-tokens{self.budget_tokens}"
        return re.sub(r"[^\w.+=@,-]+", "-", self.label).strip("-.") + budget


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A setting and what came of it."""

    setting: Setting
    path: Path
    summary: Summary


class Sweep:
    """See the module's docstring. Making one refuses what is cheap to refuse.

    Args:
        out: each setting's folder is in it.
        concurrency: problems under way at once, the same for every setting.
        on_setting: called before each setting with its number and itself.
    """

    def __init__(
        self,
        task: Task,
        settings: Sequence[Setting],
        *,
        out: Path,
        seed: int = 0,
        concurrency: int | None = None,
        model_options: Mapping[str, Any] | None = None,
        draft: str | None = None,
        on_setting: Callable[[int, Setting], None] | None = None,
    ) -> None:
        if len({setting.folder for setting in settings}) < len(settings):
            raise UsageError("two of the settings are the same")
        self.settings = tuple(settings)
        self.out = out
        self.entries: list[Entry] = []
        self._on_setting = on_setting
        self.evaluations = [
            Evaluation(
                task,
                setting.strategy,
                {**setting.common, **setting.fields},
                out=out / setting.folder,
                budget=Budget(policy_tokens=setting.budget_tokens),
                seed=seed,
                concurrency=concurrency,
                model_options=model_options,
                draft=draft,
            )
            for setting in settings
        ]

    def check_folders(self) -> None:
        """See ``Evaluation.check_folder``."""
        for evaluation in self.evaluations:
            evaluation.check_folder()

    @property
    def complete(self) -> bool:
        """Whether every setting has done every problem."""
        return len(self.entries) == len(self.settings) and all(entry.summary.complete for entry in self.entries)

    async def run(self, solver: Solver, run: RunOne = Evaluation.run) -> list[Entry]:
        """Runs what is not done yet; settings that an interrupt kept from beginning are left out.

        Args:
            run: runs one evaluation; one that shows it, for example.
        """
        for number, (setting, evaluation) in enumerate(zip(self.settings, self.evaluations, strict=True)):
            if self._on_setting is not None:
                self._on_setting(number, setting)
            _forget(solver)
            summary = await run(evaluation, solver)
            self.entries.append(Entry(setting=setting, path=evaluation.folder.path, summary=summary))
            if evaluation.stop.is_set():
                break
        return self.entries


def make_settings(
    strategies: Iterable[tuple[str, Mapping[str, Any]]],
    *,
    sweep: Mapping[str, Sequence[str]] | None = None,
    budgets: Sequence[int] = (),
    common: Mapping[str, str] | None = None,
    solution_tokens: int = 256,
) -> list[Setting]:
    """Every strategy with every value of the swept field under every budget.

    Args:
        sweep: one field and its values; "width" is what a strategy calls its breadth (``BREADTHS``).
        budgets: policy tokens of a problem. Where the breadth is neither given nor swept, it is what fits the budget at
            ``solution_tokens`` a solution.
        common: fields that every strategy is given that has them.

    Raises:
        UnknownName, UsageError: as ``make_strategy``.
    """
    settings: list[Setting] = []
    for name, given in strategies:
        known = _fields_of(name, given)
        fields = parse_fields(name, [f"{key}={text}" for key, text in given.items()])
        shared = {key: text for key, text in (common or {}).items() if key in known and key not in given}
        same = _parsed(name, given, shared)
        breadth = next((key for key in BREADTHS if key in known), None)
        for group, changes in _swept(name, given, sweep or {}, breadth, known):
            for budget in budgets or (None,):
                own: dict[str, Any] = {**fields, **changes}
                if budget is not None and breadth is not None and breadth not in {**same, **own}:
                    own[breadth] = _breadth(name, {**same, **own}, breadth, budget // solution_tokens)
                make_strategy(name, **{**same, **own})
                settings.append(Setting(strategy=name, fields=own, common=same, budget_tokens=budget, group=group))
    return settings


def parse_strategies(text: str) -> list[tuple[str, dict[str, str]]]:
    """``"best-of-n,beam(width=8,beam_width=2)"`` as names and fields.

    Raises:
        UsageError: it is not written so.
    """
    found: list[tuple[str, dict[str, str]]] = []
    pattern = re.compile(r"\s*([\w.-]+)\s*(?:\(([^()]*)\))?\s*(?:,|$)")
    place = 0
    while place < len(text):
        match = pattern.match(text, place)
        if match is None:
            raise UsageError(
                f"strategies are written name,name(field=value,field=value), got {text!r} (at {text[place:][:20]!r})"
            )
        fields: dict[str, str] = {}
        for part in (match[2] or "").split(","):
            key, equals, value = part.partition("=")
            if part.strip() and not equals:
                raise UsageError(f"a strategy setting is written field=value, got {part.strip()!r}")
            if equals:
                fields[key.strip().replace("-", "_")] = value.strip()
        found.append((match[1].lower(), fields))
        place = match.end()
    if not found:
        raise UsageError(f"name strategies: {', '.join(STRATEGIES)}")
    return found


def parse_sweep(text: str) -> dict[str, list[str]]:
    """``"width=4,16,64"`` as a field and its values.

    Raises:
        UsageError: it is not written so.
    """
    key, equals, values = text.partition("=")
    parts = [part.strip() for part in values.split(",") if part.strip()]
    if not equals or not key.strip() or not parts:
        raise UsageError(f"a sweep is written field=value,value,value, got {text!r}")
    return {key.strip().replace("-", "_"): parts}


def _parsed(name: str, given: Mapping[str, str], texts: Mapping[str, str]) -> dict[str, Any]:
    """``texts`` as fields of a strategy that is given others, maybe what it wraps among them."""
    inner = {"inner": given["inner"]} if "inner" in given else {}
    fields = parse_fields(name, [f"{key}={text}" for key, text in {**inner, **texts}.items()])
    return {key: fields[key] for key in texts}


def _swept(
    name: str,
    given: Mapping[str, str],
    sweep: Mapping[str, Sequence[str]],
    breadth: str | None,
    known: Mapping[str, Any],
) -> list[tuple[str, dict[str, Any]]]:
    """Each value of the swept field, as "field=value" and as a field of the strategy."""
    if not sweep:
        return [("", {})]
    ((key, values),) = sweep.items()
    own = breadth if key in BREADTHS and key not in known else key
    if own is None or own not in known:
        raise UsageError(f"the strategy {name} has no field {key} to sweep")
    return [(f"{key}={value}", _parsed(name, given, {own: value})) for value in values]


def _fields_of(name: str, given: Mapping[str, str]) -> Mapping[str, Any]:
    """A strategy's fields, a wrapper's inner one's among them."""
    made: Any = make_strategy(name, **({"inner": given["inner"]} if "inner" in given else {}))
    known: dict[str, Any] = {}
    while made is not None:
        known = {**hints(type(made)), **known}
        made = getattr(made, "inner", None)
    return known


def _breadth(name: str, fields: Mapping[str, Any], breadth: str, wanted: int) -> int:
    """The largest breadth up to ``wanted`` that the strategy takes: some want multiples of another field. At least the
    smallest that it takes."""
    values: list[int] = [*range(max(1, wanted), 0, -1), *range(max(1, wanted) + 1, wanted + 65)]
    for value in values:
        try:
            make_strategy(name, **{**fields, breadth: value})
        except UsageError:
            continue
        return value
    return wanted


def _forget(solver: Solver) -> None:
    """Nothing that an earlier setting left in the engine helps the next one."""
    for name in ("drop_cache", "reset_drafts"):
        forget = getattr(solver.engine, name, None)
        if forget is not None:
            forget()


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
