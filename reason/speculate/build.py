"""From what a user writes to a speculator."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from reason.errors import UnknownName
from reason.speculate.draft import Source
from reason.speculate.policy import Fixed, ForwardTimes, Goodput, Policy, load_template
from reason.speculate.rules import make_rule
from reason.speculate.sources import AUTO, make_source
from reason.speculate.speculator import Speculator

__all__ = ["make_speculator"]


def make_speculator(
    draft: str,
    *,
    rule: str = "coupled",
    policy: str = "auto",
    others: dict[str, Callable[[str], Source]] | None = None,
) -> Speculator | None:
    """Puts the three parts together.

    Args:
        draft: "none", "auto", a source ("stand") or several joined by "+" ("goose+stand").
        rule: a name of ``RULES``.
        policy: "goodput"; "fixed", a chain; "fixed:FILE", a draft tree that ``reason bench tree`` wrote; "nodes:N",
            N nodes a branch on average, the best over all of them, whatever they cost; "auto" is goodput where the rule
            allows it, else fixed.
        others: see ``make_source``.

    Raises:
        UnknownName: no source, rule or policy of that name.
        UsageError: the three do not go together; the message says why.
    """
    times = ForwardTimes()
    chosen = make_policy(policy, times)
    make_rule(rule)
    if draft.lower() == "none":
        return None
    return Speculator(
        make_source(AUTO if draft.lower() == "auto" else draft, others), rule=rule, policy=chosen, times=times
    )


def make_policy(name: str, times: ForwardTimes) -> Policy | None:
    """A policy by name; None for "auto"."""
    if name == "auto":
        return None
    if name == "goodput":
        return Goodput(times)
    kind, _, argument = name.partition(":")
    if kind == "fixed":
        return Fixed(load_template(Path(argument))) if argument else Fixed()
    if kind == "nodes" and argument.isdigit() and int(argument) > 0:
        return Goodput(nodes=int(argument))
    raise UnknownName("draft policy", name, ("auto", "goodput", "fixed", "fixed:FILE", "nodes:N"))
