"""CodeT: programs and tests that agree."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from reason.engine.scripted import ScriptedEngine
from reason.errors import UsageError
from reason.types import Problem, Trajectory
from reason.verifiers import make_verifier
from reason.verifiers.codet import CodeT, assertions
from tests.verifiers.programs import RIGHT, WRONG, doubling, written

SPELLED = "def f(x):\n    return x + x\n"
NOTHING = "def f(x):\n    return None\n"


def test_assertions() -> None:
    text = (
        "```python\nassert f(1) == 2\nassert f(1) == 2  # again\nassert g(1) == 2\nassert True\n"
        "  assert f([1,\n    2]) == [2,\n 4], 'doubled'\nassert f(2 ==\nassert f(3)==6```"
    )
    assert assertions(text, "f") == ["assert f(1) == 2", "assert f([1, 2]) == [2, 4], 'doubled'"]
    assert assertions("assert f(3) == 6", "f") == ["assert f(3) == 6"]


class Asked(ScriptedEngine):
    """Notes what it is asked."""

    def __init__(self, texts: Sequence[str]) -> None:
        super().__init__(texts)
        self.prompts: list[str] = []

    def generate(self, requests):  # type: ignore[no-untyped-def]
        self.prompts += [self.codec.decode(request.prefix) for request in requests]
        return super().generate(requests)


@pytest.mark.usefixtures("isolation")
async def test_scores_by_hand() -> None:
    """Of four tests one is wrong and one is written twice: RIGHT and SPELLED pass three of five, WRONG two, for it is
    right about 2 and about the wrong one."""
    tests = "assert f(2) == 4\nassert f(3) == 6\nassert f(5) == 7\n"
    engine = Asked([tests, "assert f(3) == 6\nassert f(0 == 0\n"])
    programs = [RIGHT, SPELLED, WRONG, RIGHT, NOTHING, "def f(x:\n"]
    trajectories = [written(program) for program in programs]
    prose = Trajectory(problem=doubling(), prompt=(1,), steps=())
    verifier = CodeT(num_samples=2)
    scores = await verifier.score([*trajectories, prose], engine, "p")
    assert scores == [9.0, 9.0, 2.0, 9.0, 0.0, 0.0, 0.0]
    assert "assert f(...) == ..." in engine.prompts[0]
    assert "Write a function f that doubles." in engine.prompts[0]
    assert len(engine.prompts) == 2
    assert await verifier.score(trajectories[2:3], engine, "p") == [2.0]
    assert len(engine.prompts) == 2  # tests are drawn once
    verifier.forget("p")
    await verifier.score(trajectories[:1], engine, "p")
    assert len(engine.prompts) == 4


async def test_what_is_under_way_ends_with_its_run() -> None:
    verifier, engine = CodeT(num_samples=2), ScriptedEngine(["assert f(2) == 4\n" * 9], delay=60.0)
    scoring = asyncio.ensure_future(verifier.score([written(RIGHT)], engine, "p"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) > 2
    scoring.cancel()
    verifier.forget("p")
    await asyncio.wait(asyncio.all_tasks() - {asyncio.current_task()}, timeout=10)
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.usefixtures("isolation")
async def test_the_first_assertions_of_each_sample_count() -> None:
    engine = ScriptedEngine(["assert f(1) == 2\nassert f(2) == 4\nassert f(3) == 6\n"])
    assert await CodeT(num_samples=1, tests_per_sample=2).score([written(RIGHT)], engine, "p") == [2.0]


@pytest.mark.usefixtures("isolation")
async def test_a_test_that_does_not_end_spoils_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    from reason.tasks.code.running import start
    from reason.verifiers import codet

    async def short(*args, **options):  # type: ignore[no-untyped-def]
        return await start(*args, **options, seconds=1)

    monkeypatch.setattr(codet, "start", short)
    engine = ScriptedEngine(["assert f(2) == 4\nassert f(7) == 14\n"])
    hangs = "def f(x):\n    while x == 7:\n        pass\n    return x * 2\n"
    assert await CodeT(num_samples=1).score([written(hangs), written(RIGHT)], engine, "p") == [1.0, 2.0]


@pytest.mark.usefixtures("isolation")
async def test_no_test_at_all() -> None:
    engine = ScriptedEngine(["I will not."])
    assert await CodeT(num_samples=1).score([written(RIGHT), written(WRONG)], engine, "p") == [0.0, 0.0]


async def test_mistakes() -> None:
    engine = ScriptedEngine(["x"])
    with pytest.raises(UsageError, match="asks for no program"):
        await CodeT().score([written(RIGHT, Problem(content="What is 3 * 4?"))], engine, "p")
    with pytest.raises(UsageError, match="num_samples must be at least 1"):
        make_verifier("codet:num_samples=0")
    assert await CodeT().score([], engine, "p") == []
