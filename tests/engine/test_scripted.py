"""ScriptedEngine keeps to the Engine protocol."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, cast

import pytest
import torch

from reason.engine.scripted import ByteCodec, ScriptedEngine
from reason.errors import EngineClosed, UsageError
from reason.types import Completion, Engine, Message, Request, Sampling


def ask(text: str, **changes: Any) -> Request:
    return Request(**({"prefix": ByteCodec().encode(text), "owner": "p"} | changes))


async def finish(engine: Engine, *requests: Request) -> list[Completion]:
    done = [completion async for completion in engine.generate(requests)]
    return sorted(done, key=lambda completion: completion.index)


def test_it_is_an_engine() -> None:
    engine: Engine = ScriptedEngine(["x"])
    assert isinstance(engine, Engine)
    assert engine.name == "scripted"


def test_the_codec() -> None:
    codec = ByteCodec()
    assert codec.decode(codec.encode("数 🙂")) == "数 🙂"
    assert codec.decode((97, 256, 98)) == "ab"
    assert codec.decode("é".encode()[:1]) == "\ufffd"
    chat = [Message(role="user", content="hi"), Message(role="assistant", content="so")]
    assert codec.decode(codec.encode_chat(chat)) == "<user>hi<assistant>so<assistant>"
    assert codec.decode(codec.encode_chat(chat, continue_final=True)) == "<user>hi<assistant>so"


async def test_keys_pick_the_continuation() -> None:
    engine = ScriptedEngine(["zero", "one", "two"])
    done = await finish(engine, *(ask("q", key=key) for key in (4, 0, 2)))
    assert [c.text for c in done] == ["one", "zero", "two"]
    assert [c.index for c in done] == [0, 1, 2]
    assert {c.finish_reason for c in done} == {"eos"}
    assert [c.token_ids for c in done] == [tuple(c.text.encode()) for c in done]


@pytest.mark.parametrize(
    "script",
    [
        {"end": ["short"], "the end": ["long"], "": ["anything"]},
        lambda prefix: ["long"] if prefix.endswith("the end") else ["short" if prefix.endswith("end") else "anything"],
    ],
)
async def test_scripts(script: Mapping[str, Sequence[str]]) -> None:
    done = await finish(ScriptedEngine(script), ask("the end"), ask("an end"), ask("other"))
    assert [c.text for c in done] == ["long", "short", "anything"]


async def test_stop_strings_and_lengths() -> None:
    engine = ScriptedEngine(["first, second; third"])
    done = await finish(
        engine,
        ask("q", stop=(";", ", ")),
        ask("q", stop=("fourth",)),
        ask("q", max_tokens=5),
        ask("q", max_tokens=8, stop=(", ",)),
        ask("q", max_tokens=6, stop=(", ",)),
    )
    assert [(c.text, c.finish_reason, c.stopped_on) for c in done] == [
        ("first", "stop", ", "),
        ("first, second; third", "eos", None),
        ("first", "length", None),
        ("first", "stop", ", "),
        ("first,", "length", None),
    ]
    assert [len(c.token_ids) for c in done] == [7, 20, 5, 7, 6]


async def test_the_ledger() -> None:
    engine = ScriptedEngine(["four", "sixsix"])
    await finish(engine, ask("q", key=0), ask("q", key=1), ask("q", owner="other"))
    usage = engine.usage("p")
    assert (usage.calls, usage.policy_tokens) == (2, 10)
    usage.calls = 7  # a copy
    assert engine.usage("p").calls == 2
    assert engine.usage("other").policy_tokens == 4
    assert engine.usage("nobody").calls == 0


async def test_scores_and_logprobs() -> None:
    engine = ScriptedEngine(["abc"], logprob=-0.5)
    (done,) = await finish(engine, ask("q", sampling=Sampling(logprobs=2)))
    assert [row.token for row in done.logprobs] == [-0.5] * 3
    assert (await finish(engine, ask("q")))[0].logprobs == ()
    scored = await engine.score([(1, 2, 3), (1, 2)], 1, owner="v")
    assert [s.logprobs.tolist() for s in scored] == [[-0.5, -0.5], [-0.5]]
    assert scored[0].logprobs.dtype == torch.float32
    assert engine.usage("v").verifier_tokens == 3
    with pytest.raises(UsageError, match="no hidden states"):
        await engine.score([(1, 2)], 0, layers=(-1,))


@pytest.mark.parametrize("start", [-1, 2])
async def test_scores_need_a_start_inside_the_path(start: int) -> None:
    with pytest.raises(UsageError, match="start must be in"):
        await ScriptedEngine(["x"]).score([(1, 2, 3), (1, 2)], start)


async def test_a_delay_shows_progress_of_what_is_unfinished() -> None:
    engine = ScriptedEngine(["abcdef", "ab"], delay=0.01)
    seen: list[Mapping[int, str]] = []
    order: list[int] = []

    async def watch() -> None:
        while len(order) < 2:
            seen.append(engine.progress("p"))
            await asyncio.sleep(0.005)

    watching = asyncio.ensure_future(watch())
    async for completion in engine.generate([ask("q", key=0), ask("q", key=1)]):
        assert completion.index not in engine.progress("p")
        order.append(completion.index)
    await watching
    assert order == [1, 0]
    texts = [frame[0] for frame in seen if 0 in frame]
    assert texts == sorted(texts, key=len)
    assert all("abcdef".startswith(text) for text in texts)
    assert len(set(texts)) > 2
    assert engine.progress("p") == engine.progress("nobody") == {}


async def test_a_request_that_fails_fails_alone() -> None:
    def script(prefix: str) -> list[str]:
        if prefix == "bug":
            raise ZeroDivisionError("on purpose")
        return [] if prefix == "empty" else ["fine"]

    done = await finish(ScriptedEngine(script), ask("empty"), ask("ok"), ask("bug"))
    assert [c.finish_reason for c in done] == ["error", "eos", "error"]
    assert isinstance(done[0].error, UsageError)
    assert isinstance(done[2].error, ZeroDivisionError)
    (unknown,) = await finish(ScriptedEngine({"a": ["x"]}), ask("b"))
    assert unknown.error is not None
    assert "no continuation for a prefix ending in 'b'" in str(unknown.error)


async def test_closing_the_iterator_cancels() -> None:
    engine = ScriptedEngine(["x" * 1000, "y"], delay=0.01)
    stream = engine.generate([ask("q", key=0), ask("q", key=1)])
    assert (await anext(stream)).text == "y"
    await cast(Any, stream).aclose()
    assert engine.progress("p") == {}
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert 2 <= engine.usage("p").policy_tokens < 10  # what was drawn before counts


async def test_a_closed_engine_says_so() -> None:
    engine = ScriptedEngine(["x"])
    engine.close()
    engine.close()
    with pytest.raises(EngineClosed):
        await finish(engine, ask("q"))
    with pytest.raises(EngineClosed):
        await engine.score([(1,)], 0)
