"""The judge over a real forward: its scores are the model's, and its price is the question's."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import torch

from reason.engine.local import LocalEngine
from reason.types import Message, Path, Problem, Request, Sampling, Step, Trajectory
from reason.verifiers import VERIFIERS, make_verifier
from reason.verifiers.judge import Judge

if TYPE_CHECKING:
    from tests.engine.conftest import Finish, MakeEngine, MakePrompts

Rows = Callable[..., tuple[torch.Tensor, torch.Tensor]]

JUDGE = Judge(question="is it right?", yes=("y", " y", "!"), no=("n",))


def trajectory(prompt: Path, *steps: Path) -> Trajectory:
    return Trajectory(
        problem=Problem(content="?"), prompt=prompt, steps=tuple(Step(text="", tokens=tokens) for tokens in steps)
    )


def question(engine: LocalEngine) -> Path:
    return engine.codec.encode_turn([Message(role="user", content=JUDGE.question)])


def expected(engine: LocalEngine, path: Path, rows: Rows) -> float:
    """From transformers' logits after the path and the question."""
    probabilities = torch.softmax(rows(path + question(engine))[0][-1].double(), dim=-1)
    tokens = {words: {engine.codec.encode(word) for word in words} for words in (JUDGE.yes, JUDGE.no)}
    yes, no = (
        sum(float(probabilities[token[0]]) for token in tokens[words] if len(token) == 1)
        for words in (JUDGE.yes, JUDGE.no)
    )
    return yes / (yes + no)


async def test_scores_are_the_models(make_engine: MakeEngine, prompts: MakePrompts, rows: Rows) -> None:
    paths = [prompt[:9] + (50 + i,) * i for i, prompt in enumerate(prompts(5, 12))]
    for max_rows in (512, 7):
        engine = make_engine(max_rows=max_rows)
        together = await JUDGE.score([trajectory(path[:4], path[4:8], path[8:]) for path in paths], engine, "p")
        assert together == pytest.approx([expected(engine, path, rows) for path in paths], abs=1e-5)
        for path, score in zip(paths, together, strict=True):
            assert await JUDGE.score([trajectory(path)], engine, "p") == [pytest.approx(score, abs=1e-5)]


async def test_a_verdict_costs_the_question_not_the_path(
    make_engine: MakeEngine, prompts: MakePrompts, finish: Finish, rows: Rows
) -> None:
    engine = make_engine(eos=())
    (prompt,) = prompts(1, 60)
    request = Request(prefix=prompt, sampling=Sampling(temperature=1.0), max_tokens=100, owner="p")
    (done,) = await finish(engine, [request])
    path = prompt + done.token_ids
    before = engine.usage("p")
    (score,) = await JUDGE.score([trajectory(prompt, done.token_ids)], engine, "p")
    after = engine.usage("p")
    assert score == pytest.approx(expected(engine, path, rows), abs=1e-5)
    turn = len(question(engine))
    assert turn <= after.verifier_tokens <= turn + 8  # the path's last token, and a row for each spelling
    assert after.forwards == before.forwards + 1  # all spellings in one
    assert after.policy_tokens == before.policy_tokens
    await JUDGE.score([trajectory(prompt, done.token_ids)], engine, "p")
    assert engine.usage("p").verifier_tokens - after.verifier_tokens <= 4  # the question is cached too
    assert len(path) == 160


async def test_a_turn_that_has_ended_is_not_ended_again(
    make_engine: MakeEngine, prompts: MakePrompts, rows: Rows
) -> None:
    engine = make_engine()
    (prompt,) = prompts(1, 12)
    (end,) = engine.codec.eos_token_ids
    assert question(engine)[0] == end
    open_end, ended = await JUDGE.score([trajectory(prompt), trajectory(prompt, (end,))], engine, "p")
    assert open_end == pytest.approx(expected(engine, prompt, rows), abs=1e-5)
    assert ended == pytest.approx(open_end, abs=1e-6)


OTHERS = {
    "value-prompt",  # needs words
    "codet",  # is about programs, as is
    "public-tests",
    "tools",  # answers calls
    "head",  # needs a trained head: test_engine_value_head
}


@pytest.mark.parametrize("name", sorted(VERIFIERS.keys() - OTHERS))
async def test_every_verifier_scores_what_the_engine_records(
    make_engine: MakeEngine, prompts: MakePrompts, finish: Finish, name: str
) -> None:
    engine, verifier = make_engine(), make_verifier(name)
    sampling = Sampling(temperature=1.0, logprobs=verifier.top_logprobs, statistics=verifier.statistics)
    requests = [Request(prefix=path, sampling=sampling, max_tokens=9) for path in prompts(4)]
    steps = [Step(text=c.text, tokens=c.token_ids, logprobs=c.logprobs) for c in await finish(engine, requests)]
    given = [
        Trajectory(problem=Problem(content="?"), prompt=request.prefix, steps=(step,), answer_class=place % 2)
        for place, (request, step) in enumerate(zip(requests, steps, strict=True))
    ]
    scores = await verifier.score(given, engine, "p")
    assert all(score > 0 for score in scores)
    assert name == "agreement" or len(set(scores)) == 4
    assert not verifier.probability or max(scores) <= 1
    again = [(await verifier.score([one], engine, "p"))[0] for one in given]
    assert name == "agreement" or again == pytest.approx(scores, abs=1e-5)
