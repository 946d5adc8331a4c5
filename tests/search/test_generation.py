"""Limits on thinking, and steps' texts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reason.api import Solver
from reason.engine.scripted import ByteCodec, ScriptedEngine
from reason.errors import EngineClosed, UsageError
from reason.search.generation import generate, split_steps, step_text
from reason.types import Completion, Path, Problem, Request, Step, Thinking, TokenLogprobs

END = 1  # the byte that stands for </think>
MARKS = Thinking(start="<think>", end=chr(END), end_token=END)


def thinker(texts: dict[str, list[str]]) -> ScriptedEngine:
    return ScriptedEngine(texts, thinking=MARKS)


def complete(engine: ScriptedEngine, prefix: str, limit: int | None, max_tokens: int = 100) -> tuple[str, int, str]:
    request = Request(prefix=engine.codec.encode(prefix), max_tokens=max_tokens)
    done = asyncio.run(generate(engine, request, max_thinking_tokens=limit))
    return engine.codec.decode(done.completion.token_ids), done.num_generated, done.completion.finish_reason


LONG = "<think>" + "hm " * 50
SCRIPT = {"<assistant>": [LONG], f"{chr(END)}\n\n": ["so \\boxed{4}"], "hm": ["hm " * 50]}


def test_thinking_ends_at_its_limit_and_the_answer_follows() -> None:
    text, generated, reason = complete(thinker(SCRIPT), "<user>2+2?<assistant>", 20)
    thought = LONG[:20]
    assert text == f"{thought}\n{chr(END)}\n\nso \\boxed{{4}}"
    assert generated == 20 + len("so \\boxed{4}")  # what was put into its mouth was not generated
    assert reason == "eos"


def test_thinking_that_ends_in_time_is_left_alone() -> None:
    text = f"<think>hm{chr(END)}4"
    assert complete(thinker({"<assistant>": [text]}), "<assistant>", 20) == (text, len(text), "eos")


def test_what_was_thought_on_the_path_counts() -> None:
    engine = thinker(SCRIPT)
    text, _, _ = complete(engine, "<assistant><think>0123456789hm", 20)
    assert text.startswith(("hm " * 3)[:8] + "\n" + chr(END))


def test_no_limit_no_thinking_and_thinking_that_is_over() -> None:
    whole = LONG[:100]
    assert complete(thinker(SCRIPT), "<assistant>", None)[0] == whole
    assert complete(ScriptedEngine(SCRIPT), "<assistant>", 20)[0] == whole
    over = f"<assistant><think>x{chr(END)}hm"
    assert complete(thinker(SCRIPT), over, 20)[0] == ("hm " * 50)[:100]


def test_a_model_that_does_not_think_this_time_is_not_cut() -> None:
    script = {"<assistant>": ["a plain answer that is longer than the limit"], "that": [" goes on"]}
    text, generated, _ = complete(thinker(script), "<assistant>", 19)
    assert chr(END) not in text
    assert generated == len(text)


def test_the_tokens_limit_stays_the_last_word() -> None:
    text, generated, reason = complete(thinker(SCRIPT), "<assistant>", 20, max_tokens=25)
    assert (generated, reason) == (25, "length")
    assert text.endswith("so \\b")
    assert complete(thinker(SCRIPT), "<assistant>", 20, max_tokens=20)[1:] == (20, "length")


def test_a_search_with_a_limit_on_thinking() -> None:
    with Solver(engine=thinker(SCRIPT)) as solver:
        problem = Problem(content="2+2?", equivalent=lambda a, b: a == b)
        run = solver.start(problem, num_samples=2, max_thinking_tokens=20)
        solution = asyncio.run(run.solve())
    assert solution.answer == "4"
    assert [candidate.num_tokens for candidate in solution.candidates] == [32, 32]
    assert solution.usage.policy_tokens == 64
    with pytest.raises(UsageError, match="max_thinking_tokens must be at least 1, got 0"):
        solver.start("x", max_thinking_tokens=0)


def test_each_turn_thinks_by_itself() -> None:
    """Refinements are turns after an answer whose thinking is over: theirs has the same limit."""

    def script(prefix: str) -> list[str]:
        turn = prefix.rpartition("<user>")[2].rpartition("<assistant>")[2]
        if chr(END) in turn:
            return ["so \\boxed{4}"]
        return [LONG[len(turn) :]] if turn else [LONG + chr(END) + "so \\boxed{4}"]

    with Solver(engine=ScriptedEngine(script, thinking=MARKS)) as solver:
        problem = Problem(content="2+2?", equivalent=lambda a, b: a == b)
        fields: dict[str, Any] = {"num_samples": 12, "in_flight": 1, "verifier": "logprob"}
        run = solver.start(problem, "ab-mcts", max_thinking_tokens=20, **fields)
        asyncio.run(run.solve())
    thought = {node.text.partition(chr(END))[0] for node in run.tree.nodes[1:]}
    assert thought == {LONG[:20] + "\n"}
    assert any(node.turns_before for node in run.tree.nodes), "there was a refinement"


def test_recorded_rows_stay_one_a_token() -> None:
    async def rows() -> int:
        engine = thinker(SCRIPT)
        from reason.types import Sampling

        request = Request(prefix=engine.codec.encode("<assistant>"), sampling=Sampling(logprobs=0), max_tokens=100)
        done = await generate(engine, request, max_thinking_tokens=20)
        assert len(done.completion.logprobs) == len(done.completion.token_ids)
        return done.num_generated

    assert asyncio.run(rows()) == 32


def test_an_engine_that_says_nothing() -> None:
    class Silent(ScriptedEngine):
        async def generate(self, requests: Sequence[Request]) -> AsyncIterator[Completion]:
            for _ in requests[:0]:
                yield Completion(index=0, token_ids=(), text="", finish_reason="eos")

    with pytest.raises(EngineClosed):
        asyncio.run(generate(Silent(["x"]), Request(prefix=(1,))))


# -- steps ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.text(alphabet="ab \n", min_size=0, max_size=8), min_size=1, max_size=6))
def test_steps_are_cut_after_the_delimiter(pieces: list[str]) -> None:
    codec = ByteCodec()
    text = "\n\n".join(pieces) or "x"
    step = Step(text=text, tokens=codec.encode(text), logprobs=(TokenLogprobs(-1.0),) * len(codec.encode(text)))
    steps = split_steps(codec, step, "\n\n")
    assert "".join(s.text for s in steps) == text
    assert tuple(token for s in steps for token in s.tokens) == step.tokens
    assert all(len(s.logprobs) == len(s.tokens) for s in steps)
    assert all(s.text.endswith("\n\n") for s in steps[:-1])
    assert len(steps) == 1 or all(s.text.strip() for s in steps)


@given(st.text(min_size=1, max_size=12), st.lists(st.integers(1, 5), min_size=1, max_size=20))
def test_the_texts_of_a_path_join_to_the_whole_wherever_it_is_cut(text: str, sizes: list[int]) -> None:
    """Characters of several tokens that a limit cuts in two belong to the node that ends them."""
    codec = ByteCodec()
    tokens: Any = codec.encode(text)
    shown: list[str] = []
    place = 0
    for size in [*sizes, len(tokens)]:
        piece: Path = tokens[place : place + size]
        place += size
        last = place >= len(tokens)
        completion = Completion(
            index=0, token_ids=piece, text=codec.decode(piece), finish_reason="eos" if last else "length"
        )
        shown.append(step_text(codec, tokens[: place - size], "".join(shown), (), completion, open_end=not last))
        if last:
            break
    assert "".join(shown) == text
