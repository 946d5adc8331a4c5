"""A server that is there: ``REASON_TEST_BASE_URL`` says where, ``REASON_TEST_MODEL`` and ``REASON_TEST_TOKENIZER``
which model, ``REASON_TEST_SERVER`` of what kind it is. Without the first everything is skipped."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from reason.api import Solver
from reason.engine.remote import RemoteEngine
from reason.types import Completion, Message, Path, Request, Sampling

ADDRESS = os.environ.get("REASON_TEST_BASE_URL", "")

pytestmark = [
    pytest.mark.weights,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not ADDRESS, reason="no server: set REASON_TEST_BASE_URL"),
]


@pytest.fixture(scope="module")
def engine() -> Iterator[RemoteEngine]:
    made = RemoteEngine(
        ADDRESS,
        os.environ.get("REASON_TEST_MODEL"),
        tokenizer=os.environ.get("REASON_TEST_TOKENIZER"),
        server=os.environ.get("REASON_TEST_SERVER", "auto"),
    )
    yield made
    made.close()


async def finish(engine: RemoteEngine, *requests: Request) -> list[Completion]:
    done = [each async for each in engine.generate(requests)]
    assert [each.error for each in done] == [None] * len(requests)
    return sorted(done, key=lambda each: each.index)


def prompt(engine: RemoteEngine) -> Path:
    content = "Tell a story of a fox that learns to count."
    return engine.codec.encode_chat([Message(role="user", content=content)])


async def test_lengths_and_stops(engine: RemoteEngine) -> None:
    """Whatever the model says, it says the same up to a word in the middle of it."""
    path, greedy = prompt(engine), Sampling(temperature=0.0)
    (whole,) = await finish(engine, Request(prefix=path, max_tokens=24, sampling=greedy))
    stop = max(whole.text[: -len(whole.text) // 4].split(), key=len)
    (cut,) = await finish(engine, Request(prefix=path, max_tokens=4, sampling=greedy, owner="p"))
    (stopped,) = await finish(engine, Request(prefix=path, max_tokens=24, sampling=greedy, stop=(stop,), owner="p"))
    assert (cut.finish_reason, len(cut.token_ids)) == ("length", 4)
    assert whole.text.startswith(cut.text)
    assert (stopped.finish_reason, stopped.stopped_on) == ("stop", stop)
    assert stopped.text == whole.text[: whole.text.find(stop)]
    assert stop in engine.codec.decode(stopped.token_ids)
    assert engine.usage("p").policy_tokens == len(cut.token_ids) + len(stopped.token_ids)


async def test_a_path_is_gone_on_with(engine: RemoteEngine) -> None:
    if engine.server.api == "chat" and engine.server.continuing == "none":
        pytest.skip("this server's chat API does not")
    path, greedy = prompt(engine), Sampling(temperature=0.0)
    (whole,) = await finish(engine, Request(prefix=path, max_tokens=24, sampling=greedy))
    (first,) = await finish(engine, Request(prefix=path, max_tokens=8, sampling=greedy))
    (second,) = await finish(engine, Request(prefix=path + first.token_ids, max_tokens=2, sampling=greedy))
    assert second.text
    assert whole.text.startswith(first.text + second.text)  # not for long: rounding decides ties another way


async def test_samples_differ(engine: RemoteEngine) -> None:
    path = prompt(engine)
    drawn = await finish(engine, *(Request(prefix=path, max_tokens=24, key=key, seed=1) for key in range(4)))
    assert len({each.text for each in drawn}) > 1


async def test_logprobs(engine: RemoteEngine) -> None:
    if not engine.capabilities.logprobs:
        pytest.skip("this server tells none")
    (done,) = await finish(engine, Request(prefix=prompt(engine), max_tokens=8, sampling=Sampling(logprobs=2)))
    assert len(done.logprobs) == len(done.token_ids)
    assert all(row.token <= 0 for row in done.logprobs)
    if engine.capabilities.score:
        path = prompt(engine)
        (scored,) = await engine.score([path + done.token_ids], len(path))
        assert scored.logprobs.tolist() == pytest.approx([row.token for row in done.logprobs], abs=0.3)


def test_searches(engine: RemoteEngine) -> None:
    solver = Solver(engine=engine)
    assert solver.solve("What is 12 times 12?", num_samples=3, max_tokens=200).candidates
    if engine.server.api != "chat" or engine.server.continuing != "none":
        assert solver.solve("What is 12 times 12?", "beam", width=4, beam_width=2, max_tokens=200).candidates
