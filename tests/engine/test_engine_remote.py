"""RemoteEngine keeps to the Engine protocol, whatever kind of server it asks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from reason.engine.codec import HubCodec
from reason.engine.remote import RemoteEngine
from reason.errors import EngineClosed, OutOfKV, UsageError
from reason.types import Completion, Engine, Message, Path, Request, Sampling
from tests.engine.remote_servers import FakeServer, running

KINDS = ("vllm", "sglang", "llama.cpp", "transformers", "chat", "chat vllm")
TEXT = "first add, then compare; the answer is 12"

Connect = Callable[..., tuple[RemoteEngine, FakeServer]]


@pytest.fixture
def connect(codec: HubCodec) -> Iterator[Connect]:
    """Servers of a kind and engines over them. Those of "chat" are without a tokenizer."""
    open_now: list[Any] = []

    def make(kind: str, script: Any = (TEXT,), *, engine: dict[str, Any] | None = None, **options: Any) -> Any:
        text_only = kind.startswith("chat")
        named = {"chat": "openai", "chat vllm": "vllm"}.get(kind, kind)
        if kind == "chat":
            options.setdefault("completions", False)
        server = FakeServer(script, kind=named, codec=None if text_only else codec, **options)
        server_context = running(server.app)
        address = server_context.__enter__()
        open_now.append(lambda: server_context.__exit__(None, None, None))
        settings: dict[str, Any] = {"backoff": 0.01, "codec": None if text_only else codec}
        if kind == "transformers":
            settings["server"] = kind
        made = RemoteEngine(address, **{**settings, **(engine or {})})
        open_now.append(made.close)
        return made, server

    yield make
    for close in reversed(open_now):
        close()


def prompt(engine: Engine, text: str = "what is 3 times 4?") -> Path:
    return engine.codec.encode_chat([Message(role="user", content=text)])


async def finish(engine: Engine, *requests: Request) -> list[Completion]:
    done = [completion async for completion in engine.generate(requests)]
    return sorted(done, key=lambda completion: completion.index)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_completion(connect: Connect, kind: str) -> None:
    engine, server = connect(kind)
    assert isinstance(engine, Engine)
    assert engine.name == "served"
    path = prompt(engine)
    whole, cut = await finish(
        engine, Request(prefix=path, owner="p", key=1), Request(prefix=path, owner="p", key=2, max_tokens=3)
    )
    assert whole.error is None
    assert (whole.text, whole.finish_reason) == (TEXT, "eos")
    assert engine.codec.decode(whole.token_ids) == TEXT
    assert (cut.finish_reason, len(cut.token_ids)) == ("length", 3)
    assert TEXT.startswith(cut.text)
    assert cut.text
    usage = engine.usage("p")
    assert (usage.calls, usage.policy_tokens) == (2, len(whole.token_ids) + 3)
    assert usage.prompt_tokens > 0
    assert (usage.forwards, usage.unique_kv_tokens_peak) == (0, 0)
    told = engine.stats()
    assert (told.requests, told.retries) == (2, 0)
    assert told.cached_tokens == 2 * (usage.prompt_tokens // 2)
    assert engine.progress("p") == {}
    engine.forget("p")
    assert engine.usage("p").calls == 0
    assert all(body["stream"] for body in server.asked())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("stop", "text", "on"),
    [(("; ", "12"), "first add, then compare", "; "), (("answer",), "first add, then compare; the ", "answer")],
)
async def test_stop_strings(connect: Connect, kind: str, stop: tuple[str, ...], text: str, on: str) -> None:
    engine, server = connect(kind)
    (done,) = await finish(engine, Request(prefix=prompt(engine), stop=stop, sampling=Sampling(logprobs=None)))
    assert (done.text, done.finish_reason, done.stopped_on) == (text, "stop", on)
    said = engine.codec.decode(done.token_ids)
    assert said.startswith(text + on)  # a token may say more than the stop string
    assert len(said) <= len(text + on) + 12
    assert ("stop" in server.asked()[0]) == engine.server.tells_stop


@pytest.mark.parametrize("kind", KINDS)
async def test_a_path_is_gone_on_with(connect: Connect, kind: str) -> None:
    """What was generated, put before the next request, reaches the model as the text that it was."""
    seen: list[str] = []

    def script(text: str) -> list[str]:
        seen.append(text)
        return ["one, two\n\n" if "one, two" not in text else "three"]

    engine, server = connect(kind, script)
    path = prompt(engine)
    (first,) = await finish(engine, Request(prefix=path, stop=("\n\n",)))
    (second,) = await finish(engine, Request(prefix=path + first.token_ids))
    if kind == "chat":
        assert engine.server.continuing == "none"
        assert isinstance(second.error, UsageError)
        assert "best-of-n" in str(second.error)
        return
    assert second.error is None
    assert second.text == "three"
    assert seen[-1].endswith("one, two\n\n")
    if kind == "chat vllm":
        last = server.asked()[-1]
        assert last["messages"][-1] == {"role": "assistant", "content": "one, two\n\n"}
        assert (last["continue_final_message"], last["add_generation_prompt"]) == (True, False)


@pytest.mark.parametrize("kind", ["vllm", "sglang", "llama.cpp", "chat", "chat vllm"])
async def test_logprobs(connect: Connect, kind: str) -> None:
    engine, server = connect(kind)
    assert engine.capabilities.logprobs
    (done,) = await finish(engine, Request(prefix=prompt(engine), sampling=Sampling(logprobs=2), stop=("; ",)))
    assert len(done.logprobs) == len(done.token_ids)
    first = done.logprobs[0]
    piece = engine.codec.decode(done.token_ids[:1])
    assert first.token == pytest.approx(server.logprob(piece))
    assert [value for _, value in first.top] == pytest.approx([first.token, first.token - 1])
    assert len({len(row.top) for row in done.logprobs}) == 1
    if kind in ("vllm", "llama.cpp"):
        assert first.top[0][0] == done.token_ids[0]
    (plain,) = await finish(engine, Request(prefix=prompt(engine)))
    assert plain.logprobs == ()


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
async def test_scores(connect: Connect, kind: str) -> None:
    engine, _ = connect(kind)
    assert engine.capabilities.score
    paths = [engine.codec.encode("the answer is 12"), engine.codec.encode("the whole price")]
    scored = await engine.score(paths, 1, owner="v")
    for path, one in zip(paths, scored, strict=True):
        assert one.logprobs.tolist() == pytest.approx([-0.01 * token for token in path[1:]])
    assert engine.usage("v").verifier_tokens == sum(len(path) - 1 for path in paths)
    (whole,) = await engine.score(paths[:1], 0)
    assert float(whole.logprobs[0]) == 0.0
    with pytest.raises(UsageError, match="start must be in"):
        await engine.score(paths, len(paths[0]))
    with pytest.raises(UsageError, match="no hidden states"):
        await engine.score(paths, 0, layers=(-1,))


@pytest.mark.parametrize(("kind", "why"), [("llama.cpp", "this kind of server"), ("chat", "the model's tokenizer")])
async def test_what_cannot_score_says_why(connect: Connect, kind: str, why: str) -> None:
    engine, _ = connect(kind)
    assert not engine.capabilities.score
    with pytest.raises(UsageError, match=why):
        await engine.score([prompt(engine)], 1)


@pytest.mark.parametrize(("kind", "asked"), [("vllm", 8), ("chat vllm", 8), ("sglang", None)])
async def test_streams_come_in_pieces_where_the_server_can(connect: Connect, kind: str, asked: int | None) -> None:
    engine, server = connect(kind)
    _ = [one async for one in engine.generate([Request(prefix=prompt(engine), max_tokens=4)])]
    assert server.bodies[-1].get("stream_interval") == asked


async def test_sampling_reaches_the_server(connect: Connect) -> None:
    sampling = Sampling(temperature=0.5, top_p=0.9, top_k=7, min_p=0.05, repetition_penalty=1.2, presence_penalty=0.3)
    engine, server = connect("vllm")
    await finish(engine, Request(prefix=prompt(engine), sampling=sampling, stop_token_ids=(5,), ignore_eos=True))
    await finish(engine, Request(prefix=prompt(engine), sampling=Sampling(regex="[0-9]+")))
    first, second = server.asked()
    wanted: dict[str, object] = {"temperature": 0.5, "top_p": 0.9, "top_k": 7, "min_p": 0.05, "repetition_penalty": 1.2}
    wanted |= {"presence_penalty": 0.3, "stop_token_ids": [5], "ignore_eos": True}
    assert {name: first[name] for name in wanted} == wanted
    assert second["structured_outputs"] == {"regex": "[0-9]+"}
    assert (second["top_k"], second["repetition_penalty"]) == (-1, 1.0)  # said, for servers have their own ideas
    engine, server = connect("llama.cpp")
    await finish(engine, Request(prefix=prompt(engine), sampling=sampling))
    assert server.asked()[0]["repeat_penalty"] == 1.2
    assert server.asked()[0]["samplers"][1] == "temperature"


async def test_a_server_that_takes_the_likeliest_is_told_to_draw(connect: Connect) -> None:
    """``transformers serve`` leaves that to the model's own settings otherwise, and samples would all be the same."""
    engine, server = connect("transformers", ["twelve", "thirteen"])
    path = prompt(engine)
    drawn = await finish(engine, *(Request(prefix=path, key=key, sampling=Sampling(top_k=9)) for key in range(8)))
    assert {each.text for each in drawn} == {"twelve", "thirteen"}
    told = json.loads(server.asked()[0]["generation_config"])
    assert told == {"do_sample": True, "top_k": 9, "min_p": 0.0, "repetition_penalty": 1.0}
    greedy = Sampling(temperature=0.0, repetition_penalty=1.1)
    (likeliest,) = await finish(engine, Request(prefix=path, sampling=greedy))
    assert likeliest.text == "twelve"
    told = json.loads(server.asked()[-1]["generation_config"])
    assert told == {"do_sample": False, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.1}


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "top_k": ("chat", {"sampling": Sampling(top_k=5)}, "top_k=5 is nothing .* vllm, sglang, llama.cpp, transf"),
    "regex": ("llama.cpp", {"sampling": Sampling(regex="a")}, "by a regex; it takes json_schema"),
    "lark": ("sglang", {"sampling": Sampling(lark="start: /a/")}, "by a lark"),
    "statistics": ("vllm", {"sampling": Sampling(statistics=True)}, "over whole rows"),
    "processors": ("vllm", {"sampling": Sampling(processors=(lambda t, row: row,))}, "no processors"),
    "stop tokens": ("chat", {"stop_token_ids": (3,)}, "tokenizer"),
    "nothing": ("vllm", {"prefix": ()}, "at least one token"),
    "max_tokens": ("vllm", {"max_tokens": 0}, "max_tokens must be at least 1, got 0"),
    "temperature": ("vllm", {"sampling": Sampling(temperature=-1.0)}, "temperature must be at least 0"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_is_refused_fails_alone(connect: Connect, name: str) -> None:
    kind, changes, message = REFUSED[name]
    engine, _ = connect(kind)
    good = Request(prefix=prompt(engine))
    bad = Request(**{"prefix": prompt(engine), **changes})
    first, failed, last = await finish(engine, good, bad, good)
    assert (first.text, last.text) == (TEXT, TEXT)
    assert failed.finish_reason == "error"
    with pytest.raises(UsageError, match=message):
        raise cast(Exception, failed.error)


async def test_texts_end_where_the_server_ends(connect: Connect) -> None:
    engine, server = connect("vllm", max_model_len=40)
    assert engine.max_positions == 40
    path = engine.codec.encode("the answer is seventeen ") * 20
    short, long = await finish(engine, Request(prefix=path[:30], max_tokens=500), Request(prefix=path[:45]))
    assert server.asked()[0]["max_tokens"] == 10
    assert short.error is None
    assert isinstance(long.error, OutOfKV)


async def test_seeds(connect: Connect) -> None:
    engine, server = connect("vllm")
    path = prompt(engine)
    asked = [
        Request(prefix=path, seed=1, key=1),
        Request(prefix=path, seed=1, key=2),
        Request(prefix=path, seed=2, key=1),
    ]
    for request in (*asked, asked[0]):
        await finish(engine, request)
    seeds = [body["seed"] for body in server.asked()]
    assert len(set(seeds)) == 3
    assert seeds[0] == seeds[3]
    assert all(0 <= seed < 1 << 63 for seed in seeds)


async def test_progress_shows_what_is_unfinished(connect: Connect) -> None:
    engine, _ = connect("vllm", delay=0.02)
    work = asyncio.ensure_future(finish(engine, Request(prefix=prompt(engine), owner="p", key=4)))
    seen: set[str] = set()
    while not work.done():
        seen.add(engine.progress("p").get(4, ""))
        await asyncio.sleep(0.01)
    assert len(seen) > 2
    assert all(TEXT.startswith(text) for text in seen)


async def test_closing_the_iterator_ends_the_work_of_the_server(connect: Connect) -> None:
    engine, server = connect("chat", ["word " * 2000], delay=0.02)
    stream = engine.generate([Request(prefix=prompt(engine), key=key, max_tokens=5000) for key in range(3)])
    waiting = asyncio.ensure_future(anext(stream))
    while server.active < 3:
        await asyncio.sleep(0.01)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await cast(Any, stream).aclose()
    for _ in range(500):
        if server.aborted == 3:
            break
        await asyncio.sleep(0.02)
    assert (server.active, server.aborted) == (0, 3)
    assert engine.progress("") == {}


async def test_the_first_of_siblings_goes_ahead(connect: Connect) -> None:
    """So that their prefix is computed once."""
    engine, server = connect("vllm")
    path = prompt(engine)
    server.held = True
    work = asyncio.ensure_future(finish(engine, *(Request(prefix=path, key=key) for key in range(4))))
    while not server.active:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.3)
    assert len(server.asked()) == 1
    server.held = False
    (again,) = {each.token_ids for each in await work}
    server.held = True
    work = asyncio.ensure_future(finish(engine, *(Request(prefix=path + again, key=key) for key in range(3))))
    while server.active < 3:  # a path that was generated is known
        await asyncio.sleep(0.01)
    server.held = False
    await work


async def test_no_more_at_once_than_allowed(connect: Connect) -> None:
    engine, server = connect("vllm", delay=0.01, engine={"max_concurrent": 2})
    await finish(engine, *(Request(prefix=prompt(engine), key=key) for key in range(6)))
    assert server.most_active == 2


async def test_a_closed_engine_says_so(connect: Connect) -> None:
    engine, _ = connect("vllm", ["word " * 500], delay=0.05)
    stream = engine.generate([Request(prefix=prompt(engine))])
    waiting = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0.2)
    engine.close()
    engine.close()
    assert (await waiting).finish_reason == "cancelled"
    with pytest.raises(EngineClosed):
        await finish(engine, Request(prefix=(1,)))
    with pytest.raises(EngineClosed):
        await engine.score([(1, 2)], 0)
