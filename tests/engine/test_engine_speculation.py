"""Drafting changes nothing but the number of forwards: under the rules that follow the plain samples the tokens are
those of plain decoding, one by one, whatever drafts and however requests end."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from reason.engine.codec import HubCodec
from reason.speculate.policy import Fixed, Policy
from reason.speculate.sources import AUTO, SOURCES
from tests.engine.drafts import BUSH, MANY, WORDS, Compare, MakeDrafting, eight, requests_for

if TYPE_CHECKING:
    from tests.engine.conftest import Finish, MakePrompts


@pytest.mark.parametrize("draft", [*SOURCES, AUTO, "stand+token-recycling", "+".join(SOURCES)])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("branches", [1, 8])
async def test_every_source_gives_the_plain_tokens(
    compare: Compare, prompts: MakePrompts, draft: str, temperature: float, branches: int
) -> None:
    engine = await compare(requests_for(eight(prompts)[-branches:], temperature=temperature), draft=draft)
    assert engine.stats().iterations < 40


@pytest.mark.parametrize(
    "policy",
    ["goodput", "nodes:1", "nodes:9", "fixed", Fixed(BUSH)],
    ids=lambda policy: policy if isinstance(policy, str) else policy.name + " bush",
)
@pytest.mark.parametrize("rule", ["coupled", "match"])
async def test_every_policy_gives_the_plain_tokens(
    compare: Compare, prompts: MakePrompts, rule: str, policy: str | Policy
) -> None:
    for temperature in (0.0, 0.8):
        await compare(requests_for(eight(prompts), temperature=temperature), rule=rule, policy=policy)


async def test_what_is_drafted_by_the_clock_changes_nothing(compare: Compare, prompts: MakePrompts) -> None:
    """How much of it there is depends on the machine's other work."""
    engine = await compare(requests_for(eight(prompts), max_tokens=100, temperature=0.6), live=True, accepts=False)
    assert engine.stats().draft_seconds > 0.0


SETTINGS: dict[str, dict[str, Any]] = {
    "top k": {"temperature": 0.8, "top_k": 3},
    "top p": {"temperature": 1.0, "top_p": 0.7},
    "min p": {"temperature": 1.0, "min_p": 0.2},
    "all three": {"temperature": 0.9, "top_k": 6, "top_p": 0.9, "min_p": 0.05},
    "penalties": {"temperature": 0.8, "repetition_penalty": 1.05, "presence_penalty": 0.2, "frequency_penalty": 0.05},
    "greedy penalties": {"temperature": 0.0, "frequency_penalty": 0.1},
    "processor": {"temperature": 0.8, "processors": (lambda tokens, logits: logits * (1.0 + 0.1 * (len(tokens) % 2)),)},
    "logprobs": {"temperature": 0.8, "logprobs": 3},
    "greedy logprobs": {"temperature": 0.0, "logprobs": 0},
    "statistics": {"temperature": 0.8, "statistics": True},
    "logprobs of processed rows": {"temperature": 0.8, "logprobs": 2, "statistics": True, "repetition_penalty": 1.05},
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("draft", ["token-recycling+lookup", MANY])
async def test_every_setting_gives_the_plain_tokens(
    compare: Compare, prompts: MakePrompts, name: str, draft: str
) -> None:
    await compare(requests_for(eight(prompts), **SETTINGS[name]), draft=draft)


async def test_settings_beside_each_other_give_the_plain_tokens(compare: Compare, prompts: MakePrompts) -> None:
    requests = [
        replace(request, key=i) for i, s in enumerate(SETTINGS.values()) for request in requests_for(prompts(1), **s)
    ]
    await compare(requests)


@pytest.mark.parametrize("policy", ["auto", Fixed(BUSH)], ids=["auto", "fixed"])
async def test_a_grammar_gives_the_plain_tokens(compare: Compare, prompts: MakePrompts, policy: str | Policy) -> None:
    pytest.importorskip("llguidance")
    schema = {
        "type": "array",
        "items": {"enum": ["one", "two", "three"]},
        "minItems": 8,
        "maxItems": 20,
        "x-guidance": {"whitespace_flexible": False},
    }
    grammars = [{"json_schema": json.dumps(schema)}, {"regex": "((ab|cd)+x){4,9}"}]
    requests = [
        replace(request, key=10 * i, ignore_eos=False)
        for i, grammar in enumerate(grammars)
        for request in requests_for(prompts(3), max_tokens=80, temperature=0.8, **grammar)
    ]
    await compare([*requests, *requests_for(prompts(2), temperature=0.8)], draft="lookup+suffix", policy=policy)


# -- how requests end ----------------------------------------------------------------------------------------------


async def test_stop_strings_within_a_draft(
    compare: Compare, make_drafting: MakeDrafting, prompts: MakePrompts, finish: Finish, codec: HubCodec
) -> None:
    """The same requests were answered before, so that drafts run past every stop."""
    engine = make_drafting()
    requests = requests_for(eight(prompts), temperature=0.8)
    whole = await finish(engine, requests)
    stopped = [
        replace(request, stop=(codec.decode(c.token_ids[place : place + 2]),))
        for request, c, place in zip(requests, whole, range(1, 33, 4), strict=True)
    ]
    engine = await compare(stopped, engine)
    assert {c.finish_reason for c in await finish(engine, stopped)} == {"stop"}


@pytest.mark.parametrize("kind", ["stop token", "eos"])
async def test_stop_tokens_within_a_draft(
    compare: Compare, make_drafting: MakeDrafting, prompts: MakePrompts, finish: Finish, kind: str
) -> None:
    requests = requests_for(eight(prompts), temperature=0.8)
    whole = await finish(make_drafting("none"), requests)
    last = [WORDS[0], *(next(token for token in reversed(c.token_ids)) for c in whole[:2])]
    eos = last if kind == "eos" else []
    stops = () if kind == "eos" else tuple(last)
    engine = make_drafting(eos=eos)
    await finish(engine, requests)
    stopped = [replace(request, stop_token_ids=stops, ignore_eos=False) for request in requests]
    await compare(stopped, engine, eos=eos)
    reasons = {c.finish_reason for c in await finish(engine, stopped)}
    assert ("eos" if kind == "eos" else "stop") in reasons


@pytest.mark.parametrize("max_tokens", range(1, 6))
async def test_few_tokens(
    compare: Compare, make_drafting: MakeDrafting, prompts: MakePrompts, finish: Finish, max_tokens: int
) -> None:
    engine = make_drafting()
    await finish(engine, requests_for(eight(prompts), temperature=0.6))
    drafted = engine.stats().drafted
    engine = await compare(
        requests_for(eight(prompts), max_tokens=max_tokens, temperature=0.6), engine, accepts=max_tokens > 1
    )
    assert (engine.stats().drafted == drafted) == (max_tokens == 1), "nothing is drafted where one token is left"


@pytest.mark.parametrize("draft", [MANY, "lookup"])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
async def test_the_end_of_the_context(compare: Compare, prompts: MakePrompts, draft: str, temperature: float) -> None:
    requests = requests_for(eight(prompts), max_tokens=400, temperature=temperature)
    await compare(requests, draft=draft, max_positions=64)
