"""The named tasks: a row of ``TASKS`` says where the data is, which fields it has, and how it is asked and graded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

from reason.tasks.answer_kinds import ANSWER_LIST, CHOICE, LATEX, NUMBER, AnswerKind, Fields
from reason.tasks.code import HUMANEVAL, MBPP, MBPP_PLUS
from reason.tasks.game24 import GAME24
from reason.tasks.process import PROCESSBENCH
from reason.tasks.qa import QA

__all__ = ["TASKS", "TaskEntry", "TaskSummary", "describe_tasks"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEntry:
    """What is known of a named task.

    Args:
        summary: one line for a reader.
        kind: how it is asked, answered and graded.
        file: the data file below the data folder, without ending; it may lie in the folder itself too.
        hub: the same data on the hub, which may have more or fewer rows.
        config: of the hub's data set.
        split: of the hub's data set.
        fields: names of the fields, of the file's first.
        rows: how many the published set has.
        licence: of the data.
        scattered: rows are taken in an order that hangs on their ids alone, because the file's would make the first of
            them of one kind.
    """

    summary: str
    kind: AnswerKind
    file: str
    hub: str
    config: str | None = None
    split: str = "test"
    fields: Fields = Fields()  # noqa: RUF009 - a named tuple cannot change
    rows: int
    licence: str
    scattered: bool = False


_MAA = "competition problems of the Mathematical Association of America"

TASKS: dict[str, TaskEntry] = {
    "gsm8k": TaskEntry(
        summary="grade-school word problems (Cobbe et al. 2021), test split",
        kind=NUMBER,
        file="math/gsm8k_test",
        hub="openai/gsm8k",
        config="main",
        rows=1319,
        licence="MIT",
    ),
    "gsm8k-train": TaskEntry(
        summary="the same, train split: what verifiers learn from",
        kind=NUMBER,
        file="math/gsm8k_train_1000",
        hub="openai/gsm8k",
        config="main",
        split="train",
        rows=7473,
        licence="MIT",
    ),
    "math500": TaskEntry(
        summary="competition mathematics: 500 problems of MATH's test split (Hendrycks et al. 2021)",
        kind=LATEX,
        file="math/math500",
        hub="HuggingFaceH4/MATH-500",
        rows=500,
        licence="MIT",
    ),
    "aime24": TaskEntry(
        summary="American Invitational Mathematics Examination 2024, I and II",
        kind=NUMBER,
        file="math/aime24",
        hub="math-ai/aime24",
        fields=Fields(answer=("answer", "solution")),  # the hub's rows have the answer in a box
        rows=30,
        licence=_MAA,
    ),
    "aime25": TaskEntry(
        summary="American Invitational Mathematics Examination 2025, I and II",
        kind=NUMBER,
        file="math/aime25",
        hub="math-ai/aime25",
        rows=30,
        licence=_MAA,
    ),
    "amc23": TaskEntry(
        summary="American Mathematics Competitions 12, 2023, with numbers for answers",
        kind=NUMBER,
        file="math/amc23",
        hub="math-ai/amc23",
        rows=40,
        licence=_MAA,
    ),
    "svamp": TaskEntry(
        summary="word problems of one operation with varied wording (Patel et al. 2021)",
        kind=NUMBER,
        file="math/svamp",
        hub="ChilleD/SVAMP",
        split="train+test",
        fields=Fields(question=("problem", "question", "question_concat"), answer=("answer", "Answer")),
        rows=1000,
        licence="MIT",
    ),
    "multiarith": TaskEntry(
        summary="word problems of several operations (Roy and Roth 2015)",
        kind=NUMBER,
        file="math/multiarith",
        hub="ChilleD/MultiArith",
        split="train+test",
        fields=Fields(answer=("answer", "final_ans")),
        rows=600,
        licence="not stated",
    ),
    "olympiadbench": TaskEntry(
        summary="olympiad mathematics in English without figures (He et al. 2024)",
        kind=ANSWER_LIST,
        file="math/olympiadbench_en",
        hub="Hothan/OlympiadBench",
        config="OE_TO_maths_en_COMP",
        split="train",
        fields=Fields(answer=("answer", "final_answer")),
        rows=674,
        licence="MIT; Apache-2.0 on the hub",
    ),
    "mmlu-stem": TaskEntry(
        summary="multiple choice on the science subjects of MMLU (Hendrycks et al. 2021)",
        kind=CHOICE,
        file="science/mmlu_stem_500",
        hub="TIGER-Lab/MMLU-STEM",
        rows=3153,
        licence="MIT",
    ),
    "game24": TaskEntry(
        summary="make 24 from four numbers (Yao et al. 2023 report on rows 900-999)",
        kind=GAME24,
        file="logic/game24",
        hub="nlile/24-game",
        split="train",
        fields=Fields(question=("numbers",)),
        rows=1362,
        licence="MIT; Apache-2.0 on the hub",
    ),
    "musique": TaskEntry(
        summary="questions of 2 to 4 hops over 20 passages (Trivedi et al. 2022), answerable part",
        kind=QA,
        file="qa/musique_200",
        hub="dgslibisey/MuSiQue",
        split="validation",
        rows=2417,
        licence="CC-BY-4.0",
    ),
    "2wikimultihop": TaskEntry(
        summary="comparisons and questions of 2 to 4 hops over 10 passages (Ho et al. 2020)",
        kind=QA,
        file="qa/2wikimultihop_164",
        hub="framolfese/2WikiMultihopQA",
        split="validation",
        rows=12576,
        licence="Apache-2.0",
    ),
    "processbench-gsm8k": TaskEntry(
        summary="the first wrong step of a solution to a problem of GSM8K (Zheng et al. 2024)",
        kind=PROCESSBENCH,
        file="process/processbench_gsm8k",
        hub="Qwen/ProcessBench",
        split="gsm8k",
        rows=400,
        licence="Apache-2.0",
        scattered=True,
    ),
    "processbench-math": TaskEntry(
        summary="the first wrong step of a solution to a problem of MATH (Zheng et al. 2024)",
        kind=PROCESSBENCH,
        file="process/processbench_math",
        hub="Qwen/ProcessBench",
        split="math",
        rows=1000,
        licence="Apache-2.0",
        scattered=True,
    ),
    "processbench-olympiadbench": TaskEntry(
        summary="the first wrong step of a solution to a problem of OlympiadBench (Zheng et al. 2024)",
        kind=PROCESSBENCH,
        file="process/processbench_olympiadbench",
        hub="Qwen/ProcessBench",
        split="olympiadbench",
        rows=1000,
        licence="Apache-2.0",
        scattered=True,
    ),
    "processbench-omnimath": TaskEntry(
        summary="the first wrong step of a solution to a problem of Omni-MATH (Zheng et al. 2024)",
        kind=PROCESSBENCH,
        file="process/processbench_omnimath",
        hub="Qwen/ProcessBench",
        split="omnimath",
        rows=1000,
        licence="Apache-2.0",
        scattered=True,
    ),
    "humaneval": TaskEntry(
        summary="functions to be written from their docstrings (Chen et al. 2021); answers are run in a sandbox",
        kind=HUMANEVAL,
        file="code/humaneval",
        hub="openai/openai_humaneval",
        rows=164,
        licence="MIT",
    ),
    "mbpp": TaskEntry(
        summary="basic Python functions (Austin et al. 2021), the sanitized part; answers are run in a sandbox",
        kind=MBPP,
        file="code/mbpp_sanitized",
        hub="google-research-datasets/mbpp",
        config="sanitized",
        split="train+test+validation+prompt",
        rows=427,
        licence="CC-BY-4.0",
    ),
    "mbpp-plus": TaskEntry(
        summary="MBPP with more tests (EvalPlus, Liu et al. 2023); answers are run in a sandbox",
        kind=MBPP_PLUS,
        file="code/mbpp_plus",
        hub="evalplus/mbppplus",
        rows=378,
        licence="Apache-2.0",
    ),
}


class TaskSummary(TypedDict):
    """A named task for a listing. ``rows`` counts the published set; a file may have fewer."""

    name: str
    summary: str
    rows: int
    licence: str


def describe_tasks() -> list[TaskSummary]:
    """The named tasks, in the order of ``TASKS``."""
    return [
        TaskSummary(name=name, summary=entry.summary, rows=entry.rows, licence=entry.licence)
        for name, entry in TASKS.items()
    ]
