"""Evaluations on two raylets: what comes of them is what one process comes to, whatever happens to the workers."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from reason.api import Solver
from reason.cluster import Fleet, Share, natural_share, on_fleet, workers_that_fit
from reason.cluster.replica import Loaded
from reason.errors import ModelNotFound, ReasonError, UsageError
from reason.report.evaluate import Evaluation
from reason.report.summary import Summary
from tests.cluster import scripted
from tests.cluster.conftest import NODE
from tests.report.conftest import CountingEngine, figures, lines, make_task, results

pytest.importorskip("ray")

pytestmark = pytest.mark.timeout(300)  # processes start, a dozen a test: seconds each on a busy machine

SHARE = Share(cpus=1)


def evaluation(out: Path, count: int, **options: Any) -> Evaluation:
    return Evaluation(make_task(count), "best-of-n", {"num_samples": 4}, out=out, **{"concurrency": 3, **options})


def alone(out: Path, count: int, engine: CountingEngine | None = None, **options: Any) -> Summary:
    """In this process."""
    return asyncio.run(evaluation(out, count, **options).run(Solver(engine=engine or CountingEngine())))


@contextmanager
def fleet(make_solver: Callable[[], Solver], workers: int) -> Iterator[tuple[Fleet, list[str]]]:
    """A fleet, and what it notes."""
    notes: list[str] = []
    with Fleet(make_solver, workers=workers, share=SHARE, on_note=notes.append) as entered:
        yield entered, notes


def ids(out: Path) -> list[str]:
    return sorted(line["id"] for line in lines(out / "results.jsonl"))


def test_the_results_are_those_of_one_process(cluster: Any, tmp_path: Path) -> None:
    expected = figures(alone(tmp_path / "one", 12, log_samples=True))
    with fleet(scripted.slow, 3) as (workers, notes):
        first = asyncio.run(on_fleet(evaluation(tmp_path / "many", 12, log_samples=True), workers))
        again = asyncio.run(on_fleet(evaluation(tmp_path / "other", 5), workers))  # one fleet, many evaluations
    assert figures(first) == expected
    assert results(tmp_path / "many") == results(tmp_path / "one")
    names = [f"sums-{i:03}" for i in range(1, 13)]
    assert ids(tmp_path / "many") == names
    assert sorted(line["id"] for line in lines(tmp_path / "many" / "samples.jsonl")) == names
    assert again.complete
    assert first.sittings[0]["environment"]["workers"] == 3
    assert not any("lost" in note for note in notes)
    for name in names:  # journals are complete, and alike but for the order of arrival
        one, many = (tmp_path / out / "traces" / f"{name}.jsonl" for out in ("one", "many"))
        assert len(lines(one)) == len(lines(many))


def test_a_worker_and_then_a_machine_are_lost(cluster: Any, tmp_path: Path) -> None:
    expected = figures(alone(tmp_path / "one", 24))
    machine = cluster.add_node(num_cpus=2, **NODE)
    signed = tmp_path / "signed"
    signed.mkdir()

    async def waiting_there(*, but: int | None = None) -> int:
        """A process of the other machine in which a problem waits."""
        while True:
            for file in signed.glob("[0-9]*"):
                if file.read_text() == machine.node_id and int(file.name) != but:
                    return int(file.name)
            await asyncio.sleep(0.05)

    async def lose() -> None:
        worker = await waiting_there()
        os.kill(worker, signal.SIGKILL)
        other = await waiting_there(but=worker)
        cluster.remove_node(machine, allow_graceful=False)
        with contextlib.suppress(ProcessLookupError):
            os.kill(other, signal.SIGKILL)  # with its machine, not once it finds it gone: it could still answer
        (signed / "go").touch()

    async def run() -> Summary:
        summary, _ = await asyncio.gather(on_fleet(evaluation(tmp_path / "many", 24), workers), lose())
        return summary

    with fleet(functools.partial(scripted.held, signed, 12), 6) as (workers, notes):
        summary = asyncio.run(run())
    cluster.wait_for_nodes(timeout=120)  # the tests after this one count what the cluster has
    assert figures(summary) == expected
    assert results(tmp_path / "many") == results(tmp_path / "one")
    assert ids(tmp_path / "many") == [f"sums-{i:03}" for i in range(1, 25)]
    assert sum("was lost and is replaced" in note for note in notes) >= 2


def test_a_problem_that_ends_its_workers_fails_alone(cluster: Any, tmp_path: Path) -> None:
    with fleet(scripted.deadly, 2) as (workers, _):
        summary = asyncio.run(on_fleet(evaluation(tmp_path / "many", 8), workers))
    assert summary.failed == ("sums-003",)
    assert summary.done == 8
    failed = next(line for line in lines(tmp_path / "many" / "results.jsonl") if line["id"] == "sums-003")
    assert "3 workers were lost while they solved sums-003" in failed["error"]
    alone(tmp_path / "many", 8)  # the next sitting tries it again
    alone(tmp_path / "one", 8)
    assert results(tmp_path / "many") == results(tmp_path / "one")


def test_a_broken_engine_is_replaced(cluster: Any, tmp_path: Path) -> None:
    with fleet(functools.partial(scripted.breaking_once, tmp_path / "mark"), 2) as (workers, notes):
        summary = asyncio.run(on_fleet(evaluation(tmp_path / "many", 6), workers))
    assert (summary.done, summary.failed) == (6, ())
    assert any("its engine is broken: its thread is gone" in note for note in notes)


def test_what_an_interrupt_leaves_is_gone_on_with(cluster: Any, tmp_path: Path) -> None:
    out = tmp_path / "many"
    begun = evaluation(out, 6)
    with fleet(scripted.endless, 2) as (workers, _):

        async def interrupted() -> Summary:
            asyncio.get_running_loop().call_later(2, begun.interrupt)
            return await on_fleet(begun, workers)

        assert asyncio.run(interrupted()).done == 0
    left = {file.stem: lines(file) for file in (out / "traces").iterdir()}
    assert len(left) == 6
    assert all(sum(event["type"] == "node" for event in events) == 3 for events in left.values())
    engine = CountingEngine()
    alone(out, 6, engine)
    assert engine.requests == 6  # the fourth sample of each
    alone(tmp_path / "one", 6)
    assert results(out) == results(tmp_path / "one")


def test_what_one_process_left_goes_on_with_workers(cluster: Any, tmp_path: Path) -> None:
    out = tmp_path / "many"
    begun = evaluation(out, 6)
    engine = scripted.endless().engine

    async def interrupted() -> Summary:
        asyncio.get_running_loop().call_later(1, begun.interrupt)
        return await begun.run(Solver(engine=engine))

    assert asyncio.run(interrupted()).done == 0
    before = (out / "traces" / "sums-001.jsonl").read_bytes()
    with fleet(scripted.quick, 2) as (workers, _):
        assert asyncio.run(on_fleet(evaluation(out, 6), workers)).complete
    assert (out / "traces" / "sums-001.jsonl").read_bytes().startswith(before)
    alone(tmp_path / "one", 6)
    assert results(out) == results(tmp_path / "one")


def test_what_is_waited_for_is_said(cluster: Any) -> None:
    with fleet(scripted.quick, 2) as (workers, notes):
        assert not notes
        workers.note_waiting()
        assert notes == ["no worker is ready yet: 2 are starting, and load the model"]
    with fleet(scripted.quick, 5) as (workers, notes):
        assert "not all workers can start: each takes 1 CPU, the cluster has room for 4 of 5" in notes[-1]
        workers.note_waiting()
        assert notes[-1].startswith("no worker is ready: each takes 1 CPU")


def test_a_model_that_cannot_be_had_is_said_at_once(cluster: Any) -> None:
    with pytest.raises(ModelNotFound, match="no weights on this machine"), fleet(scripted.missing, 2):
        pytest.fail("it was entered")


def test_all_workers_run_one_version(cluster: Any) -> None:
    with fleet(scripted.quick, 1) as (workers, _):
        worker = workers.workers[0]
        with pytest.raises(UsageError, match=r"a worker has reason-toolkit 0\.0\.1"):
            workers.arrived(worker, Loaded(workers.model, "0.0.1"))
        with pytest.raises(UsageError, match="different models"):
            workers.arrived(worker, Loaded({"name": "other"}, "0.1.0"))


@pytest.mark.parametrize("share", [Share(cpus=-1), Share(cpus=0), Share(cpus=1.5), Share(cpus=1, gpus=1.2)])
def test_shares_that_cannot_be(share: Share) -> None:
    with pytest.raises(UsageError, match="a worker"):
        Fleet(scripted.quick, workers=1, share=share)


@pytest.mark.parametrize(
    ("workers", "local", "needs_gpu", "share"),
    [
        (2, True, None, Share(cpus=2)),
        (8, True, None, Share(cpus=0.5)),
        (8, False, None, Share(cpus=1)),
        (None, False, False, Share(cpus=1)),
        (2, True, True, Share(cpus=1, gpus=1)),
    ],
)
def test_what_a_worker_gets_where_nobody_says(
    cluster: Any, workers: int | None, local: bool, needs_gpu: bool | None, share: Share
) -> None:
    assert natural_share(workers, local=local, needs_gpu=needs_gpu) == share


def test_as_many_as_there_is_room_for(cluster: Any) -> None:
    assert workers_that_fit(Share(cpus=2)) == 2
    assert workers_that_fit(Share(cpus=0.5)) == 8
    with pytest.raises(ReasonError, match="no room for a worker of 1 CPU and 1 GPU"):
        workers_that_fit(Share(cpus=1, gpus=1))
