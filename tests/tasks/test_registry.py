"""Every named task on three rows of its data: what it asks, and what it grades right and wrong."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from reason.tasks import TASKS, describe_tasks, extract_answer, load_task

# For each task, for each of its three rows: texts that end in a right answer, and texts that end in a wrong one.
GRADED: dict[str, list[tuple[list[str], list[str]]]] = {
    "gsm8k": [
        ([r"\boxed{360}", "The answer is $360.", "he paid 60*6=360 dollars", r"\boxed{360.00}"], [r"\boxed{60}", "no"]),
        ([r"\boxed{4}", r"\boxed{\text{4 people}}"], [r"\boxed{16}", ""]),
        (["#### 71", r"\boxed{\$71}"], ["#### 7.1", r"\boxed{-71}"]),
    ],
    "gsm8k-train": [([r"\boxed{72}"], ["48"]), (["He ends with 16 pounds."], [r"\boxed{8}"]), ([r"\boxed{5.0}"], [""])],
    "math500": [
        ([r"\boxed{6+9i}", r"\boxed{9i + 6}"], [r"\boxed{6-9i}"]),
        ([r"\boxed{1}", r"\boxed{\frac{2}{2}}"], [r"\boxed{2}"]),
        ([r"\boxed{6}"], [r"\boxed{64}"]),
    ],
    "aime24": [
        ([r"\boxed{25}", r"\boxed{025}"], [r"\boxed{250}"]),
        ([r"\boxed{45}"], [r"\boxed{54}"]),
        ([r"\boxed{33}"], [r"\boxed{\frac{25}{8}}"]),
    ],
    "aime25": [([r"\boxed{70}"], [r"\boxed{21}"]), ([r"\boxed{117}"], ["118"]), ([r"\boxed{49}"], [r"\boxed{7}"])],
    "amc23": [([r"\boxed{36}"], [r"\boxed{27}"]), ([r"\boxed{8}"], [r"\boxed{9}"]), ([r"\boxed{18}"], ["17"])],
    "svamp": [([r"\boxed{14}"], ["28"]), ([r"\boxed{20.0}"], [r"\boxed{6}"]), (["He has $2."], [r"\boxed{18}"])],
    "multiarith": [([r"\boxed{13}"], ["1"]), ([r"\boxed{41}"], ["45"]), ([r"\boxed{36}"], ["$39"])],
    "olympiadbench": [
        ([r"\boxed{4.2}", r"\boxed{4.3\%}", r"\boxed{4.15}"], [r"\boxed{4.4}", r"\boxed{4.0}"]),  # within 0.1
        ([r"\boxed{1,2}", r"\boxed{2, 1}", r"\boxed{m = 1 \text{ or } m = 2}"], [r"\boxed{1}", r"\boxed{1,3}"]),
        ([r"\boxed{(6,5)}", r"\boxed{\left(6, 5\right)}"], [r"\boxed{(5,6)}"]),
    ],
    "mmlu-stem": [
        ([r"\boxed{C}", "Answer: C", r"\boxed{\text{(C) } 72}"], [r"\boxed{B}", r"\boxed{72}"]),
        ([r"\boxed{C}"], ["The answer is (D)."]),
        ([r"\boxed{b}"], [r"\boxed{C}", "none"]),
    ],
    "game24": [
        ([r"\boxed{4 * 6 * 1 * 1}", r"\boxed{\frac{4 \times 6}{1 \cdot 1} = 24}"], [r"\boxed{4 * 6}", r"\boxed{24}"]),
        ([r"\boxed{(5 * (10 - 4)) - 6}", "Answer: 4*5 + (10-6) = 24"], [r"\boxed{10 + 6 + 4 + 5}"]),
        ([r"\boxed{12 / (3 - 5/2)}", r"\boxed{\dfrac{12}{3-\frac{5}{2}}}"], [r"\boxed{12 * 2}"]),
    ],
    "musique": [
        ([r"\boxed{Gmina Ryki}", "So the answer is: Ryki.", "Ryki"], [r"\boxed{Gmina}", "I do not know"]),
        (
            [r"\boxed{\text{the Caspian Sea}}", "Answer: in the north-east of the country south of the Caspian Sea"],
            ["The answer is the Caspian."],
        ),
        ([r"\boxed{Caspian Sea}"], [r"\boxed{Golestan}", "So the answer is: Unknown."]),
    ],
    "2wikimultihop": [
        ([r"\boxed{Yes}", "So the answer is: yes."], [r"\boxed{no}", "The answer is Australia."]),
        (["The answer is **Fomboni**."], [r"\boxed{Moroni}", ""]),
        ([r"\boxed{Mart van Duren}"], [r"\boxed{Madeleine Simms}"]),
    ],
    "humaneval": [
        (
            [
                "Here:\n```python\ndef truncate_number(number):\n    return number % 1.0\n```\nIt takes the rest.",
                "    return number - int(number)\n",
            ],
            ["```python\ndef truncate_number(number):\n    return int(number)\n```", "    pass\n", "no"],
        ),
        (
            [  # the test calls poly, which the prompt defines
                "```python\ndef find_zero(xs):\n    low, high = -1e6, 1e6\n    for _ in range(200):\n"
                "        middle = (low + high) / 2\n        if poly(xs, low) * poly(xs, middle) <= 0:\n"
                "            high = middle\n        else:\n            low = middle\n    return low\n```"
            ],
            ["```python\ndef poly(xs, x):\n    return 0.0\n\ndef find_zero(xs):\n    return 1.0\n```"],
        ),
        (
            ["```\ndef iscube(a):\n    return round(abs(a) ** (1 / 3)) ** 3 == abs(a)\n```"],
            ["```python\ndef iscube(a):\n    return True\n```", "```python\nimport os\nos._exit(0)\n```"],
        ),
    ],
    "mbpp": [
        (
            ["```python\ndef square_nums(nums):\n    return [n * n for n in nums]\n```"],
            ["```python\ndef square_nums(nums):\n    return [1, 4, 9, 16, 25, 36, 49, 64, 81, 100]\n```"],
        ),
        (
            ["def find_Rotations(s):\n    return (s + s).find(s, 1)\n\nThat is all."],
            ["def find_Rotations(s):\n    return 1\n", "```python\ndef find_rotations(s):\n    return 1\n```"],
        ),
        (
            ["```python\nfrom math import pi\ndef volume_sphere(r):\n    return 4 / 3 * pi * r**3\n```"],
            ["```python\ndef volume_sphere(r):\n    return 4 * r**3\n```"],
        ),
    ],
    "mbpp-plus": [
        (
            ["```python\ndef similar_elements(a, b):\n    return tuple(x for x in set(b) if x in a)\n```"],
            ["```python\ndef similar_elements(a, b):\n    return tuple(x for x in set(b) if x in a)[:4]\n```"],
        ),
        (
            ["```python\ndef find_Rotations(s):\n    return (s + s).find(s, 1)\n```"],
            ["```python\ndef find_Rotations(s):\n    return len(set(s))\n```"],  # right on the public tests
        ),
        (
            ["```python\ndef check_str(s):\n    return s[:1].lower() in tuple('aeiou')\n```"],
            ["```python\ndef check_str(s):\n    return s[0] in 'aeE'\n```"],
        ),
    ],
    "processbench-gsm8k": [
        ([r"\boxed{0}", r"Paragraph 1 follows. \boxed{Paragraph 0}"], [r"\boxed{-1}", r"\boxed{none}", "Paragraph 0"]),
        ([r"\boxed{1}", "The answer is 1."], [r"\boxed{0}", r"\boxed{10}"]),
        (
            [r"\boxed{-1}", r"\boxed{−1}", "Both are right.\n\n-1", "It is paragraph -1."],
            [r"\boxed{1}", "All of it is right, all 7."],
        ),
    ],
    "processbench-math": [([r"\boxed{0}"], ["1"]), ([r"\boxed{1}"], [r"\boxed{2}"]), ([r"\boxed{-1}"], [r"\boxed{0}"])],
    "processbench-olympiadbench": [
        ([r"\boxed{0}"], [""]),
        ([r"\boxed{1}"], [r"\boxed{2}"]),
        ([r"\boxed{-1}"], [r"\boxed{3}"]),
    ],
    "processbench-omnimath": [
        ([r"\boxed{2}"], [r"\boxed{1}"]),
        ([r"\boxed{0}"], [r"\boxed{2}"]),
        ([r"\boxed{-1}"], [r"\boxed{5}"]),
    ],
}


@pytest.fixture
def folder(fixtures_dir: Path) -> Path:
    return fixtures_dir / "tasks"


@pytest.mark.parametrize("name", TASKS)
def test_grades(folder: Path, name: str, request: pytest.FixtureRequest) -> None:
    task = load_task(name, data=folder)
    if task.runs_programs:
        request.getfixturevalue("isolation")
    assert len(task) == len(GRADED[name]) == 3
    examples = task.examples
    if TASKS[name].scattered:
        rows = [json.loads(line) for line in Path(task.source).read_text(encoding="utf-8").splitlines()]
        examples = tuple(sorted(examples, key=lambda example: rows.index(example.row)))
    for example, (right, wrong) in zip(examples, GRADED[name], strict=True):
        extract = example.problem.extract or extract_answer
        assert not task.grade(example, None)
        assert [text for text in right if not task.grade(example, extract(text))] == []
        assert [text for text in wrong if task.grade(example, extract(text))] == []


@pytest.mark.parametrize("name", TASKS)
def test_asks(folder: Path, name: str) -> None:
    plain, shown = load_task(name, data=folder), load_task(name, data=folder, few_shot=4)
    for one, other in zip(plain.examples, shown.examples, strict=True):
        assert isinstance(one.problem.content, tuple)
        (turn,) = one.problem.content
        assert turn["role"] == "user"
        assert ("```python" if plain.runs_programs else "\\boxed{}") in turn["content"]
        assert len(other.problem.content) == 9
        assert other.problem.content[-1] == turn
        assert other.problem.id == one.problem.id
    assert len({example.problem.id for example in plain.examples}) == 3


@pytest.mark.parametrize("name", TASKS)
def test_no_reference_can_be_reached_from_a_problem(
    folder: Path, name: str, reachable: Callable[[object], list[object]]
) -> None:
    for example in load_task(name, data=folder).examples:
        found = reachable(example.problem)
        assert example.problem.id in found  # the walk does walk
        long = [value for name, value in example.row.items() if name != "id" and len(str(value)) > 20]
        hidden = {id(example), id(example.row), *map(id, long)}
        assert not hidden & {id(thing) for thing in found}
        solution = str(example.row.get("solution") or "no solution")
        assert not any(isinstance(thing, str) and solution in thing for thing in found)


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("gsm8k", {"question": "How many?", "answer": "918273645"}),
        ("math500", {"problem": "How many?", "answer": "918273645"}),
        ("olympiadbench", {"problem": "How many?", "answer": ["918273645"], "multiple": True, "error": "0.1"}),
    ],
)
def test_a_reference_that_stands_nowhere_else_cannot_be_reached(
    tmp_path: Path, name: str, row: dict[str, object], reachable: Callable[[object], list[object]]
) -> None:
    (tmp_path / "one.jsonl").write_text(json.dumps(row), encoding="utf-8")
    (example,) = load_task(name, data=tmp_path / "one.jsonl").examples
    assert example.reference == "918273645"
    found = reachable(example.problem)
    assert not any("918273645" in str(thing) for thing in found if isinstance(thing, (str, int)))


def test_describes_itself_for_reports(folder: Path) -> None:
    task = load_task("mmlu-stem", data=folder, limit=1, offset=1, few_shot=2)
    described = task.describe()
    assert described == load_task("mmlu-stem", data=folder, limit=1, offset=1, few_shot=2).describe()
    assert json.loads(json.dumps(described)) == described
    assert described.pop("sha256") == hashlib.sha256((folder / "mmlu_stem_500.jsonl").read_bytes()).hexdigest()
    assert described == {
        "name": "mmlu-stem",
        "source": str(folder / "mmlu_stem_500.jsonl"),
        "rows": 1,
        "offset": 1,
        "rows_available": 3,
        "prompt": "{problem}\nPlease reason step by step, and put the letter of the right choice within \\boxed{}.",
        "few_shot": 2,
        "answer_format": "the letter of a choice",
        "licence": "MIT",
    }


def test_the_listing() -> None:
    listing = describe_tasks()
    assert [row["name"] for row in listing] == list(TASKS)
    for row in listing:
        assert list(row) == ["name", "summary", "rows", "licence"]
        assert row["summary"]
        assert "\n" not in row["summary"]
        assert row["rows"] > 0
        assert row["licence"]
