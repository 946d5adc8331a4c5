"""CodeT: programs and tests that agree with each other (Chen et al. 2022, https://arxiv.org/abs/2207.10397).

    score(p) = |{programs that pass exactly the tests that p passes}| * |{tests that p passes}|

The model itself writes the tests: the first ``tests_per_sample`` assertions of each sample count, each as often as it
was written. Programs are those given together, each counting itself; the score is relative to them. A program that
passes no test scores 0.

We follow the paper where its program differs, which takes the square root of the number of programs, and depart from
both in leaving the examples in the prompt. Tests are run in the sandbox, all of a program's in one run unless one of
them does not end.

What the tests cost is in the ledger as calls and tokens of the policy; a budget cannot know of them beforehand. They
are drawn once in a run, from noise that depends on the problem alone.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from reason.errors import EngineError, UsageError
from reason.tasks.code.inputs import given_inputs
from reason.tasks.code.programs import parsed
from reason.tasks.code.running import start
from reason.types import Engine, Message, Problem, Request, Sampling, Trajectory
from reason.verifiers.public_tests import program_of

__all__ = ["CodeT", "assertions"]

_QUESTION = (
    "{problem}\n\nDo not write the function. Write {count} different tests of it, each on a line of its own as\n"
    "assert {entry_point}(...) == ...\nin one ```python block."
)
_PASSED = re.compile(r"AssertionError: passed ([01]+)")
_ALL = """
_passed = ""
for _test in [{tests}]:
    try:
        _test()
        _passed += "1"
    except Exception:
        _passed += "0"
assert False, "passed " + _passed
"""


@dataclass(frozen=True, kw_only=True)
class CodeT:
    """Args:
    num_samples: texts of tests to draw.
    tests_per_sample: assertions of each that count, from the first on.
    temperature, top_p: of these texts.
    max_tokens: limit of each text.
    """

    name: ClassVar[str] = "codet"
    statistics: ClassVar[bool] = False
    top_logprobs: ClassVar[int | None] = None
    probability: ClassVar[bool] = False

    num_samples: int = 8
    tests_per_sample: int = 5
    temperature: float = 0.8
    top_p: float = 0.95
    max_tokens: int = 300

    def __post_init__(self) -> None:
        for name, least in (("num_samples", 1), ("tests_per_sample", 1), ("temperature", 0), ("max_tokens", 1)):
            if not getattr(self, name) >= least:
                raise UsageError(f"{name} must be at least {least}, got {getattr(self, name)}")

    @cached_property
    def _tests(self) -> dict[tuple[str, str], asyncio.Future[Counter[str]]]:
        """By run and problem."""
        return {}

    def forget(self, owner: str) -> None:
        """The tests of a run that is over, drawn or not."""
        for key in [key for key in self._tests if key[0] == owner]:
            self._tests.pop(key).cancel()

    async def score(self, trajectories: Sequence[Trajectory], engine: Engine, owner: str) -> list[float]:
        """Raises UsageError where the problem asks for no program, EngineError where no test could be generated,
        SandboxUnavailable where programs cannot be run."""
        if not trajectories:
            return []
        problem = trajectories[0].problem
        if problem.entry_point is None:
            raise UsageError(f"the problem {problem.id} asks for no program, which the verifier codet tests")
        tests = await self._tests_of(problem, engine, owner)
        programs = [program_of(trajectory) for trajectory in trajectories]
        distinct = list(dict.fromkeys(program for program in programs if program is not None))
        passed = await asyncio.gather(*(_passed(program, tuple(tests), problem) for program in distinct))
        sets = dict(zip(distinct, passed, strict=True))
        sizes = Counter(sets[program] for program in programs if program is not None)
        weights = {which: sum(tests[test] for test in which) for which in sizes}
        return [
            0.0 if program is None else float(sizes[sets[program]] * weights[sets[program]]) for program in programs
        ]

    async def _tests_of(self, problem: Problem, engine: Engine, owner: str) -> Counter[str]:
        """Drawn once for a run, also where two measurements ask at a time."""
        key = owner, problem.id
        if key not in self._tests:
            self._tests[key] = asyncio.ensure_future(self._draw(problem, engine, owner))
        drawing = self._tests[key]
        try:
            return await asyncio.shield(drawing)
        except asyncio.CancelledError:  # another may wait for it still
            raise
        except BaseException:
            self._tests.pop(key, None)
            raise

    async def _draw(self, problem: Problem, engine: Engine, owner: str) -> Counter[str]:
        entry_point = problem.entry_point or ""
        path = engine.codec.encode_chat(self._messages(problem))
        seed = int.from_bytes(hashlib.blake2b(repr(path).encode(), digest_size=7).digest(), "big")
        sampling = Sampling(temperature=self.temperature, top_p=self.top_p)
        requests = [
            Request(prefix=path, seed=seed, key=key, sampling=sampling, max_tokens=self.max_tokens, owner=owner)
            for key in range(self.num_samples)
        ]
        texts = ["" for _ in requests]
        async for completion in engine.generate(requests):
            if completion.finish_reason in ("error", "cancelled"):
                raise EngineError(f"the codet verifier got no tests: {completion.error or completion.finish_reason}")
            texts[completion.index] = completion.text
        return Counter(test for text in texts for test in assertions(text, entry_point)[: self.tests_per_sample])

    def _messages(self, problem: Problem) -> list[Message]:
        text = problem.question if problem.question is not None else str(problem.content)
        asked = _QUESTION.replace("{count}", str(self.tests_per_sample))
        asked = asked.replace("{entry_point}", problem.entry_point or "").replace("{problem}", text.strip())
        return [Message(role="user", content=asked)]


def assertions(text: str, entry_point: str) -> list[str]:
    """The distinct assertions of a text that call the function, one a line or over several, in its order."""
    found: list[str] = []
    lines = text.splitlines()
    for place, line in enumerate(lines):
        if not line.strip().startswith("assert "):
            continue
        for end in range(place + 1, min(place + 8, len(lines)) + 1):
            test = "\n".join([line.strip(), *lines[place + 1 : end]])
            tree = parsed(test)
            if tree is not None:
                with contextlib.suppress(RecursionError, ValueError):  # too deep, or a number too long
                    calls = isinstance(tree.body[0], ast.Assert) and given_inputs([test], entry_point)
                    found += [ast.unparse(tree)] if calls and len(tree.body) == 1 else []
                break
    return list(dict.fromkeys(found))


async def _passed(program: str, tests: tuple[str, ...], problem: Problem) -> tuple[str, ...]:
    """The tests that a program passes: in one run or, where it does not come to its end, in one for each."""
    if not tests or parsed(program) is None:
        return ()

    async def run(*texts: str) -> list[tuple[bool, str]]:
        verdicts = await start(program, texts, entry_point=problem.entry_point, setup=problem.setup)
        return [(verdict.passed, verdict.message) for verdict in verdicts]

    functions = [f"def _test{number}():\n    {_indented(test)}" for number, test in enumerate(tests)]
    names = ", ".join(f"_test{number}" for number in range(len(tests)))
    ((_, message),) = await run("\n".join([*functions, _ALL.replace("{tests}", names)]))
    if found := _PASSED.match(message):
        return tuple(test for test, passed in zip(tests, found[1], strict=True) if passed == "1")
    return tuple(test for test, (passed, _) in zip(tests, await run(*tests), strict=True) if passed)


def _indented(test: str) -> str:
    return test.replace("\n", "\n    ")
