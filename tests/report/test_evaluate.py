"""Evaluations: what is written, and that nothing that ends one early changes what it comes to."""

from __future__ import annotations

import asyncio
import errno
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from filelock import FileLock

from reason.api import Solver
from reason.errors import EngineClosed, EngineError, OutOfKV, ReasonError, UnknownName, UsageError
from reason.report import results as results_module
from reason.report.evaluate import Evaluation, evaluate
from reason.report.results import ProblemResult, ResultsFolder
from reason.report.sitting import Progress
from reason.search.calibration import read_calibration
from reason.search.driver import Run
from reason.types import Budget, Problem, Solution
from tests.report.conftest import (
    CountingEngine,
    figures,
    lines,
    make_task,
    mostly_right,
    results,
    without_references,
)

if TYPE_CHECKING:
    from tests.report.conftest import Evaluate


def test_what_comes_of_it(run: Evaluate, tmp_path: Path) -> None:
    seen: list[Progress] = []
    summary = run(make_task(7), log_samples=True, on_progress=seen.append, budget=Budget(calls=99))
    out = tmp_path / "out"
    assert sorted(file.name for file in out.iterdir() if file.name != ".lock") == [
        *("config.json", "results.jsonl", "samples.jsonl", "sittings.json", "summary.json", "traces")
    ]
    assert (summary.done, summary.total, summary.correct, summary.accuracy) == (7, 7, 5, 5 / 7)
    assert summary.interval is not None
    assert summary.interval.low < 5 / 7 < summary.interval.high
    assert (summary.complete, summary.failed, summary.notes, summary.unanswered) == (True, (), [], 0)
    assert json.loads((out / "summary.json").read_text()) == json.loads(json.dumps(summary.as_dict()))
    assert set(summary.curves) == {"majority", "pass"}
    assert [point.k for point in summary.curves["pass"]] == [1, 2, 4]
    expected = [(5 * 0.5 + 2 * 0.25) / 7, (5 * (1 - 1 / 6) + 2 * 0.5) / 7, 1.0]
    assert [point.mean for point in summary.curves["pass"]] == pytest.approx(expected)
    assert summary.curves["majority"][-1].mean == summary.accuracy
    assert (summary.totals["calls"], summary.means["calls"]) == (28, 4)
    assert summary.totals["policy_tokens"] == 7 * summary.means["policy_tokens"]
    assert summary.wall_seconds > 0
    assert [progress.done for progress in seen] == list(range(8))
    assert seen[0].last is None
    assert seen[-1].accuracy == summary.accuracy
    assert seen[-1].standard_error == pytest.approx(summary.standard_error)


def test_a_line_of_results(run: Evaluate, tmp_path: Path) -> None:
    run(make_task(3))
    line = results(tmp_path / "out")[2]
    assert (line["id"], line["answer"], line["reference"], line["correct"]) == ("sums-003", "4", "3", False)
    assert (line["stopped_by"], line["confidence"], line["num_candidates"], line["error"]) == ("done", 0.5, 4, None)
    assert sorted(c["answer"] or "" for c in line["candidates"]) == ["", "3", "4", "4"]
    for candidate in line["candidates"]:
        assert set(candidate) == {"answer", "answer_class", "correct", "num_tokens", "finish_reason", "score"}
        assert candidate["correct"] == (candidate["answer"] == "3")
        assert (candidate["answer_class"] is None) == (candidate["answer"] is None)
    assert not (tmp_path / "out" / "samples.jsonl").exists()


def test_samples(run: Evaluate, tmp_path: Path) -> None:
    run(make_task(2), log_samples=True)
    first, second = sorted(lines(tmp_path / "out" / "samples.jsonl"), key=lambda line: str(line["id"]))
    assert (first["id"], first["problem"], second["id"]) == ("sums-001", "problem 1 ?", "sums-002")
    assert sorted(c["text"] for c in first["candidates"]) == sorted(mostly_right("problem 1 "))


def test_the_configuration_says_everything(run: Evaluate, tmp_path: Path) -> None:
    run(make_task(2), budget=Budget(policy_tokens=900), seed=5, max_thinking_tokens=77, temperature=0.5)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["task"] | {"problems_sha256": ""} == make_task(2).describe() | {"problems_sha256": ""}
    assert config["strategy"]["name"] == "best-of-n"
    assert config["strategy"]["fields"].items() >= {"num_samples": 4, "temperature": 0.5, "top_p": 1.0}.items()
    assert (config["budget"]["policy_tokens"], config["seed"], config["max_thinking_tokens"]) == (900, 5, 77)
    assert config["model"] == {"name": "scripted"}
    assert config["environment"]["packages"]["torch"]


@pytest.mark.parametrize("draft", [None, "goose+stand"])
def test_what_drafts_is_recorded(draft: str | None, tmp_path: Path) -> None:
    evaluation = Evaluation(make_task(1), out=tmp_path / "out", draft=draft)
    asyncio.run(evaluation.run(Solver(engine=CountingEngine())))
    assert json.loads((tmp_path / "out" / "config.json").read_text())["environment"]["draft"] == draft


def test_references_change_no_answer(run: Evaluate, tmp_path: Path) -> None:
    run(make_task(4), out=tmp_path / "a")
    run(without_references(make_task(4)), out=tmp_path / "b")
    a, b = results(tmp_path / "a"), results(tmp_path / "b")
    assert [line["answer"] for line in a] == [line["answer"] for line in b]
    assert not any(line["correct"] for line in b)


def test_scores_give_a_weighted_curve(run: Evaluate, tmp_path: Path) -> None:
    summary = run(make_task(3), select="weighted", verifier="confidence")
    scores = [c["score"] for line in results(tmp_path / "out") for c in line["candidates"]]
    assert all(isinstance(score, float) for score in scores)
    assert ("weighted" in summary.curves) == all(score >= 0 for score in scores)


def test_problems_share_the_engine(run: Evaluate, tmp_path: Path) -> None:
    engine = CountingEngine(delay=0.001)
    run(make_task(6), engine, concurrency=2, out=tmp_path / "two")
    assert engine.most_owners == 2
    engine = CountingEngine(delay=0.001)
    run(make_task(6), engine, out=tmp_path / "default")
    assert engine.most_owners == 6  # 64 samples make sixteen problems of four


@pytest.mark.parametrize(("samples", "concurrency"), [(1, 64), (16, 4), (60, 2), (64, 1), (500, 1)])
def test_default_concurrency(samples: int, concurrency: int, tmp_path: Path) -> None:
    made = Evaluation(make_task(1), "best-of-n", {"num_samples": samples}, out=tmp_path)
    assert made.concurrency == concurrency


@pytest.mark.parametrize(
    ("strategy", "fields", "concurrency"),
    [
        ("particle", {"num_particles": 32}, 2),
        ("mcts", {"iterations": 100, "in_flight": 8}, 8),
        ("best-first", {"num_children": 4, "parallel": 2}, 8),
        ("tot", {"keep": 8}, 8),
        ("esc", {"num_samples": 64, "in_flight": 4}, 16),
        ("budget-forcing", {"num_waits": 8}, 64),
    ],
)
def test_default_concurrency_of_others(strategy: str, fields: dict[str, Any], concurrency: int, tmp_path: Path) -> None:
    assert Evaluation(make_task(1), strategy, fields, out=tmp_path).concurrency == concurrency


def test_an_evaluation_of_auto_does_not_go_on_with_another_choice(tmp_path: Path) -> None:
    def evaluation(table: str) -> Evaluation:
        fields = {"table": str(tmp_path / table), "budget_tokens": 1000}
        return Evaluation(make_task(3), "auto", fields, out=tmp_path / "out", concurrency=1)

    for name, samples in (("a.json", 2), ("b.json", 3)):
        cost = {"policy_tokens": 9, "most_policy_tokens": 9, "accuracy": 0.5, "problems": 9}
        row = {"strategy": "best-of-n", "fields": {"num_samples": samples}, **cost}
        (tmp_path / name).write_text(json.dumps({"rows": [row]}))
    summary = asyncio.run(evaluation("a.json").run(Solver(engine=CountingEngine())))
    assert "auto chose best-of-n(num_samples=2)" in summary.notes
    (tmp_path / "b.json").replace(tmp_path / "a.json")
    read_calibration.cache_clear()
    with pytest.raises(UsageError, match=r'fields.chosen "best-of-n\(num_samples=2\)", now "best-of-n\(num_samples=3'):
        evaluation("a.json").check_folder()


def test_mistakes_are_found_before_anything_is_written(tmp_path: Path) -> None:
    def refused(error: type[Exception], match: str, **options: Any) -> None:
        task = options.pop("task", make_task(2))
        strategy, fields = options.pop("strategy", "best-of-n"), options.pop("fields", {})
        with pytest.raises(error, match=match):
            Evaluation(task, strategy, fields, out=tmp_path / "out", **options)

    refused(UnknownName, "unknown strategy 'beem'", strategy="beem")
    refused(UnknownName, "unknown field of best-of-n 'width'", fields={"width": 2})
    refused(UnknownName, "unknown verifier 'nobody'", fields={"select": "best", "verifier": "nobody"})
    refused(UsageError, "budget calls must be more than 0", budget=Budget(calls=0))
    refused(UsageError, "concurrency must be at least 1", concurrency=0)
    refused(UsageError, "max_thinking_tokens must be at least 1", max_thinking_tokens=0)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["a/b", "..", ".hidden", "", "a b", "-x", "a\n", "x" * 300, "a:b", "a\0"])
def test_ids_that_name_no_file(name: str, tmp_path: Path) -> None:
    task = make_task(1)
    example = replace(task.examples[0], problem=Problem(content="?", id=name))
    with pytest.raises(UsageError, match="cannot name a file"):
        Evaluation(replace(task, examples=(example,)), out=tmp_path)


@pytest.mark.parametrize("names", [("a", "a"), ("A", "a")])
def test_ids_that_name_the_same_file(names: tuple[str, str], tmp_path: Path) -> None:
    task = make_task(2)
    examples = [replace(e, problem=replace(e.problem, id=n)) for e, n in zip(task.examples, names, strict=True)]
    with pytest.raises(UsageError, match="two problems of sums have the ids"):
        Evaluation(replace(task, examples=tuple(examples)), out=tmp_path)


# -- going on ------------------------------------------------------------------------------------------------------


def test_what_is_done_is_not_done_again(run: Evaluate, tmp_path: Path) -> None:
    first = run(make_task(5))
    before = (tmp_path / "out" / "results.jsonl").read_bytes()
    engine = CountingEngine()
    second = run(make_task(5), engine)
    assert engine.requests == 0
    assert (tmp_path / "out" / "results.jsonl").read_bytes() == before
    assert second.as_dict() == first.as_dict()
    assert len(second.sittings) == 1


def tear(file: Path, whole: list[bytes], kept: int, torn: float) -> None:
    """Leaves some lines and a part of the next."""
    rest = b"".join(whole[kept : kept + 1])
    file.write_bytes(b"".join(whole[:kept]) + rest[: int(len(rest) * torn)])


def test_a_kill_at_any_line_changes_nothing(run: Evaluate, tmp_path: Path) -> None:
    """Everything a kill may leave: some results, the next one's line torn, and its journal cut anywhere."""
    task = make_task(4)
    whole = run(task, out=tmp_path / "whole", log_samples=True, concurrency=1)
    expected = results(tmp_path / "whole")
    done = (tmp_path / "whole" / "results.jsonl").read_bytes().splitlines(keepends=True)
    samples = (tmp_path / "whole" / "samples.jsonl").read_bytes().splitlines(keepends=True)
    for kept in range(len(done) + 1):
        for torn in (0.0, 0.4, 0.99):
            out = tmp_path / f"killed-{kept}-{torn}"
            shutil.copytree(tmp_path / "whole", out)
            (out / "summary.json").unlink()
            tear(out / "results.jsonl", done, kept, torn)
            tear(out / "samples.jsonl", samples, kept + (torn > 0.5), torn)  # they are written first
            for number in range(kept, 4):
                trace = out / "traces" / f"sums-{number + 1:03}.jsonl"
                if number > kept:
                    trace.unlink()
                else:
                    trace.write_bytes(trace.read_bytes()[: int(trace.stat().st_size * torn)])
            engine = CountingEngine()
            again = run(task, engine, out=out, log_samples=True)
            assert results(out) == expected
            assert figures(again) == figures(whole)
            assert engine.requests <= 4 * (4 - kept)
            assert [line["id"] for line in lines(out / "results.jsonl")].count(f"sums-{kept:03}") <= 1
            texts = {line["id"]: line["candidates"] for line in lines(out / "samples.jsonl")}
            assert len(texts) == len(lines(out / "samples.jsonl"))
            assert set(texts) >= {f"sums-{number + 1:03}" for number in range(kept, 4)}


def test_recorded_samples_are_not_generated_again(run: Evaluate, tmp_path: Path) -> None:
    task = make_task(2)
    run(task)
    (tmp_path / "out" / "results.jsonl").unlink()
    engine = CountingEngine()
    assert run(task, engine).correct == 2
    assert engine.requests == 0


async def interrupted_after(done: int, engine: CountingEngine, out: Path, **options: Any) -> Any:
    """An evaluation of ten problems that is interrupted once so many are done."""

    def watch(progress: Progress) -> None:
        if progress.done >= done:
            evaluation.interrupt()

    evaluation = Evaluation(
        make_task(10), "best-of-n", {"num_samples": 4}, out=out, concurrency=3, on_progress=watch, **options
    )
    return await asyncio.wait_for(evaluation.run(Solver(engine=engine)), 30)


async def test_an_interrupt_keeps_what_is_done(tmp_path: Path) -> None:
    summary = await interrupted_after(4, CountingEngine(delay=0.001), tmp_path / "out")
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert 4 <= summary.done < 8
    assert len(lines(tmp_path / "out" / "results.jsonl")) == summary.done
    assert all(line["stopped_by"] == "done" for line in lines(tmp_path / "out" / "results.jsonl"))
    assert summary.notes == [f"{10 - summary.done} of 10 problems are not done: these are the figures of the others"]
    engine = CountingEngine()
    whole = await evaluate(make_task(10), Solver(engine=engine), out=tmp_path / "out", num_samples=4)
    assert whole.complete
    assert engine.requests <= 4 * (10 - summary.done)
    assert [sitting["problems"] for sitting in whole.sittings] == [summary.done, 10 - summary.done]
    assert whole.wall_seconds == pytest.approx(sum(sitting["seconds"] for sitting in whole.sittings))
    fresh = await evaluate(make_task(10), Solver(engine=CountingEngine()), out=tmp_path / "fresh", num_samples=4)
    assert figures(whole) == figures(fresh)
    assert results(tmp_path / "out") == results(tmp_path / "fresh")


async def test_an_interrupt_before_anything_is_done(tmp_path: Path) -> None:
    summary = await interrupted_after(0, CountingEngine(delay=0.01), tmp_path / "out")
    assert (summary.done, summary.accuracy, summary.interval) == (0, None, None)
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["done"] == 0


async def test_cancelling_leaves_a_summary(tmp_path: Path) -> None:
    solver = Solver(engine=CountingEngine(delay=0.05))
    work = asyncio.ensure_future(evaluate(make_task(9), solver, out=tmp_path / "out", num_samples=2))
    await asyncio.sleep(0.1)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert (tmp_path / "out" / "summary.json").exists()
    with FileLock(tmp_path / "out" / ".lock").acquire(timeout=0):
        pass  # nobody holds it


def test_more_problems_or_another_seed_are_another_evaluation(run: Evaluate, tmp_path: Path) -> None:
    run(make_task(2))
    with pytest.raises(UsageError) as raised:
        run(make_task(3), seed=1, num_samples=2, budget=Budget(calls=9))
    message = str(raised.value)
    for part in (
        "task.rows 2, now 3",
        "seed 0, now 1",
        "strategy.fields.num_samples 4, now 2",
        "budget.calls null, now 9",
    ):
        assert part in message
    assert "another --out, or --overwrite" in message
    assert "temperature" not in message
    assert run(make_task(3), seed=1, num_samples=2, overwrite=True).done == 3
    assert len(lines(tmp_path / "out" / "results.jsonl")) == 3
    assert len(list((tmp_path / "out" / "traces").iterdir())) == 3


def test_where_the_data_lies_does_not_matter(run: Evaluate) -> None:
    run(make_task(2))
    assert run(replace(make_task(2), source="elsewhere")).done == 2


def test_before_the_model_is_loaded(run: Evaluate, tmp_path: Path) -> None:
    run(make_task(2))
    fields = {"num_samples": 4}
    Evaluation(make_task(2), "best-of-n", fields, out=tmp_path / "out").check_folder()
    Evaluation(make_task(2), "best-of-n", fields, out=tmp_path / "new").check_folder()
    with pytest.raises(UsageError, match="seed 0, now 3"):
        Evaluation(make_task(2), "best-of-n", fields, out=tmp_path / "out", seed=3).check_folder()
    options = {"dtype": "float32"}
    with pytest.raises(UsageError, match=r"model\.dtype null, now"):
        Evaluation(make_task(2), "best-of-n", fields, out=tmp_path / "out", model_options=options).check_folder()


def test_overwriting_deletes_nothing_where_there_is_no_room(
    run: Evaluate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from reason.report import results

    run(make_task(2))
    done = (tmp_path / "out" / "results.jsonl").read_bytes()

    def full(stream: Any, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(results, "_write_whole", full)
        with pytest.raises(ReasonError, match="What was done before is kept"):
            run(make_task(3), overwrite=True)
    assert (tmp_path / "out" / "results.jsonl").read_bytes() == done
    assert run(make_task(3), overwrite=True).done == 3
    assert not (tmp_path / "out" / ".next.json").exists()


@pytest.mark.parametrize("left", [".config.json.tmp", ".next.json", ".probe-17", "traces/"])
def test_what_a_kill_left_of_a_folder_is_ours(run: Evaluate, tmp_path: Path, left: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / left).mkdir() if left.endswith("/") else (tmp_path / "out" / left).touch()
    assert run(make_task(1)).done == 1


@pytest.mark.parametrize("overwrite", [False, True])
def test_folders_that_are_not_ours(run: Evaluate, tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(UsageError, match=r"holds something else \(thesis.tex"):
        run(make_task(1), out=tmp_path / "mine", overwrite=overwrite)
    (tmp_path / "mine" / "config.json").write_text('{"precious": true}')
    with pytest.raises(UsageError, match="is not an evaluation's"):
        run(make_task(1), out=tmp_path / "mine", overwrite=overwrite)
    assert json.loads((tmp_path / "mine" / "config.json").read_text()) == {"precious": True}
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is not a folder"):
        run(make_task(1), out=tmp_path / "file", overwrite=overwrite)


@pytest.mark.parametrize("line", ["garbage", "[]", '{"answer": 3}', '{"id": 3}', '{"id": "sums-001"}'])
def test_results_that_somebody_edited(run: Evaluate, tmp_path: Path, line: str) -> None:
    run(make_task(2))
    file = tmp_path / "out" / "results.jsonl"
    file.write_text(f"{line}\n" + file.read_text())
    with pytest.raises(UsageError, match=r"results\.jsonl has"):
        run(make_task(2))


def test_one_process_at_a_time(run: Evaluate, tmp_path: Path) -> None:
    run(make_task(1))
    with FileLock(tmp_path / "out" / ".lock"), pytest.raises(UsageError, match="another process is writing"):
        run(make_task(1))
    assert run(make_task(1)).done == 1


# -- failures ------------------------------------------------------------------------------------------------------


class Failing(CountingEngine):
    """Fails every sample of some problems."""

    def __init__(self, *numbers: int, error: Exception | None = None, samples: int = 99) -> None:
        def script(prefix: str) -> list[str]:
            if int(prefix.partition("problem ")[2].split()[0]) in numbers and self.failures < samples:
                self.failures += 1
                raise error or EngineError("no")
            return mostly_right(prefix)

        super().__init__(script)
        self.failures = 0


def test_one_problem_that_fails_is_one_problem(run: Evaluate, tmp_path: Path) -> None:
    summary = run(make_task(5), Failing(2))
    assert (summary.done, summary.correct, summary.failed) == (5, 3, ("sums-002",))
    assert summary.notes == ["1 failed problems count as wrong; the same command tries them again"]
    line = results(tmp_path / "out")[1]
    assert line["error"].startswith("EngineError: every expansion failed")
    assert (line["correct"], line["candidates"]) == (False, [])
    engine = CountingEngine()
    again = run(make_task(5), engine)
    assert (again.correct, again.failed, engine.requests) == (4, (), 4)
    assert figures(again) == figures(run(make_task(5), out=tmp_path / "fresh"))
    assert len(lines(tmp_path / "out" / "results.jsonl")) == 5


def test_samples_that_fail_are_tried_again(run: Evaluate, tmp_path: Path) -> None:
    summary = run(make_task(2), Failing(2, samples=1))
    assert (summary.failed, summary.done) == ((), 2)
    assert summary.notes == ["1 problems lost samples to errors; the same command tries them again"]
    again = run(make_task(2))
    assert again.notes == []
    assert figures(again) == figures(run(make_task(2), out=tmp_path / "fresh"))


def test_when_everything_fails_alike(run: Evaluate, tmp_path: Path) -> None:
    engine = Failing(*range(1, 11))
    with pytest.raises(EngineError, match="every expansion failed"):
        run(make_task(10), engine, concurrency=1)
    assert len(lines(tmp_path / "out" / "results.jsonl")) == 3
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["done"] == 3
    assert run(make_task(10)).complete


def test_failures_after_a_success_do_not_end_it(run: Evaluate) -> None:
    assert len(run(make_task(8), Failing(*range(2, 9)), concurrency=1).failed) == 7


def test_failures_that_differ_do_not_end_it(run: Evaluate, monkeypatch: pytest.MonkeyPatch) -> None:
    errors: list[ReasonError] = [EngineError("a"), OutOfKV("b"), EngineError("c"), OutOfKV("d")]

    async def fails(self: Run) -> Solution:
        raise errors.pop()

    monkeypatch.setattr(Run, "solve", fails)
    assert len(run(make_task(4), concurrency=1).failed) == 4


def test_a_closed_engine_ends_it_at_once(run: Evaluate, tmp_path: Path) -> None:
    engine = CountingEngine()

    def close(progress: Progress) -> None:
        if progress.done == 2:
            engine.close()

    with pytest.raises(EngineClosed):
        run(make_task(5), engine, on_progress=close, concurrency=1)
    assert len(lines(tmp_path / "out" / "results.jsonl")) == 2  # nobody failed by himself
    assert run(make_task(5)).correct == 4


def test_a_bug_is_not_swallowed(run: Evaluate, tmp_path: Path) -> None:
    def broken(progress: Progress) -> None:
        if progress.done:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(make_task(5), on_progress=broken)
    assert run(make_task(5)).complete


# -- disks ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets how many more bytes the disk takes."""
    room = [1 << 40]
    write = results_module._write_whole

    def limited(stream: io.FileIO, data: bytes) -> None:
        fits = data[: max(0, room[0])]
        room[0] -= len(data)
        write(stream, fits)
        if len(fits) < len(data):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(results_module, "_write_whole", limited)

    def set_room(size: int) -> None:
        room[0] = size

    return set_room


@pytest.mark.parametrize("room", [0, 100, 2_000, 2_600, 3_500, 6_000, 9_000])
def test_a_full_disk(run: Evaluate, tmp_path: Path, disk: Callable[[int], None], room: int) -> None:
    fresh = run(make_task(6), out=tmp_path / "fresh", log_samples=True)
    disk(room)
    with pytest.raises(ReasonError, match=r"cannot write .*: No space left on device.*free some space"):
        run(make_task(6), log_samples=True)
    out = tmp_path / "out"
    for file in out.glob("*.json"):
        json.loads(file.read_text())
    for file in out.glob("*.jsonl"):
        assert file.read_bytes()[-1:] in (b"", b"\n")
        lines(file)
    assert not list(out.glob(".*.tmp"))
    disk(1 << 40)
    again = run(make_task(6), log_samples=True)
    assert figures(again) == figures(fresh)
    assert results(out) == results(tmp_path / "fresh")
    assert len(lines(out / "samples.jsonl")) == 6


def test_a_full_disk_under_a_journal(run: Evaluate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is nobody's failure: the evaluation ends."""

    async def full(self: Run) -> Solution:
        raise ReasonError("cannot write the trace") from OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Run, "solve", full)
        with pytest.raises(ReasonError, match="cannot write the trace"):
            run(make_task(9), concurrency=1)
    assert not (tmp_path / "out" / "results.jsonl").exists()
    assert run(make_task(9)).failed == ()


def test_what_was_there_survives_a_failed_rewrite(tmp_path: Path, disk: Callable[[int], None]) -> None:
    folder = ResultsFolder(tmp_path)
    folder.write("summary.json", {"first": 1})
    folder.append("results.jsonl", {"id": "a"})
    disk(3)
    with pytest.raises(ReasonError):
        folder.write("summary.json", {"second": 2})
    with pytest.raises(ReasonError):
        folder.append("results.jsonl", {"id": "b"})
    assert folder.read("summary.json") == {"first": 1}
    assert (tmp_path / "results.jsonl").read_text() == '{"id":"a"}\n'


# -- figures -------------------------------------------------------------------------------------------------------


def test_a_limit_by_seconds_is_noted(run: Evaluate) -> None:
    (note,) = run(make_task(2), budget=Budget(seconds=20)).notes
    assert "not reproducible" in note


def test_results_read_back(run: Evaluate, tmp_path: Path) -> None:
    run(make_task(2))
    for result in ResultsFolder(tmp_path / "out").results().values():
        assert ProblemResult.from_dict(json.loads(json.dumps(result.as_dict()))) == result


def test_traces_go_from_folder_to_folder(tmp_path: Path) -> None:
    here, there = (ResultsFolder(tmp_path / name) for name in ("here", "there"))
    (tmp_path / "here" / "traces").mkdir(parents=True)
    (tmp_path / "there").mkdir()
    here.trace("a").write_bytes(b"full\n")
    here.trace("a").with_suffix(".plan.jsonl").write_bytes(b"plan\n")
    here.trace("a.plan-b").write_bytes(b"another problem's\n")
    there.write_traces("a", here.read_traces("a"))
    assert there.read_traces("a") == {"a.jsonl": b"full\n", "a.plan.jsonl": b"plan\n"}
    assert there.read_traces("a.plan-b") == {}
    there.discard_traces("a")
    assert there.read_traces("a") == {}
