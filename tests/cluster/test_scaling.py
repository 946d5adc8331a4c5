"""The scaling model: where it can be worked out by hand, and on a real folder of results."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from reason.api import Solver
from reason.errors import UsageError
from reason.report.evaluate import Evaluation
from tests.report.conftest import CountingEngine, make_task

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def scaling() -> ModuleType:
    spec = importlib.util.spec_from_file_location("scaling_benchmark", ROOT / "benchmarks" / "scaling.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_even_problems_fill_all_places(scaling: ModuleType) -> None:
    plan = scaling.Plan(workers=2, seconds=[3.0] * 12, places=2, load=0.0, driver=0.0)
    assert scaling.makespan(plan) == 9.0
    found = scaling.forecast(plan)
    assert (found.wall, found.efficiency) == (9.0, 1.0)


@pytest.mark.parametrize(
    ("change", "wall", "bottleneck"),
    [
        ({"load": 18.0}, 27.0, "loading"),
        ({"seconds": [27.0, *[3.0] * 11]}, 27.0, "tail"),
        ({"driver": 5.0}, None, "driver"),
    ],
)
def test_what_keeps_it_is_named(
    scaling: ModuleType, change: dict[str, object], wall: float | None, bottleneck: str
) -> None:
    plain = {"workers": 2, "seconds": [3.0] * 12, "places": 2, "load": 0.0, "driver": 0.0}
    found = scaling.forecast(scaling.Plan(**{**plain, **change}))
    assert found.bottleneck == bottleneck
    if wall is not None:
        assert found.wall == wall


def test_a_driver_that_is_busy_all_the_time_sets_the_pace(scaling: ModuleType) -> None:
    plan = scaling.Plan(workers=1000, seconds=[1.0] * 5000, places=1, load=0.0, driver=0.01)
    assert scaling.makespan(plan) == pytest.approx(5000 * 0.01, rel=0.05)


def evaluated(out: Path, count: int, concurrency: int) -> Path:
    evaluation = Evaluation(make_task(count), "best-of-n", {"num_samples": 2}, out=out, concurrency=concurrency)
    asyncio.run(evaluation.run(Solver(engine=CountingEngine(delay=0.001))))
    return out


def test_folders_of_results_are_read(scaling: ModuleType, tmp_path: Path) -> None:
    measured = scaling.read(evaluated(tmp_path / "a", 5, 3), evaluated(tmp_path / "b", 2, 3))
    assert (len(measured.seconds), measured.concurrency) == (7, 3)
    assert all(seconds > 0 for seconds in measured.seconds)


def test_folders_that_say_nothing_are_refused(scaling: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no solved problems"):
        scaling.read(tmp_path)
    with pytest.raises(UsageError, match=r"had \[1, 3\] problems at once"):
        scaling.read(evaluated(tmp_path / "a", 2, 3), evaluated(tmp_path / "b", 2, 1))
