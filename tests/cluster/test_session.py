"""What a cluster of this machine alone is made of."""

from __future__ import annotations

from typing import Any

import pytest

from reason.cluster import session


def test_it_has_the_cores_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the machine's: a container or a batch system may give fewer, which workers would fight over."""
    ray = pytest.importorskip("ray")
    asked: dict[str, Any] = {}
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {2, 5, 7}, raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", asked.update)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    with session():
        assert (asked["address"], asked["num_cpus"]) == ("local", 3)
