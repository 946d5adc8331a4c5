"""Constrained requests give text that satisfies the grammar, beside others and preempted too."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from reason.types import Request, Sampling

if TYPE_CHECKING:
    from tests.engine.conftest import Finish, MakeEngine, MakePrompts

pytest.importorskip("llguidance")

SCHEMA = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["sum", "product"]},
        "value": {"type": "integer", "minimum": 0, "maximum": 99},
        "exact": {"type": "boolean"},
    },
    "required": ["kind", "value", "exact"],
    "additionalProperties": False,
    "x-guidance": {"whitespace_flexible": False},
}
REGEX = r"[0-9]{2,4}-(ab|cd)+x"
LARK = 'start: "let " NAME " = " NUMBER\nNAME: /[a-z]{1,4}/\nNUMBER: /[0-9]{1,3}/'


@pytest.mark.parametrize("kv_tokens", [4096, 90])
async def test_text_satisfies_the_grammar(
    make_engine: MakeEngine, prompts: MakePrompts, finish: Finish, kv_tokens: int
) -> None:
    engine = make_engine(kv_tokens=kv_tokens)
    paths = prompts(9, 8)
    settings = [
        Sampling(temperature=1.0, json_schema=json.dumps(SCHEMA)),
        Sampling(temperature=1.0, regex=REGEX, logprobs=0),
        Sampling(temperature=1.0, lark=LARK, top_k=20),
    ]
    requests = [
        Request(prefix=path, key=i, sampling=settings[i % 3], max_tokens=120, ignore_eos=i == 8)
        for i, path in enumerate(paths)
    ]
    free = [Request(prefix=path, max_tokens=15, ignore_eos=True) for path in paths]
    done = (await finish(engine, requests + free))[: len(requests)]
    for completion in done[::3]:
        answer = json.loads(completion.text)
        assert answer.keys() == {"kind", "value", "exact"}
        assert answer["kind"] in ("sum", "product")
        assert 0 <= answer["value"] <= 99
        assert isinstance(answer["exact"], bool)
    for completion in done[1::3]:
        assert re.fullmatch(REGEX, completion.text)
    for completion in done[2::3]:
        assert re.fullmatch(r"let [a-z]{1,4} = [0-9]{1,3}", completion.text)
    assert all(c.finish_reason in ("eos", "stop") for c in done)
    assert len({c.text for c in done}) > 6
    if kv_tokens == 90:
        assert engine.stats().preemptions > 0
    for request, completion in zip(requests, done, strict=True):
        (alone,) = await finish(engine, [request])
        assert alone.token_ids == completion.token_ids


async def test_a_limit_cuts_a_constrained_completion(
    make_engine: MakeEngine, prompts: MakePrompts, finish: Finish
) -> None:
    request = Request(prefix=prompts(1)[0], sampling=Sampling(regex="[a-c]{50}"), max_tokens=5)
    (done,) = await finish(make_engine(), [request])
    assert done.finish_reason == "length"
    assert re.fullmatch("[a-c]{1,50}", done.text)


async def test_greedy_within_a_grammar(make_engine: MakeEngine, prompts: MakePrompts, finish: Finish) -> None:
    request = Request(prefix=prompts(1)[0], sampling=Sampling(temperature=0.0, regex="(yes|no)"), max_tokens=9)
    (done,) = await finish(make_engine(), [request])
    assert done.text in ("yes", "no")
