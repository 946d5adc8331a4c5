"""Several strategies over one task at equal cost: the same problems, the same seeds, one ledger.

Every setting (a strategy, its fields, a budget) is an evaluation in a folder of its own, so that a sweep that was
interrupted goes on where it ended, and one with more settings keeps what is there. What the engine cached and what its
draft sources learnt is dropped between settings: nobody gains by coming later.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from reason.errors import UnknownName, UsageError
from reason.fields import label, parse_settings
from reason.report.evaluate import Evaluation
from reason.report.results import ResultsFolder, differences
from reason.report.summary import Summary, read_summary
from reason.search.strategies import STRATEGIES, breadth_of, known_fields, make_strategy, typed_fields
from reason.types import Budget

if TYPE_CHECKING:
    from reason.api import Solver
    from reason.tasks.task import Task

__all__ = ["Entry", "Setting", "Sweep", "make_settings", "parse_strategies", "parse_sweep"]

RunOne: TypeAlias = "Callable[[Evaluation, Solver], Awaitable[Summary]]"


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
    def all_fields(self) -> dict[str, Any]:
        """What it was given; the other fields have their defaults."""
        return {**self.common, **self.fields}

    @property
    def label(self) -> str:
        return label(self.strategy, self.fields)

    @property
    def breadth(self) -> str | None:
        """See ``breadth_of``."""
        return _breadth_field(self.strategy, self.all_fields.get("inner"))

    @property
    def line(self) -> str:
        """The strategy with what is neither its breadth nor its budget: one line in a plot."""
        return label(self.strategy, {key: value for key, value in self.fields.items() if key != self.breadth})

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
        overwrite: start the settings anew that ``out`` holds.
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
        overwrite: bool = False,
        on_setting: Callable[[int, Setting], None] | None = None,
    ) -> None:
        if len({setting.folder for setting in settings}) < len(settings):
            raise UsageError("two of the settings are the same")
        self.settings = tuple(settings)
        self.out = out
        self._task = task
        self._options: dict[str, Any] = {
            "seed": seed,
            "concurrency": concurrency,
            "model_options": model_options,
            "draft": draft,
            "overwrite": overwrite,
        }
        self._on_setting = on_setting
        self._entries: dict[str, Entry] = {}  # by folder
        self.evaluations = [self._evaluation(setting) for setting in settings]

    def _evaluation(self, setting: Setting) -> Evaluation:
        return Evaluation(
            self._task,
            setting.strategy,
            setting.all_fields,
            out=self.out / setting.folder,
            budget=Budget(policy_tokens=setting.budget_tokens),
            **self._options,
        )

    def check_folders(self) -> None:
        """See ``Evaluation.check_folder``."""
        for evaluation in self.evaluations:
            evaluation.check_folder()

    @property
    def entries(self) -> list[Entry]:
        """What there is: of this sweep's settings in their order, then of those that earlier sweeps left in ``out``."""
        order = {setting.folder: place for place, setting in enumerate(self.settings)}
        return [self._entries[name] for name in sorted(self._entries, key=lambda name: order.get(name, len(order)))]

    @property
    def complete(self) -> bool:
        """Whether every setting has done every problem."""
        entries = [self._entries.get(setting.folder) for setting in self.settings]
        return all(entry is not None and entry.summary.complete for entry in entries)

    async def run(
        self,
        solver: Solver,
        run: RunOne = Evaluation.run,
        *,
        on_entries: Callable[[list[Entry]], object] | None = None,
    ) -> list[Entry]:
        """Runs what is not done yet.

        Args:
            run: runs one evaluation; one that shows it, for example.
            on_entries: called after each setting with ``entries``.
        """
        self._entries = {entry.setting.folder: entry for entry in self._earlier(solver.engine.name)}
        for number, (setting, evaluation) in enumerate(zip(self.settings, self.evaluations, strict=True)):
            if self._on_setting is not None:
                self._on_setting(number, setting)
            _forget(solver)
            summary = await run(evaluation, solver)
            self._entries[setting.folder] = Entry(setting=setting, path=evaluation.folder.path, summary=summary)
            if on_entries is not None:
                on_entries(self.entries)
            if evaluation.stop.is_set():
                break
        return self.entries

    def _earlier(self, model: str) -> Iterator[Entry]:
        """What ``out`` holds already, of this sweep's settings and of those that others reported, if it is of the same
        problems, model and seed, and if the settings still mean what they did."""
        own = {setting.folder for setting in self.settings}
        reported = {setting.folder: setting for setting in _reported(self.out) if setting.folder not in own}
        for setting in (*(() if self._options["overwrite"] else self.settings), *reported.values()):
            with contextlib.suppress(UsageError):
                evaluation = self._evaluation(setting)
                there = evaluation.folder.config()
                if there is not None and not differences(there, evaluation.config(model=model)):
                    summary = read_summary(evaluation.folder, self._task)
                    if summary.done:
                        yield Entry(setting=setting, path=evaluation.folder.path, summary=summary)


def _reported(out: Path) -> Iterator[Setting]:
    """The settings of a comparison.json, if there is one."""
    with contextlib.suppress(UsageError, KeyError, TypeError):
        for line in ResultsFolder(out).read("comparison.json")["settings"]:
            names = ("strategy", "fields", "common", "budget_tokens")
            yield Setting(**{name: line[name] for name in names}, group=line.get("group", ""))


def make_settings(
    strategies: Iterable[tuple[str, Mapping[str, str]]],
    *,
    sweep: Mapping[str, Sequence[str]] | None = None,
    budgets: Sequence[int] = (),
    common: Mapping[str, str] | None = None,
    solution_tokens: int = 320,
) -> list[Setting]:
    """Every strategy with every value of the swept field under every budget.

    Args:
        sweep: one field and its values; "width" is what each strategy calls its breadth (``breadth_of``).
        budgets: policy tokens of a problem. Where the breadth is neither given nor swept, it is what fits the budget at
            ``solution_tokens`` a solution.
        common: fields that every strategy is given that has them.

    Raises:
        UnknownName, UsageError: as ``make_strategy``; also a common field that no strategy has.
    """
    settings: list[Setting] = []
    common = common or {}
    anywhere: dict[str, Any] = {}
    names: list[str] = []
    for name, given in strategies:
        inner = given.get("inner", common.get("inner"))
        known = known_fields(name, inner)
        names.append(name)
        anywhere.update(known)
        shared = {key: text for key, text in common.items() if key in known and key not in given}
        texts = {**shared, **given}
        typed = typed_fields(name, texts)
        same = {key: typed[key] for key in shared}
        breadth = _breadth_field(name, inner)
        for group, changes in _swept(name, texts, sweep or {}, breadth):
            for budget in budgets or (None,):
                own: dict[str, Any] = {**{key: typed[key] for key in given}, **changes}
                if budget is not None and breadth is not None and breadth not in {**same, **own}:
                    own[breadth] = _breadth(name, {**same, **own}, breadth, budget // solution_tokens)
                make_strategy(name, **{**same, **own})
                settings.append(Setting(strategy=name, fields=own, common=same, budget_tokens=budget, group=group))
    if unknown := [key for key in common if key not in anywhere]:
        raise UnknownName(f"field of {', '.join(names)}", unknown[0], anywhere)
    return settings


def parse_strategies(text: str) -> list[tuple[str, dict[str, str]]]:
    """``"best-of-n,beam(width=8,beam_width=2)"`` as names and fields. Commas separate fields; a verifier's settings
    have semicolons, ``"beam(width=8,verifier=confidence:variant=tail;window=512)"``.

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
        fields = parse_settings(_parts(match[2] or ""))
        found.append((match[1].lower(), fields))
        place = match.end()
    if not found:
        raise UsageError(f"name strategies: {', '.join(STRATEGIES)}")
    return found


def parse_sweep(text: str) -> dict[str, list[str]]:
    """``"width=4,16,64"`` as a field and its values. A verifier's settings have semicolons.

    Raises:
        UsageError: it is not written so.
    """
    key, equals, values = text.partition("=")
    parts = _parts(values)
    if not equals or not key.strip() or not parts:
        raise UsageError(f"a sweep is written field=value,value,value, got {text!r}")
    return {key.strip().replace("-", "_"): parts}


def _parts(text: str) -> list[str]:
    """What commas separate, with the commas of a verifier's settings in the place of semicolons.

    Raises:
        UsageError: a field behind a verifier's settings may as well be one of them.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    for verifier, after in itertools.pairwise(parts):
        if ":" in verifier and "=" in after and ":" not in after:
            raise UsageError(
                f"is {after!r} a setting of {verifier!r}? Then write a semicolon before it, else put it before the "
                "verifier: beam(width=8,verifier=confidence:variant=tail;window=512)"
            )
    return [part.replace(";", ",") if ":" in part else part for part in parts]


def _swept(
    name: str, texts: Mapping[str, str], sweep: Mapping[str, Sequence[str]], breadth: str | None
) -> list[tuple[str, dict[str, Any]]]:
    """Each value of the swept field, as "field=value" and as a field of the strategy with the others ``texts``."""
    if not sweep:
        return [("", {})]
    ((key, values),) = sweep.items()
    known = known_fields(name, texts.get("inner"))
    own = breadth if key == "width" and key not in known else key
    if own is None or own not in known:
        raise UsageError(f"the strategy {name} has no {'breadth' if own is None else f'field {key}'} to sweep")
    return [(f"{key}={value}", {own: typed_fields(name, {**texts, own: value})[own]}) for value in values]


def _breadth_field(name: str, inner: str | None) -> str | None:
    return breadth_of(make_strategy(name, **({} if inner is None else {"inner": inner})))


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
