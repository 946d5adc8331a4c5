"""What draft sources are told: of the requests that run, and of the rows of the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import torch

from reason.speculate.draft import CONTEXT, Distribution, Rows, Source, State, Stream
from reason.speculate.policy import Fixed
from reason.speculate.sources.lookup import Lookup
from tests.engine.drafts import MakeDrafting, eight, requests_for

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tests.engine.conftest import Finish, MakePrompts

WRONG = 3
"""A token that the model never says."""


class Watched(Lookup):
    """Keeps every stream, and what it was told of each."""

    def __init__(self) -> None:
        super().__init__()
        self.told: dict[Stream, list[int]] = {}
        self.open: set[Stream] = set()

    def begin(self, stream: Stream) -> None:
        assert len(stream.tokens) == stream.prompt_length, "nothing is generated yet"
        self.told[stream] = list(stream.tokens)
        self.open.add(stream)
        super().begin(stream)

    def extend(self, stream: Stream, count: int) -> None:
        assert 0 <= count <= len(stream.tokens) - stream.prompt_length
        self.told[stream] += stream.tokens[len(stream.tokens) - count :]
        super().extend(stream, count)

    def end(self, stream: Stream) -> None:
        self.open.remove(stream)
        super().end(stream)


@pytest.mark.parametrize("kv_tokens", [4096, 80])
@pytest.mark.parametrize("rule", ["coupled", "match"])
async def test_sources_see_the_paths_as_they_are(
    make_drafting: MakeDrafting, prompts: MakePrompts, finish: Finish, rule: str, kv_tokens: int
) -> None:
    """Every token once, the prompt's as the prompt; the prompts cached or not, the requests preempted or not."""
    source = Watched()
    engine = make_drafting(source, rule=rule, kv_tokens=kv_tokens)
    requests = requests_for(eight(prompts), temperature=0.8)
    for _ in range(2):
        source.told.clear()
        done = await finish(engine, requests)
        assert (engine.stats().preemptions > 0) == (kv_tokens == 80)
        seen = {stream.key: stream for stream in source.told}
        assert len(seen) == len(source.told) == 8
        for request, completion in zip(requests, done, strict=True):
            stream = seen[request.key]
            assert stream.tokens == source.told[stream] == [*request.prefix, *completion.token_ids]
            assert stream.prompt_length == len(request.prefix)
        engine.stats()  # waits for the last iteration's end
        assert not source.open, "streams are ended when their requests are over"


@pytest.mark.parametrize("ending", ["cancelled", "error"])
async def test_streams_end_with_their_requests_however_those_end(
    make_drafting: MakeDrafting, prompts: MakePrompts, finish: Finish, ending: str
) -> None:
    def processor(tokens: Sequence[int], logits: torch.Tensor) -> torch.Tensor:
        if len(tokens) > 20 and ending == "error":
            raise ValueError("no more")
        return logits

    source = Watched()
    engine = make_drafting(source)
    requests = [
        replace(request, sampling=replace(request.sampling, processors=(processor,)))
        for request in requests_for(prompts(2), max_tokens=400, temperature=0.8)
    ]
    if ending == "error":
        assert {completion.finish_reason for completion in await finish(engine, requests)} == {"error"}
    else:
        stream = cast(Any, engine.generate([*requests, *requests_for(prompts(1), max_tokens=9, temperature=0.0)]))
        assert (await anext(stream)).index == 2
        await stream.aclose()
    engine.check_integrity()
    assert len(source.told) >= 2
    assert not source.open


class Beside(Source):
    """At each place the token that a known text has there and one that is wrong, whatever was drafted before. Notes
    where drafts began, and the rows that it is told of them."""

    name = "beside"

    def __init__(self, text: Sequence[int]) -> None:
        self.text = text
        self.begun: list[tuple[list[int], int]] = []  # the path of each iteration, and its room
        self.heard: list[Rows] = []

    def state(self, stream: Stream) -> State:
        self.begun.append((list(stream.tokens), stream.room))
        return len(stream.tokens)

    def step(self, state: State, token: int) -> State:
        return state + 1

    def distribution(self, state: State) -> Distribution:
        return Distribution([self.text[state], WRONG], [0.6, 0.3])

    def observe(self, rows: Rows) -> None:
        self.heard.append(rows)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
async def test_sources_learn_from_the_rows_of_drafts_that_were_rejected_too(
    make_drafting: MakeDrafting, prompts: MakePrompts, finish: Finish, talker: PreTrainedModel, temperature: float
) -> None:
    """Rows come with the ends of their own paths: rejected tokens, and what was drafted behind them."""
    (request,) = requests_for(prompts(1), max_tokens=30, temperature=temperature)
    (plain,) = await finish(make_drafting("none"), [request])
    text = [*request.prefix, *plain.token_ids]
    source = Beside(text)
    engine = make_drafting(source, rule="match", policy=Fixed(((0,), (1,), (0, 0), (0, 1), (1, 0), (1, 1))))
    (done,) = await finish(engine, [request])
    assert done.token_ids == plain.token_ids
    engine.stats()  # waits for the last iteration's end
    assert len(source.begun) == len(source.heard)
    whole = [(path, rows) for (path, room), rows in zip(source.begun, source.heard, strict=True) if room >= 2]
    assert len(whole) >= 8
    for path, rows in whole:
        (first, second), wrong = text[len(path) : len(path) + 2], WRONG
        drafted = [[], [first], [wrong], [first, second], [first, wrong], [wrong, second], [wrong, wrong]]
        left = list(zip(rows.contexts.tolist(), rows.tokens, rows.probabilities, strict=True))
        for tokens in drafted:
            place = [*path, *tokens]
            with torch.inference_mode():
                logits = cast(Any, talker)(input_ids=torch.tensor([place])).logits[0, -1].double()
            p = torch.softmax(logits / (temperature or 1.0), dim=-1)
            own = [
                i
                for i, (context, names, found) in enumerate(left)
                if context == place[-CONTEXT:] and np.allclose(found, p[torch.from_numpy(names)].numpy(), atol=1e-4)
            ]
            assert own, f"no row for {tokens} behind {path}"
            best = p.topk(len(left[own[0]][1])).values.numpy()
            assert left.pop(own[0])[2] == pytest.approx(best, abs=1e-4)
        assert not left, "a row that nobody asked for"


@pytest.mark.parametrize("temperature", [0.0, 0.8])
async def test_a_guess_is_drafted_and_changes_no_token(
    make_drafting: MakeDrafting, prompts: MakePrompts, finish: Finish, temperature: float
) -> None:
    """One that is right, one that is wrong in one place, and one that is wrong everywhere."""
    (request,) = requests_for(prompts(1), max_tokens=30, temperature=temperature)
    (plain,) = await finish(make_drafting("none"), [request])
    right = plain.token_ids
    accepted: dict[str, int] = {}
    for name, guess in {
        "none": (),
        "right": right,
        "nearly": (*right[:10], WRONG, *right[11:]),
        "wrong": (WRONG,) * 30,
    }.items():
        engine = make_drafting("suffix", policy=Fixed(((0,), (0, 0), (0, 0, 0))))
        (done,) = await finish(engine, [replace(request, guess=guess)])
        assert done.token_ids == plain.token_ids
        engine.stats()  # waits for the last iteration's end
        accepted[name] = engine.usage(request.owner).accepted_tokens
        engine.check_integrity()
    assert accepted["right"] >= 20
    assert accepted["none"] < accepted["nearly"] <= accepted["right"]
    assert accepted["wrong"] <= accepted["none"]
