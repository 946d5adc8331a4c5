"""Every row of the evaluation data loads, and its own reference is graded right."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from reason.tasks import TASKS, extract_answer, load_task
from reason.tasks.game24 import extract_expression

PROGRAMS = {"humaneval", "mbpp", "mbpp-plus"}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", sorted(PROGRAMS))
def test_every_solution_passes_its_tests(data_dir: Path, isolation: None, name: str) -> None:
    task = load_task(name, data=data_dir)
    assert 0 < len(task) <= TASKS[name].rows
    extracted = [example.problem.extract(f"```python\n{example.reference}```") for example in task.examples]  # type: ignore[misc]
    with ThreadPoolExecutor(4) as pool:
        right = list(pool.map(task.grade, task.examples, extracted))
    assert [example.problem.id for example, passed in zip(task.examples, right, strict=True) if not passed] == []


@pytest.mark.parametrize("name", sorted(TASKS.keys() - {"game24"} - PROGRAMS))
def test_every_reference_grades_itself_right(data_dir: Path, name: str) -> None:
    task = load_task(name, data=data_dir)
    assert 0 < len(task) <= TASKS[name].rows + 1  # OlympiadBench is one row longer outside the hub
    wrong = []
    for example in task.examples:
        extract = example.problem.extract or extract_answer
        if not (
            task.grade(example, example.reference)
            and task.grade(example, extract(rf"Hence \boxed{{{example.reference}}}."))
        ):
            wrong.append((example.problem.id, example.reference))
    assert wrong == []
    assert len({example.problem.id.lower() for example in task.examples}) == len(task)


@pytest.mark.parametrize("name", ["gsm8k", "math500", "mmlu-stem", "game24"])
def test_the_next_rows_reference_is_mostly_wrong(data_dir: Path, name: str) -> None:
    task = load_task(name, data=data_dir, limit=100)
    others = [example.reference for example in task.examples[1:]]
    right = sum(task.grade(example, other) for example, other in zip(task.examples, others, strict=False))
    assert right <= (40 if name == "mmlu-stem" else 5)


def _solutions(numbers: list[tuple[float, str]]) -> Iterator[str]:
    """Expressions that come to about 24, by putting two numbers together until one is left."""
    if len(numbers) == 1:
        if abs(numbers[0][0] - 24) < 1e-9:
            yield numbers[0][1]
        return
    for i, j in permutations(range(len(numbers)), 2):
        (a, x), (b, y) = numbers[i], numbers[j]
        rest = [number for k, number in enumerate(numbers) if k not in (i, j)]
        results = [(a - b, f"({x} - {y})")]
        if i < j:
            results += [(a + b, f"({x} + {y})"), (a * b, f"({x} * {y})")]
        if b:
            results.append((a / b, f"({x} / {y})"))
        for result in results:
            yield from _solutions([result, *rest])


def test_every_puzzle_of_the_game_of_24_has_a_solution_that_is_graded_right(data_dir: Path) -> None:
    task = load_task("game24", data=data_dir)
    assert len(task) == 1362
    for example in task.examples:
        solution = next(_solutions([(float(number), str(number)) for number in example.row["numbers"]]))
        assert task.grade(example, solution), (example.row["numbers"], solution)
        assert not task.grade(example, f"{solution} + 1")
        assert not task.grade(example, example.reference)


def _rows(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def test_agrees_with_the_grader_of_tree_of_thoughts(data_dir: Path) -> None:
    """8000 sampled chains and 400 searched ones, labelled by the paper's code. Measured: all 8400."""
    task = load_task("game24", data=data_dir)
    examples = {example.problem.id: example for example in task.examples}
    for row in _rows(data_dir / "traces" / "game24_cot_100samples.jsonl.gz"):
        for sample in row["samples"]:
            answer = extract_expression(sample["text"])
            assert task.grade(examples[row["id"]], answer) == sample["correct"], sample["text"]
    for row in _rows(data_dir / "traces" / "game24_tot_bfs.jsonl.gz"):
        for text, right in zip(row["final"], row["final_correct"], strict=True):
            assert task.grade(examples[row["id"]], extract_expression(text)) == right, text
