"""Verifiers on solutions that are there already: what is scored, what comes of it, and going on after an end."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from reason.api import Solver
from reason.engine.scripted import ScriptedEngine
from reason.errors import EngineError, UnknownName, UsageError
from reason.report.evaluate import evaluate
from reason.report.process import Scoring
from reason.report.process_samples import SampleSummary
from reason.report.process_steps import StepSummary, Threshold
from reason.tasks import load_task
from reason.tasks.task import Task
from reason.types import Engine, Trajectory
from tests.report.conftest import lines

ROWS = [  # label, what the verifier makes of each step
    ("a", -1, [0.9, 0.8]),
    ("b", -1, [0.9, 0.4]),
    ("c", 1, [0.9, 0.2, 0.1]),
    ("d", 0, [0.6, 0.3]),
    ("e", 2, [0.9, 0.9, 0.1]),
]


class Marks:
    """Scores a step by the number in it."""

    name: ClassVar[str] = "marks"
    statistics: ClassVar[bool] = False
    top_logprobs: ClassVar[int | None] = None

    def __init__(self, *, probability: bool = True, delay: float = 0.0, failing: str = "") -> None:
        self.probability = probability
        self.asked: list[Trajectory] = []
        self._delay, self._failing = delay, failing

    async def score(self, trajectories: Sequence[Trajectory], engine: Engine, owner: str) -> list[float]:
        await asyncio.sleep(self._delay)
        if self._failing and trajectories[0].problem.id == self._failing:
            raise EngineError("no room")
        self.asked += trajectories
        return [float(trajectory.steps[-1].text.strip().split()[-1]) for trajectory in trajectories]


@pytest.fixture
def rows(tmp_path: Path) -> Task:
    return task_of(tmp_path / "rows.jsonl", [step_row(*row) for row in ROWS])


def step_row(name: str, label: int, scores: list[float]) -> dict[str, Any]:
    return {"id": name, "problem": f"problem {name}", "steps": [f"step {score}" for score in scores], "label": label}


def task_of(file: Path, content: list[dict[str, Any]]) -> Task:
    file.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
    return load_task(file)


def run(scoring: Scoring, engine: Engine | None = None) -> Any:
    return asyncio.run(asyncio.wait_for(scoring.run(Solver(engine=engine or ScriptedEngine(()))), 120))


def test_figures(rows: Task, tmp_path: Path) -> None:
    summary = run(Scoring(rows, Marks(), out=tmp_path / "out"))
    assert isinstance(summary, StepSummary)
    assert (summary.done, summary.total, summary.complete, summary.notes) == (5, 5, True, [])
    assert (summary.threshold, summary.tuned_on, summary.verifier, summary.model) == (0.5, 0, "marks", "scripted")
    figures = (summary.sound, summary.flawed, summary.f1, summary.step_auc, summary.solution_auc)
    assert [figure.mean for figure in figures if figure] == pytest.approx([1 / 2, 2 / 3, 4 / 7, 20 / 21, 1.0])
    assert summary.sound is not None
    assert summary.sound.n == 2
    written = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert written == json.loads(json.dumps(summary.as_dict()))
    assert written["f1"]["interval"].keys() == {"low", "high"}
    assert {line["id"]: line["scores"] for line in lines(tmp_path / "out" / "results.jsonl")} == {
        name: [scores] for name, _, scores in ROWS
    }


def test_what_a_verifier_sees(rows: Task, tmp_path: Path) -> None:
    verifier = Marks()
    run(Scoring(rows, verifier, out=tmp_path / "out", concurrency=1))
    first, second = verifier.asked[:2]
    assert [step.text for step in second.steps] == ["step 0.9\n\n", "step 0.8"]
    assert bytes(second.prompt).decode().startswith("<user>problem a\nPlease reason step by step")
    assert bytes(second.path[len(second.prompt) :]).decode() == "step 0.9\n\nstep 0.8"
    assert second.path[: len(first.path)] == first.path
    assert [(one.finished, one.answer) for one in (first, second)] == [(False, None), (True, "0.8")]
    assert not any("label" in repr(one.problem) for one in verifier.asked)


def test_another_threshold_scores_nothing_again(rows: Task, tmp_path: Path) -> None:
    run(Scoring(rows, Marks(), out=tmp_path / "out"))
    verifier = Marks()
    summary = run(Scoring(rows, verifier, out=tmp_path / "out", threshold=Threshold(value=0.35)))
    assert verifier.asked == []
    assert summary.f1.mean == pytest.approx(4 / 5)
    with pytest.raises(UsageError, match="aggregation is for samples"):
        Scoring(rows, verifier, out=tmp_path / "out", aggregation="min")


def test_a_threshold_is_chosen_on_rows_that_are_left_out(rows: Task, tmp_path: Path) -> None:
    threshold = Threshold(tune=3)
    left_out = {ROWS[i][0] for i in threshold.rows(5, seed=4)}
    summary = run(Scoring(rows, Marks(probability=False), out=tmp_path / "out", threshold=threshold, seed=4))
    assert summary.tuned_on == 3
    assert summary.threshold is not None
    reported = [row for row in ROWS if row[0] not in left_out]
    kinds = {label >= 0 for _, label, _ in reported}
    assert (summary.flawed is not None, summary.sound is not None) == (True in kinds, False in kinds)
    assert sum(part.n for part in (summary.flawed, summary.sound) if part) == 2


def test_the_rows_that_are_reported_do_not_move_the_threshold(tmp_path: Path) -> None:
    threshold = Threshold(tune=4)
    chosen_on = threshold.rows(8, seed=0)
    kinds = iter(["sound", "flawed"] * 4)
    content = []
    for i in range(8):
        high = 0.9 if i in chosen_on else 0.4  # on the other rows the best threshold is elsewhere
        scores, label = ([high, high], -1) if next(kinds) == "sound" else ([high, high - 0.3], 1)
        content.append(step_row(f"r{i}", label, scores))
    tuned = {content[i]["label"] for i in chosen_on}
    assert tuned == {-1, 1}
    summary = run(
        Scoring(task_of(tmp_path / "rows.jsonl", content), Marks(), out=tmp_path / "out", threshold=threshold)
    )
    assert summary.threshold == pytest.approx(0.75)
    assert summary.f1.mean == 0.0


def test_scores_that_are_no_probabilities_have_no_threshold_of_their_own(rows: Task, tmp_path: Path) -> None:
    summary = run(Scoring(rows, Marks(probability=False), out=tmp_path / "out"))
    assert (summary.threshold, summary.f1, summary.flawed) == (None, None, None)
    assert summary.step_auc.mean == pytest.approx(20 / 21)
    assert "give a --threshold" in summary.notes[0]


def test_rows_of_one_kind_have_no_f1(tmp_path: Path) -> None:
    rows = task_of(tmp_path / "rows.jsonl", [step_row(*row) for row in ROWS[2:]])
    summary = run(Scoring(rows, Marks(), out=tmp_path / "out"))
    assert (summary.f1, summary.sound, summary.flawed.mean) == (None, None, pytest.approx(2 / 3))
    assert "all of these rows have an error" in summary.notes[0]


def test_an_interrupted_one_goes_on(rows: Task, tmp_path: Path) -> None:
    scoring = Scoring(rows, Marks(delay=0.01), out=tmp_path / "out", concurrency=1)
    scoring.on_progress = lambda progress: scoring.interrupt() if progress.done == 2 else None
    part = run(scoring)
    assert (part.done, part.complete) == (2, False)
    assert "3 of 5 problems are not done" in part.notes[0]
    verifier = Marks()
    whole = run(Scoring(rows, verifier, out=tmp_path / "out"))
    assert {one.problem.id for one in verifier.asked} == {"c", "d", "e"}
    assert (whole.done, whole.f1.mean) == (5, pytest.approx(4 / 7))
    with pytest.raises(UsageError, match=r"begun with other settings: verifier\.name"):
        run(Scoring(rows, "judge", out=tmp_path / "out"))


def test_another_head_is_another_evaluation(rows: Task, tmp_path: Path) -> None:
    class Trained(Marks):
        def __init__(self, head: str) -> None:
            super().__init__()
            self._head = head

        def fingerprint(self, model: str | None) -> str:
            return "" if model is None else self._head

    run(Scoring(rows, Trained("one"), out=tmp_path / "out"))
    again = Scoring(rows, Trained("one"), out=tmp_path / "out")
    again.check_folder()  # when it is not known yet whose head it will be
    assert run(again).complete
    with pytest.raises(UsageError, match=r'heads\.marks "one", now "two"'):
        run(Scoring(rows, Trained("two"), out=tmp_path / "out"))


def test_a_failed_row_counts_as_wrong_and_is_tried_again(rows: Task, tmp_path: Path) -> None:
    summary = run(Scoring(rows, Marks(failing="a"), out=tmp_path / "out"))
    assert summary.failed == ("a",)
    assert (summary.sound.mean, summary.sound.n) == (0.0, 2)
    assert "1 failed problems count as wrong" in summary.notes[0]
    assert run(Scoring(rows, Marks(), out=tmp_path / "out")).sound.mean == 0.5


def test_rows_are_scored_together(rows: Task, tmp_path: Path) -> None:
    class Counting(Marks):
        now = most = 0

        async def score(self, *arguments: Any) -> list[float]:
            self.now += 1
            self.most = max(self.most, self.now)
            await asyncio.sleep(0.02)
            self.now -= 1
            return await super().score(*arguments)

    verifier = Counting()
    run(Scoring(rows, verifier, out=tmp_path / "out"))
    assert verifier.most == 5


def test_the_ledger(rows: Task, tmp_path: Path) -> None:
    summary = run(Scoring(rows, "judge", out=tmp_path / "out"))
    assert summary.totals["verifier_tokens"] > 0
    assert summary.means["verifier_tokens"] == summary.totals["verifier_tokens"] / 5


@pytest.mark.parametrize("verifier", ["self-certainty", "entropy", "confidence", "ensemble:judge+entropy"])
def test_verifiers_that_read_distributions_are_refused(verifier: str, rows: Task, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="recorded while a solution is generated") as caught:
        Scoring(rows, verifier, out=tmp_path / "out")
    assert "judge, logprob, " in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_log_probabilities_are_those_of_the_model(rows: Task, tmp_path: Path) -> None:
    def logprob(prefix: str, token: str) -> float:
        return math.log(0.25) if token == "9" else math.log(0.5)

    run(Scoring(rows, "logprob", out=tmp_path / "out"), ScriptedEngine((), logprob=logprob))
    scores = {line["id"]: line["scores"][0] for line in lines(tmp_path / "out" / "results.jsonl")}
    assert scores["a"] == pytest.approx([0.5 * 0.5 ** (1 / len("step 0.9\n\n")), 0.5])


def test_log_probabilities_within_an_ensemble(rows: Task, tmp_path: Path) -> None:
    run(Scoring(rows, "ensemble:logprob", out=tmp_path / "out"), ScriptedEngine(()))
    assert all(line.get("error") is None for line in lines(tmp_path / "out" / "results.jsonl"))


def test_unknown_verifiers_and_tasks_without_solutions(rows: Task, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="unknown verifier 'juge'"):
        Scoring(rows, "juge", out=tmp_path / "out")
    plain = task_of(tmp_path / "plain.jsonl", [{"question": "?", "answer": "1"}])
    with pytest.raises(UsageError, match="the rows of plain have no solutions to score"):
        Scoring(plain, "judge", out=tmp_path / "out")
    mixed = task_of(
        tmp_path / "mixed.jsonl", [sample_row("s", ("1", 0.1, True, 1.0)), step_row(*ROWS[0]) | {"answer": "1"}]
    )
    with pytest.raises(UsageError, match="the first row has its solution as samples, and a in steps"):
        Scoring(mixed, "judge", out=tmp_path / "out")


# -- recorded samples --------------------------------------------------------------------------------------------------


def sample_row(name: str, *samples: tuple[str, float, bool, float]) -> dict[str, Any]:
    """Answers, scores by ``Marks``, verdicts, recorded rewards."""
    return {
        "id": name,
        "question": f"problem {name}",
        "answer": "1",
        "samples": [
            {"text": f"step 0.5\n\n{score}", "pred": answer, "correct": correct, "reward": reward}
            for answer, score, correct, reward in samples
        ],
    }


@pytest.fixture
def samples(tmp_path: Path) -> Task:
    content = [
        sample_row("a", ("2", 0.1, False, 3.0), ("1", 0.9, True, -1.0), ("2", 0.2, False, 0.0), ("1", 0.3, True, 0.0)),
        sample_row("b", ("1", 0.5, True, 0.0), ("1.0", 0.5, True, 0.0)),
    ]
    return task_of(tmp_path / "samples.jsonl", content)


def test_best_of_n(samples: Task, tmp_path: Path) -> None:
    verifier = Marks()
    summary = run(Scoring(samples, verifier, out=tmp_path / "out"))
    assert isinstance(summary, SampleSummary)
    at_two = {name: points[1].mean for name, points in summary.curves.items()}
    assert at_two == {
        "mean": pytest.approx(0.75),
        "majority": pytest.approx(4 / 6),
        "best": pytest.approx(11 / 12),
        "weighted": pytest.approx(11 / 12),
        "recorded best": pytest.approx(7 / 12),
        "recorded weighted": pytest.approx(7 / 12),
        "oracle": pytest.approx(11 / 12),
    }
    assert summary.differences["best - majority"][4].difference == 0.5
    assert [len(one.steps) for one in verifier.asked] == [1] * 6  # a sample is one step
    assert {one.answer_class for one in verifier.asked if one.problem.id == "b"} == {0}
    written = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert written["differences"]["best - majority"]["4"]["difference"] == 0.5


def test_an_aggregation_scores_each_step(samples: Task, tmp_path: Path) -> None:
    verifier = Marks()
    summary = run(Scoring(samples, verifier, out=tmp_path / "out", aggregation="min"))
    assert len(verifier.asked) == 12
    assert summary.curves["best"][-1].mean == 1.0  # 0.1, 0.5, 0.2, 0.3
    with pytest.raises(UsageError, match="aggregation"):
        run(Scoring(samples, verifier, out=tmp_path / "out"))
    with pytest.raises(UsageError, match="a product of them means nothing"):
        Scoring(samples, Marks(probability=False), out=tmp_path / "other", aggregation="prod")
    with pytest.raises(UsageError, match="a threshold is for solutions in steps"):
        Scoring(samples, verifier, out=tmp_path / "other", threshold=Threshold(value=0.5))


def test_the_recorded_reward_needs_no_model(samples: Task, tmp_path: Path) -> None:
    scoring = Scoring(samples, "recorded", out=tmp_path / "out")
    assert not scoring.needs_model
    summary = run(scoring)
    assert summary.model == "none"
    assert [point.mean for point in summary.curves["best"]] == pytest.approx([0.75, 7 / 12, 0.5])
    assert "recorded best" not in summary.curves
    bare = task_of(
        tmp_path / "bare.jsonl", [{"question": "?", "answer": "1", "samples": [{"text": "1", "correct": 1}]}]
    )
    with pytest.raises(UsageError, match="samples without a recorded reward"):
        Scoring(bare, "recorded", out=tmp_path / "other")


def test_recorded_rewards_are_worth_what_they_were(data_dir: Path, tmp_path: Path) -> None:
    """Measured: the mean 92.2%, majority@8 93.8%, best of 8 by the reward 96.2%, any of 8 96.2%."""
    task = load_task(data_dir / "traces" / "math_cot_8samples_rm.jsonl.gz", limit=20)
    summary = run(Scoring(task, "recorded", out=tmp_path / "out"))
    last = {name: points[-1].mean for name, points in summary.curves.items()}
    assert last["mean"] <= last["best"] <= last["oracle"] <= 1
    flags = [sample["correct"] for example in task.examples for sample in example.row["samples"]]
    assert last["mean"] == pytest.approx(sum(flags) / len(flags))


# -- the model as the critic -------------------------------------------------------------------------------------------


def test_parts_and_their_harmonic_mean(rows: Task, tmp_path: Path) -> None:
    critic = ScriptedEngine(lambda text: [r"\boxed{1}" if "problem c" in text else r"\boxed{-1}"])
    summary = asyncio.run(evaluate(rows, Solver(engine=critic), out=tmp_path / "out", num_samples=1))
    assert {name: part.mean for name, part in summary.parts.items()} == {
        "rows with an error": pytest.approx(1 / 3),
        "rows without an error": 1.0,
    }
    assert summary.harmonic_mean is not None
    assert summary.harmonic_mean.mean == pytest.approx(0.5)
    assert summary.accuracy == pytest.approx(3 / 5)
    assert summary.as_dict()["harmonic_mean"]["interval"]["high"] < 1
