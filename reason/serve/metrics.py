"""Counters in Prometheus' text format (https://prometheus.io/docs/instrumenting/exposition_formats/)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from reason.route import RoutedEngine
from reason.types import Engine, Usage

__all__ = ["Metrics"]


class Metrics:
    """What the server did so far."""

    def __init__(self) -> None:
        self._requests: Counter[tuple[str, str, int]] = Counter()
        self._tokens: Counter[str] = Counter()
        self._searches: Counter[tuple[str, str]] = Counter()

    def count_request(self, method: str, route: str, status: int) -> None:
        self._requests[method, route, status] += 1

    def count_tokens(self, prompt_tokens: int, usage: Usage) -> None:
        self._tokens["prompt"] += prompt_tokens
        self._tokens["policy"] += usage.policy_tokens
        self._tokens["verifier"] += usage.verifier_tokens

    def count_search(self, strategy: str, stopped_by: str) -> None:
        self._searches[strategy, stopped_by] += 1

    def text(self, engine: Engine, *, running: int, queued: int) -> str:
        """The page."""
        pages = [
            _page(
                "reason_requests_total",
                "counter",
                "Requests answered, by method, route and status.",
                ((f'method="{m}",route="{r}",status="{s}"', n) for (m, r, s), n in sorted(self._requests.items())),
            ),
            _page(
                "reason_searches_total",
                "counter",
                "Searches finished, by strategy and by what ended them.",
                ((f'strategy="{s}",stopped_by="{b}"', n) for (s, b), n in sorted(self._searches.items())),
            ),
            _page(
                "reason_tokens_total",
                "counter",
                "Tokens of finished requests: of prompts, generated, and of verifiers.",
                ((f'kind="{kind}"', self._tokens[kind]) for kind in ("prompt", "policy", "verifier")),
            ),
            _page("reason_running", "gauge", "Requests under way.", [("", running)]),
            _page("reason_queued", "gauge", "Requests that wait for their turn.", [("", queued)]),
        ]
        if held := _kv_tokens(engine):
            pages.append(_page("reason_kv_tokens_in_use", "gauge", "KV tokens that requests hold.", held))
        return "".join(pages)


def _kv_tokens(engine: Engine) -> list[tuple[str, int]]:
    """What each engine that keeps KV here holds; of a pair with a label that says which it is."""
    engines = {"": engine}
    if isinstance(engine, RoutedEngine):
        engines = {'engine="draft"': engine.draft, 'engine="target"': engine.target}
    found = {label: getattr(one, "kv_tokens_in_use", None) for label, one in engines.items()}
    return [(label, held) for label, held in found.items() if held is not None]


def _page(name: str, kind: str, help: str, rows: Iterable[tuple[str, int]]) -> str:
    lines = [f"{name}{{{labels}}} {value}\n" if labels else f"{name} {value}\n" for labels, value in rows]
    return f"# HELP {name} {help}\n# TYPE {name} {kind}\n{''.join(lines)}"
