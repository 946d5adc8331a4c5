"""The verifier that runs public tests."""

from __future__ import annotations

import pytest

from reason.engine.scripted import ScriptedEngine
from reason.errors import SandboxUnavailable, UsageError
from reason.sandbox import backends, service
from reason.types import Problem, Review, Step, Trajectory
from reason.verifiers import make_verifier
from reason.verifiers.public_tests import PublicTests
from tests.verifiers.programs import RIGHT, WRONG, doubling, written

ENGINE = ScriptedEngine(["x"])


@pytest.mark.usefixtures("isolation")
class TestInTheSandbox:
    async def review(self, *trajectories: Trajectory, **fields: int) -> list[Review]:
        return await PublicTests(**fields).review(trajectories, ENGINE, "p")

    async def test_scores_are_the_share_of_tests_passed(self) -> None:
        programs = [RIGHT, WRONG, "def f(x):\n    return None\n", "def f(x):\n    return 4\n"]
        trajectories = [written(program) for program in programs]
        scores = await make_verifier("public-tests").score(trajectories, ENGINE, "p")
        assert scores == [1.0, pytest.approx(1 / 3), 0.0, pytest.approx(1 / 3)]
        assert ENGINE.usage("p").calls == 0

    async def test_feedback_says_what_failed(self) -> None:
        (good, bad) = await self.review(written(RIGHT), written(WRONG))
        assert good == Review(1.0, "")
        assert bad.feedback == (
            "1 of 3 tests passed.\n\n"
            "Test: assert f(3) == 6\nAssertionError\nCalls: f(3) returned 5\n\n"
            "Test: assert f(0) == 0\nAssertionError\nCalls: f(0) returned 2"
        )

    async def test_feedback_has_the_traceback(self) -> None:
        (bad,) = await self.review(written("def f(x):\n    return 1 // (x - x)\n"), max_failures=1)
        assert bad.score == 0
        assert bad.feedback.startswith("0 of 3 tests passed.\n\nTest: assert f(2) == 4\nZeroDivisionError: ")
        assert "Calls: f(2) raised ZeroDivisionError: " in bad.feedback
        assert "return 1 // (x - x)" in bad.feedback
        assert "f(3)" not in bad.feedback

    async def test_feedback_is_short(self) -> None:
        noisy = "def f(x):\n    if x == 2:\n        raise ValueError('a' * 100_000)\n    return list(range(100_000))\n"
        (bad,) = await self.review(written(noisy))
        assert bad.score == 0
        assert len(bad.feedback) < 5000

    async def test_an_endless_program_fails(self) -> None:
        (bad,) = await self.review(written("def f(x):\n    while x:\n        pass\n    return 0\n"), seconds=1)
        assert bad.score == pytest.approx(1 / 3)
        assert "It did not end in time." in bad.feedback

    async def test_setup_runs_before_tests(self) -> None:
        problem = doubling(tests=("assert f(2) == half(8)",), setup="def half(x):\n    return x // 2\n")
        assert (await self.review(written(RIGHT, problem)))[0].score == 1

    async def test_a_forged_pass_is_none(self) -> None:
        for forger in (
            "import os\nos._exit(0)\n",
            "class Yes:\n    __eq__ = lambda *_: True\ndef f(x):\n    return Yes()\n",
        ):
            (bad,) = await self.review(written(f"def f(x):\n    pass\n{forger}"))
            assert bad.score == 0


async def test_what_is_no_program_scores_nothing() -> None:
    empty = Trajectory(problem=doubling(), prompt=(1,), steps=())
    prose = Trajectory(problem=doubling(), prompt=(1,), steps=(Step(text="I double it.", tokens=(2,)),), finished=True)
    broken = written("def f(x):\n    return (x *\n", finished=False)
    none, said, cut = await PublicTests().review([empty, prose, broken], ENGINE, "p")
    assert none == said == Review(0.0, "There is no program in the solution.")
    assert cut.score == 0
    assert cut.feedback.startswith("The program is not valid Python.\nLine 2: '(' was never closed\n    return (x *")


async def test_without_tests_there_is_nothing_to_fail() -> None:
    """Rows of HumanEval without examples: evaluations have them too."""
    given = [written(text, doubling(tests=())) for text in (RIGHT, "```python\ndef f(x):\n    return (x *\n```", "no")]
    assert await PublicTests().score(given, ENGINE, "p") == [1.0, 0.0, 0.0]


async def test_refuses_a_problem_that_asks_for_no_program() -> None:
    with pytest.raises(UsageError, match="the problem problem has no public tests"):
        await PublicTests().score([written(RIGHT, Problem(content="What?"))], ENGINE, "p")
    with pytest.raises(UsageError, match="seconds must be at least 1"):
        make_verifier("public-tests:seconds=0")


async def test_refuses_where_programs_cannot_be_isolated(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> backends.Backend:
        raise SandboxUnavailable("programs cannot be isolated here: install bubblewrap")

    monkeypatch.setattr(backends, "find", nowhere)
    monkeypatch.setattr(service, "_shared", None)
    monkeypatch.setattr(service, "_unsafe_allowed", False)
    with pytest.raises(SandboxUnavailable, match="install bubblewrap"):
        await PublicTests().score([written(RIGHT)], ENGINE, "p")
