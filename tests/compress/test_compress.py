"""``compress`` from end to end on scripted engines, and what its costs are made of."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from reason.compress import Compression, Compressor, acompress, compress
from reason.compress.compressor import CompressOptions
from reason.compress.costs import EngineCosts, ThoughtPaths, Validator, boxed_answer
from reason.compress.importance import QUESTION_CUE, SOLUTION_CUE
from reason.engine.scripted import ScriptedEngine
from reason.errors import EngineError, UnknownName, UsageError
from reason.types import Problem, Thinking
from tests.compress.conftest import PROBLEM, STEPS, TRACE, FixedScorer

SOLUTION = "It is \\boxed{42}."


def answering(step: str, **options: Any) -> ScriptedEngine:
    """Says 42 where this step stands before, else 41."""

    def script(prefix: str) -> Sequence[str]:
        return ["so \\boxed{42}"] if step in prefix else ["so \\boxed{41}"]

    return ScriptedEngine(script, **options)


def test_the_answer_validates(scorer: FixedScorer) -> None:
    """B, H and N matter; the answer comes with N."""
    engine = answering("Step N.", logprob=-0.5)
    done = compress(PROBLEM, TRACE, SOLUTION, engine, scorer, k_min=1)
    assert (done.ended, done.accepted, done.answer) == ("validated", True, "42")
    assert done.kept == (0, 1, 2, 6, 7, 8, 12, 13, 14)
    assert done.text == "\n\n".join(STEPS[place] for place in done.kept)
    assert done.steps == STEPS
    assert done.importance[1] == 9.0
    assert (done.model, done.scorer, done.problem) == ("scripted", "fixed", "problem")
    assert scorer.read == [(PROBLEM, QUESTION_CUE), (SOLUTION, SOLUTION_CUE)]
    assert [move.kind for move in done.record] == ["start", "expand", "validate", "expand", "validate"]
    assert done.tokens_before == 16 * len("Step A.\n\n")
    assert done.tokens_after == 9 * len("Step A.\n\n")
    candidate = done.record[1].candidates[0]
    assert (candidate.centre, candidate.g, candidate.h) == pytest.approx((7, 0.05, 0.5))


def test_the_ledger(scorer: FixedScorer) -> None:
    engine = answering("Step N.")
    done = compress(PROBLEM, TRACE, SOLUTION, engine, scorer, k_min=1)
    assert done.usage.calls == 2
    assert done.usage.policy_tokens == 2 * len("so \\boxed{42}")
    step, solution = len("Step A.\n\n"), len(SOLUTION)
    first = (6 * step + solution) + (3 * step + solution)  # H's span after B's; N's after B's, which is known now
    second = (3 * step + solution) + (6 * step + solution)  # N's after those; E's before H's, which is read again
    assert done.usage.verifier_tokens == 2 * 16 * 10 + first + second
    assert done.usage.prompt_tokens > len(PROBLEM)
    assert done.usage.seconds > 0
    assert engine.usage(f"{done.problem}#compress-0").calls == 0  # rows of ended work are forgotten


def test_nothing_suffices(scorer: FixedScorer) -> None:
    done = compress(PROBLEM, TRACE, SOLUTION, ScriptedEngine(["\\boxed{1}", "no idea"]), scorer, k_min=1, k_max=4)
    assert (done.ended, done.accepted) == ("k_max", False)
    assert done.text == "\n\n".join(STEPS)
    assert done.kept == tuple(range(16))
    assert done.tokens_after == done.tokens_before


def test_what_is_not_checked(scorer: FixedScorer) -> None:
    """Without a box in the solution, or without a validator, the state at k_min is taken."""
    for solution, validator in (("It is 42.", "model"), (SOLUTION, None)):
        engine = ScriptedEngine([])
        done = compress(PROBLEM, TRACE, solution, engine, scorer, validator=validator, k_min=2)  # type: ignore[arg-type]
        assert (done.ended, done.answer, done.usage.calls) == ("unchecked", None, 0)
        assert len(done.kept) == 9


def test_the_solution_may_stand_in_the_trace(scorer: FixedScorer) -> None:
    done = compress(PROBLEM, TRACE, None, answering("Step B."), scorer, k_min=0)
    assert (done.ended, done.kept) == ("validated", (0, 1, 2))
    assert scorer.read[1][0] == "So it is \\boxed{42}."


def test_another_engine_validates(scorer: FixedScorer) -> None:
    judge = answering("Step H.")
    done = compress(PROBLEM, TRACE, SOLUTION, ScriptedEngine([]), scorer, validator=judge, k_min=0)
    assert (done.ended, len(done.kept), done.usage.calls) == ("validated", 6, 2)


@pytest.mark.parametrize(
    ("solution", "sample", "same"),
    [
        ("\\boxed{\\frac{1}{2}}", "so \\boxed{0.5}", True),
        ("\\boxed{\\frac{\\sqrt{3}}{2}}", "\\boxed{\\frac{\\sqrt{3}}{2}}", True),
        ("\\boxed{\\frac{1}{2}}", "so \\boxed{\\frac{1}{3}}", False),
        ("first \\boxed{1}, no: \\boxed{2}", "The answer is 2.", True),
        ("\\boxed{2}", "x = 2", False),  # a number that is merely the last one
        ("\\boxed{2}", "", False),
    ],
)
def test_answers(scorer: FixedScorer, solution: str, sample: str, same: bool) -> None:
    done = compress(PROBLEM, TRACE, solution, ScriptedEngine([sample]), scorer, k_min=0, k_max=1)
    assert done.ended == ("validated" if same else "k_max")


def test_boxes_nest() -> None:
    assert boxed_answer("\\boxed{1} and \\boxed{\\frac{1}{\\sqrt{2}}}") == "\\frac{1}{\\sqrt{2}}"
    assert boxed_answer("none, 42") is None


def test_a_problems_own_answers(scorer: FixedScorer) -> None:
    problem = Problem(
        content=({"role": "system", "content": "Be brief."}, {"role": "user", "content": PROBLEM}),
        id="mine",
        extract=lambda text: text[-2:],
        equivalent=lambda a, b: a.lower() == b.lower(),
        step_delimiter=";",
    )
    done = compress(problem, "a;b;c;d", "... AB", ScriptedEngine(["then ab"]), scorer, k_min=0)
    assert (done.ended, done.text, done.answer, done.problem) == ("validated", "a;b", "AB", "mine")
    assert scorer.read[0][0] == PROBLEM


def test_json(scorer: FixedScorer) -> None:
    done = compress(PROBLEM, TRACE, SOLUTION, answering("Step N."), scorer, k_min=1)
    row = json.loads(json.dumps(done.as_dict()))
    assert row["record"][0] == {"kind": "start", "k": 0, "size": 3, "centre": 1}
    assert row["record"][-1] == {"kind": "validate", "k": 2, "size": 9, "suffices": True}
    assert row["usage"]["calls"] == 2
    assert set(row) == set(Compression.__slots__)


async def test_inside_a_running_loop_and_at_once(scorer: FixedScorer) -> None:
    engine = answering("Step N.", delay=0.001)
    compressor = Compressor(engine, scorer)
    problems = [Problem(content=PROBLEM, id=f"p{place}") for place in range(3)]
    one, *others = await asyncio.gather(*(compressor.acompress(p, TRACE, SOLUTION, k_min=1) for p in problems))
    assert [(each.kept, each.usage.calls) for each in others] == [(one.kept, one.usage.calls)] * 2
    assert compressor.compress(PROBLEM, TRACE, SOLUTION, k_min=1).kept == one.kept
    assert (await acompress(PROBLEM, TRACE, SOLUTION, engine, scorer, k_min=1)).kept == one.kept
    compressor.close()
    assert engine.usage("x").calls == 0  # the caller's engine is still open


def test_samples_depend_on_the_seed_and_the_problem(scorer: FixedScorer) -> None:
    seen: list[tuple[int, int]] = []

    class Watched(ScriptedEngine):
        async def _answer(self, request: Any, index: int) -> Any:
            assert (request.sampling.temperature, request.sampling.top_p, request.max_tokens) == (0.6, 0.95, 1024)
            seen.append((request.seed, request.key))
            return await super()._answer(request, index)

    for seed, name in ((0, "a"), (0, "a"), (1, "a"), (0, "b")):
        problem = Problem(content=PROBLEM, id=name)
        compress(problem, TRACE, SOLUTION, Watched(["\\boxed{1}"]), scorer, k_min=0, k_max=2, seed=seed)
    runs = [seen[place : place + 2] for place in range(0, 8, 2)]
    assert runs[0] == runs[1]
    assert [key for _, key in runs[0]] == [0, 1]
    assert len({run[0][0] for run in runs}) == 3


def test_an_engine_that_fails(scorer: FixedScorer) -> None:
    with pytest.raises(EngineError, match="failed on purpose"):
        compress(PROBLEM, TRACE, SOLUTION, Failing([]), scorer, k_min=0)


class Failing(ScriptedEngine):
    """Fails to generate."""

    async def _answer(self, request: Any, index: int) -> Any:
        from reason.types import Completion

        error = EngineError("failed on purpose")
        return Completion(index=index, token_ids=(), text="", finish_reason="error", error=error)


def test_what_is_refused(scorer: FixedScorer) -> None:
    engine = ScriptedEngine([])
    for problem, trace, solution, message in (
        ("", TRACE, SOLUTION, "the problem is empty"),
        (PROBLEM, " \n", SOLUTION, "the trace has no steps"),
        (PROBLEM, "<think></think>\\boxed{42}", SOLUTION, "the trace has no steps"),
        (PROBLEM, "only thought", None, "there is no reference solution"),
        (PROBLEM, TRACE, " ", "there is no reference solution"),
    ):
        with pytest.raises(UsageError, match=message):
            compress(problem, trace, solution, engine, scorer)
    with pytest.raises(UsageError, match="with an engine give a scorer"):
        compress(PROBLEM, TRACE, model=engine)
    with pytest.raises(UsageError, match="validator must be 'model', an engine or None, got 'yes'"):
        compress(PROBLEM, TRACE, model=engine, scorer=scorer, validator="yes")  # type: ignore[arg-type]
    with pytest.raises(UnknownName, match=r"unknown option of compress 'kmin'\. Did you mean 'k_min'"):
        compress(PROBLEM, TRACE, model=engine, scorer=scorer, kmin=3)
    with pytest.raises(UsageError, match="validator_tokens must be at least 1"):
        CompressOptions(validator_tokens=0)


# -- costs -----------------------------------------------------------------------------------------------------------


def by_place(prefix: str, token: str) -> float:
    """A log-probability for every place: nothing cancels by chance."""
    return -((len(prefix) * 7919 + sum(map(ord, token)) * 31 + sum(map(ord, prefix[-40:]))) % 97) / 50 - 0.01


async def test_costs_are_means_over_tokens() -> None:
    """Against the sums of each path by itself, whatever was asked before."""
    steps = ("One.", "Two, äh.", "3", "Four")
    engine = ScriptedEngine([], logprob=by_place)
    problem = Problem(content=PROBLEM)
    paths = ThoughtPaths(engine.codec, problem, steps)
    costs = EngineCosts(engine, paths, SOLUTION, validator=None, owner="test")
    prompt = engine.codec.decode(paths.prompt)
    for state in ((0, 1), (0, 1, 3), (0, 1, 2, 3), (1, 3), (0, 1, 3), (0, 1)):
        [found] = await costs.costs([state])
        thought = "".join(steps[place] + "\n\n" for place in state).encode()
        whole = prompt.encode() + thought + SOLUTION.encode()
        begin = len(prompt.encode())
        rows = [by_place(decode(whole[:at]), decode(whole[at : at + 1])) for at in range(begin, len(whole))]
        assert found.thought == pytest.approx(-sum(rows[: len(thought)]) / len(thought))
        assert found.solution == pytest.approx(-sum(rows[len(thought) :]) / len(SOLUTION))
    before = engine.usage("test").verifier_tokens
    await costs.costs([(0, 1, 3)])
    assert engine.usage("test").verifier_tokens - before == len(SOLUTION)  # the thought is known


def decode(data: bytes) -> str:
    return data.decode(errors="replace")


def test_paths_of_models_that_mark_their_thinking() -> None:
    problem = Problem(content=PROBLEM)
    plain = ThoughtPaths(ScriptedEngine([]).codec, problem, STEPS)
    codec = ScriptedEngine([], thinking=Thinking(start="<think>", end="</think>", end_token=999)).codec
    paths = ThoughtPaths(codec, problem, STEPS)
    prompt = codec.decode(plain.prompt)
    assert codec.decode(plain.path((0, 2))) == f"{prompt}Step A.\n\nStep C.\n\n"
    assert codec.decode(paths.path((0, 2))) == f"{prompt}<think>\nStep A.\n\nStep C.\n\n</think>\n\n"
    opened = Problem(content=({"role": "user", "content": PROBLEM}, {"role": "assistant", "content": "<think>\n"}))
    path = ThoughtPaths(Opening(codec), opened, STEPS).path((0,))
    assert codec.decode(path).count("<think>") == 1


class Opening:
    """A codec whose template opens the thinking."""

    def __init__(self, codec: Any) -> None:
        self._codec = codec

    def __getattr__(self, name: str) -> Any:
        return getattr(self._codec, name)

    def encode_chat(self, messages: Any, *, continue_final: bool = False, tools: Any = ()) -> Any:
        return self._codec.encode("user: ...<think>\n")


async def test_a_validator_takes_a_new_sample_each_time() -> None:
    engine = ScriptedEngine(["\\boxed{1}", "\\boxed{2}", "\\boxed{3}"])
    paths = ThoughtPaths(engine.codec, Problem(content=PROBLEM), STEPS)
    validator = Validator(engine, paths, "2")
    assert [await validator.suffices((0, 1)) for _ in range(4)] == [False, True, False, False]
