"""What probes read are transformers' own hidden states that the tokens were drawn from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import PreTrainedModel

from reason.errors import UsageError
from reason.types import Completion, Path, Request, Sampling
from tests.engine.drafts import MANY, REJECTION, MakeDrafting, eight, requests_for

if TYPE_CHECKING:
    from tests.engine.conftest import Finish, MakeEngine, MakePrompts

States = Callable[[Path, int], torch.Tensor]
LAYERS = (0, -1)


@dataclass(frozen=True)
class Weighs:
    """A weighted sum of the state."""

    layer: int

    @property
    def name(self) -> str:
        return f"weighs:{self.layer}"

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        assert states.dtype == torch.float32
        return states @ torch.arange(1.0, states.shape[1] + 1)


PROBES = tuple(Weighs(layer) for layer in LAYERS)


@torch.inference_mode()
def states_of(model: Any, path: Path, layer: int) -> torch.Tensor:
    out = model.get_decoder()(input_ids=torch.tensor([path]), output_hidden_states=True)
    return (out.last_hidden_state if layer == -1 else out.hidden_states[layer + 1])[0]  # type: ignore[no-any-return]


def check(model: Any, done: Sequence[Completion], requests: Sequence[Request]) -> None:
    for completion, request in zip(done, requests, strict=True):
        assert completion.error is None, completion.error
        path = request.prefix + completion.token_ids
        assert len(completion.logprobs) == len(completion.token_ids)
        for place, probe in enumerate(PROBES):
            expected = probe(states_of(model, path, probe.layer)[len(request.prefix) - 1 : -1])
            assert {row.values[place][0] for row in completion.logprobs} == {probe.name}
            found = torch.tensor([row.values[place][1] for row in completion.logprobs])
            torch.testing.assert_close(found, expected, atol=1e-2, rtol=1e-3)
        assert completion.states.keys() == set(request.states)
        for layer in request.states:
            expected = states_of(model, path, layer)[len(request.prefix) - 1 : -1]
            torch.testing.assert_close(completion.states[layer], expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("kv_tokens", [4096, 70])
@pytest.mark.parametrize("model_type", ["llama", "qwen2"])
async def test_they_read_what_tokens_are_drawn_from(
    make_engine: MakeEngine,
    prompts: MakePrompts,
    finish: Finish,
    references: dict[str, PreTrainedModel],
    model_type: str,
    kv_tokens: int,
) -> None:
    engine = make_engine(kv_tokens=kv_tokens, model_type=model_type)
    samplings = [Sampling(temperature=0.0), Sampling(statistics=True), Sampling(repetition_penalty=1.5)] * 2
    requests = [
        Request(
            prefix=path,
            key=i,
            sampling=sampling,
            max_tokens=25 - 8 * (i % 3),
            ignore_eos=True,
            probes=PROBES,
            states=LAYERS[: i % 3],
        )
        for i, (path, sampling) in enumerate(zip(prompts(6), samplings, strict=True))
    ]
    check(references[model_type], await finish(engine, requests), requests)
    assert (engine.stats().preemptions > 0) == (kv_tokens == 70)


@pytest.mark.parametrize("rule", ["coupled", *REJECTION])
async def test_drafts_change_nothing(
    make_drafting: MakeDrafting, prompts: MakePrompts, finish: Finish, talker: PreTrainedModel, rule: str
) -> None:
    engine = make_drafting(REJECTION.get(rule, MANY), rule=rule)
    requests = [
        replace(request, probes=PROBES, states=LAYERS) for request in requests_for(eight(prompts), max_tokens=30)
    ]
    check(talker, await finish(engine, requests), requests)
    assert engine.stats().accepted > 10


async def test_only_those_that_ask_get_it(make_engine: MakeEngine, prompts: MakePrompts, finish: Finish) -> None:
    requests = [Request(prefix=path, max_tokens=5, probes=PROBES[:i]) for i, path in enumerate(prompts(3))]
    done = await finish(make_engine(), requests)
    assert [[len(row.values) for row in each.logprobs][:1] for each in done] == [[], [1], [2]]


@dataclass(frozen=True)
class Bad:
    """Raises, or gives a wrong shape."""

    says: Any
    name: str = "bad"
    layer: int = -1

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        if isinstance(self.says, Exception):
            raise self.says
        return states if self.says == "shape" else states[:, 0]


@pytest.mark.parametrize(
    ("probe", "kind", "message"),
    [
        (Bad(ZeroDivisionError("mine")), ZeroDivisionError, "mine"),
        (Bad("shape"), UsageError, r"the probe bad gave shape \[\d+, 64\] for \d+ rows"),
        (Bad("layer", layer=1), UsageError, "layer must be 0 to 0, or -1 for the last after the final norm, got 1"),
        (Bad("layer", layer=-2), UsageError, "got -2"),
    ],
)
async def test_one_that_fails_ends_its_own_request(
    make_engine: MakeEngine, prompts: MakePrompts, finish: Finish, probe: Bad, kind: type[Exception], message: str
) -> None:
    one, other = prompts(2)
    requests = [Request(prefix=one, max_tokens=5, probes=(probe,)), Request(prefix=other, max_tokens=5)]
    if probe.layer not in LAYERS:
        requests[0] = replace(requests[0], probes=(), states=(probe.layer,))
    failed, done = await finish(make_engine(), requests)
    assert failed.finish_reason == "error"
    with pytest.raises(kind, match=message):
        raise failed.error or AssertionError
    assert done.error is None
    assert done.token_ids


@pytest.mark.parametrize("max_rows", [512, 4])
async def test_scores_tell_the_states_of_layers(
    make_engine: MakeEngine, prompts: MakePrompts, references: dict[str, PreTrainedModel], max_rows: int
) -> None:
    engine = make_engine(max_rows=max_rows)
    for start in (0, 5, 20):
        for path in prompts(2, 21):
            (scored,) = await engine.score([path], start, logprobs=False, layers=LAYERS)
            assert not len(scored.logprobs)
            for layer in LAYERS:
                expected = states_of(references["llama"], path, layer)[start:]
                torch.testing.assert_close(scored.hidden[layer], expected, atol=2e-4, rtol=1e-4)


async def test_scores_of_a_layer_that_is_not_there(make_engine: MakeEngine, prompts: MakePrompts) -> None:
    (path,) = prompts(1)
    with pytest.raises(UsageError, match="layer must be 0 to 0, or -1"):
        await make_engine().score([path], 0, layers=(7,))
