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
    content = "Count from one to ten in words, with a comma and a blank between two words."
    return engine.codec.encode_chat([Message(role="user", content=content)])


async def test_lengths_and_stops(engine: RemoteEngine) -> None:
    path, greedy = prompt(engine), Sampling(temperature=0.0)
    cut, stopped = await finish(
        engine,
        Request(prefix=path, max_tokens=4, sampling=greedy, owner="p"),
        Request(prefix=path, max_tokens=60, sampling=greedy, stop=(",",), owner="p"),
    )
    assert (cut.finish_reason, len(cut.token_ids)) == ("length", 4)
    assert (stopped.finish_reason, stopped.stopped_on) == ("stop", ",")
    assert "," not in stopped.text
    assert "," in engine.codec.decode(stopped.token_ids)
    assert engine.usage("p").policy_tokens == len(cut.token_ids) + len(stopped.token_ids)


async def test_a_path_is_gone_on_with(engine: RemoteEngine) -> None:
    if engine.server.api == "chat" and engine.server.continuing == "none":
        pytest.skip("this server's chat API does not")
    path, greedy = prompt(engine), Sampling(temperature=0.0)
    (first,) = await finish(engine, Request(prefix=path, max_tokens=40, sampling=greedy, stop=("four",)))
    (second,) = await finish(engine, Request(prefix=path + first.token_ids, max_tokens=20, sampling=greedy))
    assert "five" in second.text.lower()
    assert "one" not in second.text.lower()


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
