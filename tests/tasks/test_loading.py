"""Loading: where data is looked for, ids, slices, and what is said when something is wrong."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reason.errors import DataNotFound, UnknownName, UsageError
from reason.tasks import TASKS, extract_answer, load_task, loading
from reason.tasks.rows import Rows, Sourced

Write = Callable[..., Path]
ROW = {"id": "a", "question": "What is 6 * 7?", "answer": "42"}


def contents(task: Any) -> list[str]:
    return [example.problem.content[-1]["content"].split("\n")[0] for example in task.examples]


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "reference"),
    [
        ({"question": "q", "answer": "42"}, "42"),
        ({"problem": "q", "answer": r"\frac{1}{2}"}, r"\frac{1}{2}"),
        ({"question": "q", "answer": 42}, "42"),
        ({"question": "q", "answer": 42.0}, "42"),
        ({"question": "q", "answer": 0.5}, "0.5"),
        ({"question": "q", "answer": ["42"]}, "42"),
        ({"question": "q", "answer": "6 * 7 = <<6*7=42>>42 in all.\n#### 1,042"}, "1,042"),
        ({"question": "q", "answer": r"First \boxed{6}, then \boxed{42}."}, "42"),
    ],
)
def test_references_of_files(write: Write, row: dict[str, Any], reference: str) -> None:
    task = load_task(write(row))
    (example,) = task.examples
    assert example.reference == reference
    assert task.grade(example, extract_answer(rf"\boxed{{{reference}}}"))
    assert not task.grade(example, "7")


def test_fields_by_name(write: Write) -> None:
    path = write({"prompt": "What is 6 * 7?", "answer": "no", "target": "42"})
    task = load_task(str(path), question_field="prompt", answer_field="target")
    assert contents(task) == ["What is 6 * 7?"]
    assert task.examples[0].reference == "42"
    assert task.name == "rows"
    assert task.source == str(path)
    assert task.licence == "not known"


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz", "rows.json", "rows.json.gz"])
def test_kinds_of_files(tmp_path: Path, name: str) -> None:
    rows = [ROW, {**ROW, "id": "b"}]
    text = json.dumps(rows) if ".json." in f"{name}." else "\n\n".join(map(json.dumps, rows)) + "\n"
    data = text.encode()
    (tmp_path / name).write_bytes(gzip.compress(data, mtime=0) if name.endswith(".gz") else data)
    task = load_task(tmp_path / name)
    assert [example.problem.id for example in task.examples] == ["a", "b"]
    assert task.name == "rows"


def test_line_separators_inside_a_text_end_no_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"question": "one\u2028two\u0085", "answer": "1"}, ensure_ascii=False), encoding="utf-8")
    assert contents(load_task(path)) == ["one\u2028two\u0085".strip()]


def test_a_file_with_choices_is_multiple_choice(write: Write) -> None:
    task = load_task(write({"question": "2 + 2?", "choices": ["3", "5", 4], "answer": 2}))
    (example,) = task.examples
    assert example.reference == "C"
    assert example.problem.content[0]["content"].startswith("2 + 2?\nA. 3\nB. 5\nC. 4\n")  # type: ignore[index]
    assert example.problem.extract is not None
    assert example.problem.extract(r"\boxed{D}") is None
    assert task.grade(example, "C")
    assert not task.grade(example, "B")


# --- ids and slices -------------------------------------------------------------------------------------------------


def test_ids_are_distinct_and_safe(write: Write) -> None:
    given = [
        "test/algebra/1.json",
        "test algebra 1.json",
        "TEST-algebra-1.json",
        "../../etc",
        7,
        None,
        "",
        "é",
        "x" * 300,
    ]
    task = load_task(write(*({**ROW, "id": own} for own in given)))
    ids = [example.problem.id for example in task.examples]
    assert ids[:2] == ["test-algebra-1.json", "test-algebra-1.json-1"]
    assert ids[3:7] == ["etc", "rows-7", "rows-5", "rows-6"]
    assert len({problem_id.lower() for problem_id in ids}) == len(given)
    for problem_id in ids:
        assert set(problem_id) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
        assert 0 < len(problem_id) <= 110
        assert not problem_id.startswith((".", "-"))


def test_slices_keep_ids(write: Write) -> None:
    path = write(*({"question": f"q{index}", "answer": index} for index in range(6)))
    whole = load_task(path)
    part = load_task(path, offset=2, limit=3)
    assert [example.problem.id for example in part.examples] == ["rows-2", "rows-3", "rows-4"]
    assert part.examples == whole.examples[2:5]
    assert (len(part), part.available, part.offset) == (3, 6, 2)
    assert len(load_task(path, offset=4, limit=100)) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"offset": 1}, "offset 1: .* has 1 problems, so at most 0"),
        ({"offset": -1}, "offset -1: has to be at least 0"),
        ({"limit": 0}, "limit 0: has to be at least 1"),
        ({"few_shot": -1}, "few_shot -1"),
        ({"few_shot": 5}, "few_shot 5: there are 4 worked examples"),
        ({"split": "train"}, "files have no splits"),
    ],
)
def test_arguments_that_do_not_fit(write: Write, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_task(write(ROW), **arguments)


# --- malformed data -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answer": "1"}, r"no field 'problem' or 'question' \(its fields: answer\)"),
        ({}, r"no field 'problem' or 'question' \(its fields: none\)"),
        ({"question": "q"}, "no field 'answer'"),
        ({"question": "q", "answer": None}, "no field 'answer'"),
        ({"question": "  ", "answer": "1"}, "'question' has to be text and not empty"),
        ({"question": 5, "answer": "1"}, "'question' has to be text"),
        ({"question": "q", "answer": ""}, "'answer' has to be a number or a text with one answer"),
        ({"question": "q", "answer": True}, "'answer' has to be a number or a text"),
        ({"question": "q", "answer": ["1", "2"]}, "'answer' has to be a number or a text"),
        ({"question": "q", "answer": "5 ####"}, "'answer' has to be a number or a text"),
        ([1], "a row has to be a JSON object, this is a list"),
    ],
)
def test_a_malformed_row_is_named(write: Write, row: Any, message: str) -> None:
    path = write(ROW, ROW, row)
    with pytest.raises(UsageError, match=f"rows.jsonl, line 3: .*{message}"):
        load_task(path)


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("gsm8k", {"question": "q", "answer": "many"}, "'answer' has no number: 'many'"),
        ("game24", {"numbers": [1, 2, 3]}, "'numbers' has to be four whole numbers"),
        ("game24", {"numbers": "1 2 3 x"}, "'numbers' has to be four whole numbers"),
        ("game24", {"question": "q"}, "no field 'numbers'"),
        ("mmlu-stem", {"question": "q", "choices": ["a"], "answer": "A"}, "'choices' has to be a list of 2 to 26"),
        (
            "mmlu-stem",
            {"question": "q", "choices": ["a", "b"], "answer": "C"},
            "has to be a letter up to B or an index",
        ),
        ("mmlu-stem", {"question": "q", "choices": ["a", "b"], "answer": 2}, "has to be a letter up to B"),
        ("olympiadbench", {"problem": "q", "answer": []}, "'answer' has to be a list of texts"),
    ],
)
def test_a_malformed_row_of_a_named_task(write: Write, name: str, row: dict[str, Any], message: str) -> None:
    path = write(row)
    with pytest.raises(UsageError, match=f"rows.jsonl, line 1: .*{message}"):
        load_task(name, data=path)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", b"", "has no rows"),
        ("a.json", b"[]", "has no rows"),
        ("a.jsonl", b'{"question": "q", "answer": "1"}\n{"question', "a.jsonl, line 2: not JSON"),
        ("a.jsonl", b"\xff\xfe", "is not UTF-8 text"),
        ("a.jsonl.gz", b"plain", "is not UTF-8 text in gzip"),
        ("a.jsonl.gz", gzip.compress(b"{}" * 100, mtime=0)[:20], "is not UTF-8 text in gzip"),
        ("a.json", b'{"question": "q"}', "has to be a list of rows, this is an object"),
        ("a.json", b'[{"question": "q"}]', "a.json, item 1: no field 'answer'"),
        ("a.json", b"[" * 100_000, "not JSON"),
    ],
)
def test_a_broken_file(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UsageError, match=message):
        load_task(tmp_path / name)


# --- where data is looked for ---------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str | None, str | None]]:
    """A hub that has one row for everybody, and the calls made to it."""
    calls: list[tuple[str, str | None, str | None]] = []

    def read_hub(dataset: str, config: str | None = None, split: str | None = None) -> Rows:
        calls.append((dataset, config, split))
        if dataset == "gone/gone":
            raise DataNotFound("the hub is out.")
        return Rows("the hub", "0" * 64, (Sourced("row 0", {"question": "from the hub", "answer": "#### 1"}),))

    monkeypatch.setattr(loading, "read_hub", read_hub)
    monkeypatch.delenv("REASON_DATA", raising=False)
    return calls


@pytest.mark.parametrize("name", ["math/gsm8k_test.jsonl", "gsm8k_test.jsonl", "gsm8k.jsonl"])
def test_files_of_a_folder(write: Write, tmp_path: Path, name: str) -> None:
    path = write(ROW, name=name)
    assert load_task("gsm8k", data=tmp_path).source == str(path)
    assert load_task("gsm8k", data=path).source == str(path)


def test_the_argument_comes_first_then_the_environment_then_the_hub(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: list[Any]
) -> None:
    given = write(ROW, name="given/gsm8k.jsonl").parent
    named = write(ROW, name="named/gsm8k.jsonl").parent
    monkeypatch.setenv("REASON_DATA", str(named))
    assert load_task("gsm8k", data=given).source.startswith(str(given))
    assert load_task("gsm8k").source.startswith(str(named))
    assert hub == []
    assert load_task("svamp").source == "the hub"
    assert load_task("gsm8k", split="train").source == "the hub"
    monkeypatch.delenv("REASON_DATA")
    assert load_task("gsm8k").examples[0].reference == "1"
    assert hub == [
        ("ChilleD/SVAMP", None, "train+test"),
        ("openai/gsm8k", "main", "train"),
        ("openai/gsm8k", "main", "test"),
    ]


def test_a_folder_that_was_given_is_the_only_one(write: Write, tmp_path: Path, hub: list[Any]) -> None:
    write(ROW, name="svamp.jsonl")
    with pytest.raises(DataNotFound, match=r"no data for gsm8k. Looked in .* for math/gsm8k_test, gsm8k_test, gsm8k"):
        load_task("gsm8k", data=tmp_path)
    with pytest.raises(DataNotFound, match="nowhere is not a folder"):
        load_task("gsm8k", data=tmp_path / "nowhere")
    with pytest.raises(UsageError, match="leave out one of split and data"):
        load_task("svamp", data=tmp_path, split="train")
    assert hub == []


def test_when_data_is_nowhere_the_message_says_where_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: list[Any]
) -> None:
    monkeypatch.setitem(TASKS, "gsm8k", replace(TASKS["gsm8k"], hub="gone/gone"))
    with pytest.raises(
        DataNotFound, match=r"REASON_DATA is not set. From the hub: the hub is out. Put math/gsm8k_test"
    ):
        load_task("gsm8k")
    monkeypatch.setenv("REASON_DATA", str(tmp_path))
    with pytest.raises(DataNotFound, match=f"Looked in {tmp_path} for math/gsm8k_test, .*name the folder in data or"):
        load_task("gsm8k")


def test_data_sets_of_the_hub_by_name(hub: list[Any]) -> None:
    assert load_task("hf:owner/name").name == "hf:owner/name"
    assert len(load_task("hf:owner/name:part", split="dev")) == 1
    assert hub == [("owner/name", None, None), ("owner/name", "part", "dev")]
    with pytest.raises(UsageError, match="hf:owner/name:config"):
        load_task("hf:")


def test_unknown_names() -> None:
    with pytest.raises(UnknownName, match=r"unknown task 'gsm9k'. Did you mean 'gsm8k'"):
        load_task("gsm9k")
    with pytest.raises(DataNotFound, match=r"no file missing\.jsonl"):
        load_task("missing.jsonl")


# --- rows as the hub has them ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "row", "problem_id", "reference"),
    [
        ("gsm8k", {"question": "q", "answer": "6 * 7\n#### 42"}, "gsm8k-0", "42"),
        (
            "math500",
            {"problem": "q", "solution": "s", "answer": "x", "unique_id": "test/a/1.json"},
            "test-a-1.json",
            "x",
        ),
        ("aime24", {"id": 60, "problem": "q", "solution": r"\boxed{204}", "url": "u"}, "aime24-60", "204"),
        ("aime25", {"problem": "q", "answer": "70", "id": "0"}, "aime25-0", "70"),
        ("amc23", {"id": 0, "question": "q", "answer": "27.0", "url": "u"}, "amc23-0", "27.0"),
        (
            "svamp",
            {"ID": "chal-1", "Body": "b", "Question": "c", "question_concat": "q", "Answer": "2.0"},
            "chal-1",
            "2.0",
        ),
        ("multiarith", {"question": "q", "final_ans": "3"}, "multiarith-0", "3"),
        (
            "olympiadbench",
            {
                "id": 1606,
                "question": "q",
                "final_answer": ["2"],
                "context": None,
                "is_multiple_answer": False,
                "error": None,
            },
            "olympiadbench-1606",
            "2",
        ),
        ("mmlu-stem", {"question": "q", "choices": ["a", "b"], "subject": "s", "answer": 1}, "mmlu-stem-0", "B"),
    ],
)
def test_rows_of_the_hub(write: Write, name: str, row: dict[str, Any], problem_id: str, reference: str) -> None:
    task = load_task(name, data=write(row))
    (example,) = task.examples
    assert contents(task) == ["q"]
    assert (example.problem.id, example.reference) == (problem_id, reference)
    assert task.grade(example, example.reference)


def test_unsolvable_puzzles_of_the_hub_are_left_out(write: Write) -> None:
    rows = [
        {"numbers": [1, 1, 1, 1], "solvable": False},
        {"numbers": [1, 1, 4, 6], "solvable": True, "solutions": ["x"]},
    ]
    task = load_task("game24", data=write(*rows))
    assert [example.row["numbers"] for example in task.examples] == [[1, 1, 4, 6]]
    assert task.available == 1


def test_the_context_of_an_olympiad_problem_comes_before_it(write: Write) -> None:
    task = load_task("olympiadbench", data=write({"question": "q", "context": "Let x = 2.", "final_answer": ["2"]}))
    assert contents(task) == ["Let x = 2."]
