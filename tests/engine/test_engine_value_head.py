"""Value heads on a real engine: what is read while tokens are drawn, and afterwards, and what is learnt from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from reason.engine.codec import HubCodec
from reason.engine.scripted import ScriptedEngine
from reason.errors import ModelError, UsageError
from reason.training.value.rollouts import FINAL, INNER, STEP, Place, Rollout, places
from reason.training.value.states import Recorder, collect, load
from reason.types import Path, Problem, Request, Step, Trajectory
from reason.verifiers import make_verifier
from reason.verifiers.value_head import HeadVerifier, ValueHead

if TYPE_CHECKING:
    from tests.engine.conftest import Finish, MakeEngine, MakePrompts

SIZE = 64


def random_head(layer: int, *, seed: int = 0, pool: bool = False) -> ValueHead:
    generator = torch.Generator().manual_seed(seed)
    weights = {
        "mean": torch.randn(SIZE, generator=generator),
        "std": torch.rand(SIZE, generator=generator) + 0.5,
        "in.weight": torch.randn(2, 8, SIZE, generator=generator) / 8,
        "in.bias": torch.randn(2, 8, generator=generator),
        "out.weight": torch.randn(2, 8, generator=generator),
        "out.bias": torch.randn(2, generator=generator),
        "calibration": torch.tensor([0.5, 0.1]),
    }
    if pool:
        weights |= {
            "pool.weight": torch.randn(2, SIZE, generator=generator) / 4,
            "pool.mean": torch.randn(SIZE, generator=generator),
            "pool.std": torch.rand(SIZE, generator=generator) + 0.5,
        }
    return ValueHead("test", "tiny", layer, weights)


@torch.inference_mode()
def states_of(model: Any, path: Path, layer: int) -> torch.Tensor:
    out = model.get_decoder()(input_ids=torch.tensor([path]), output_hidden_states=True)
    return (out.last_hidden_state if layer == -1 else out.hidden_states[layer + 1])[0]  # type: ignore[no-any-return]


@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("layer", [0, -1])
async def test_it_says_the_same_of_what_was_recorded_and_what_was_not(
    make_engine: MakeEngine, prompts: MakePrompts, finish: Finish, tmp_path: FilePath, layer: int, pool: bool
) -> None:
    random_head(layer, pool=pool).save(tmp_path / "head.safetensors")
    verifier = make_verifier(f"head:{tmp_path / 'head.safetensors'}")
    assert isinstance(verifier, HeadVerifier)
    engine = make_engine()
    probes = verifier.probes(engine)
    (prompt,) = prompts(1)
    (first,) = await finish(engine, [Request(prefix=prompt, max_tokens=9, ignore_eos=True, probes=probes)])
    (second,) = await finish(
        engine, [Request(prefix=prompt + first.token_ids, max_tokens=7, ignore_eos=True, probes=probes)]
    )
    steps = tuple(Step(text=d.text, tokens=d.token_ids, logprobs=d.logprobs) for d in (first, second))
    given = [Trajectory(problem=Problem(content="?"), prompt=prompt, steps=steps[:count]) for count in (1, 2)]
    engine.drop_cache()
    recorded = await verifier.score(given, engine, "recorded")
    assert engine.usage("recorded").verifier_tokens == 0
    bare = [replace(each, steps=tuple(replace(step, logprobs=()) for step in each.steps)) for each in given]
    computed = await verifier.score(bare, engine, "computed")
    assert recorded == pytest.approx(computed, abs=1e-4)
    assert len(set(recorded)) == 2
    assert engine.usage("computed").verifier_tokens > 0


@pytest.mark.parametrize("pool", [False, True])
async def test_the_steps_of_a_solution_are_read_in_one_forward(
    make_engine: MakeEngine, prompts: MakePrompts, tmp_path: FilePath, pool: bool
) -> None:
    """Together they cost what the longest costs alone, and say what each says alone; other solutions are others."""
    random_head(0, pool=pool).save(tmp_path / "head.safetensors")
    verifier = make_verifier(f"head:{tmp_path / 'head.safetensors'}")
    engine = make_engine()
    one, other = prompts(2)

    def solution(prompt: Path, *steps: Path) -> Trajectory:
        told = tuple(Step(text="", tokens=tokens) for tokens in steps)
        return Trajectory(problem=Problem(content="?"), prompt=prompt, steps=told)

    parts = [(70, 71, 72, 73), (74, 75, 76), (77, 70, 71, 72)]
    steps = [solution(one, *parts[: count + 1]) for count in range(3)]
    given = [steps[1], solution(other, *parts), steps[2], steps[0], solution(one, parts[0], (78, 78, 78))]
    together = await verifier.score(given, engine, "together")
    alone = []
    for i, each in enumerate(given):
        engine.drop_cache()
        forgetful = make_verifier(f"head:{tmp_path / 'head.safetensors'}")
        alone += await forgetful.score([each], engine, f"alone {i}")
    assert together == pytest.approx(alone, abs=1e-4)
    assert len({round(value, 4) for value in together}) == 5
    costs = [engine.usage(f"alone {i}").verifier_tokens for i in range(5)]
    assert engine.usage("together").verifier_tokens <= costs[1] + costs[2] + costs[4], "the longest of each solution"


@pytest.mark.parametrize("pool", [False, True])
async def test_what_was_read_of_a_solution_is_not_read_again(
    make_engine: MakeEngine, prompts: MakePrompts, tmp_path: FilePath, pool: bool
) -> None:
    """As it grows it costs its new steps, and the values are those of a verifier that sees it for the first time."""
    random_head(0, pool=pool).save(tmp_path / "head.safetensors")
    name = f"head:{tmp_path / 'head.safetensors'}"
    engine, verifier, (prompt,) = make_engine(), make_verifier(name), prompts(1, 40)
    steps = [Step(text="", tokens=tokens) for tokens in ((70, 71, 72), (74, 75, 76, 77), (70,), (), (73, 72, 71))]
    costs = []
    for count in [*range(1, len(steps) + 1), len(steps)]:
        given = Trajectory(problem=Problem(content="?"), prompt=prompt, steps=tuple(steps[:count]))
        (value,) = await verifier.score([given], engine, "grows")
        assert [value] == pytest.approx(await make_verifier(name).score([given], engine, "anew"), abs=1e-6)
        costs.append(engine.usage("grows").verifier_tokens)
    assert np.diff(costs).tolist() == [4, 1, 0, 3, 0]
    (value,) = await verifier.score([replace(given, finished=True)], engine, "finished")
    assert [value] == pytest.approx(await make_verifier(name).score([replace(given, finished=True)], engine, "anew"))
    assert engine.usage("finished").verifier_tokens == 1
    other = replace(given, prompt=prompt + steps[0].tokens, steps=tuple(steps[1:]))  # the same tokens, begun elsewhere
    (value,) = await verifier.score([other], engine, "other")
    assert [value] == pytest.approx(await make_verifier(name).score([other], engine, "anew"), abs=1e-6)


@pytest.mark.parametrize("pool", [False, True])
async def test_a_finished_solution_without_its_turns_end_is_read_at_its_last_token(
    make_engine: MakeEngine,
    prompts: MakePrompts,
    references: dict[str, PreTrainedModel],
    codec: HubCodec,
    tmp_path: FilePath,
    pool: bool,
) -> None:
    head = random_head(-1, pool=pool)
    head.save(tmp_path / "head.safetensors")
    head = ValueHead.load(tmp_path / "head.safetensors")
    verifier = HeadVerifier(head=str(tmp_path / "head.safetensors"))
    path, end = prompts(1, 14)[0], next(iter(codec.eos_token_ids))
    states = states_of(references["llama"], path, -1)
    means = [states[9 : max(9, i) + 1].mean(dim=0) for i in range(len(path))]  # from the one that is drawn from first
    values = head.values(states, torch.stack(means)).tolist()

    def given(*steps: Path, **more: Any) -> Trajectory:
        written = tuple(Step(text="x", tokens=tokens) for tokens in steps)
        return Trajectory(problem=Problem(content="?"), prompt=path[:10], steps=written, **more)

    rest = path[10:]
    told = await verifier.score(
        [given(rest), given(rest, finished=True), given((*rest, end), finished=True), given(rest, ()), given()],
        make_engine(),
        "v",
    )
    assert told == pytest.approx([values[i] for i in (-2, -1, -1, -2, 9)], abs=1e-4)


async def test_a_head_of_another_model(make_engine: MakeEngine, tmp_path: FilePath) -> None:
    file = tmp_path / "head.safetensors"
    replace(random_head(-1), model="owner/other").save(file)
    with pytest.raises(UsageError, match="reads states of owner/other, and the model is tiny"):
        HeadVerifier(head=str(file)).probes(make_engine())
    with pytest.raises(ModelError, match="cannot read the value head"):
        HeadVerifier(head=str(tmp_path / "none")).probes(make_engine())


async def test_a_file_that_changed_is_read_again(make_engine: MakeEngine, tmp_path: FilePath) -> None:
    verifier, engine = HeadVerifier(head=str(tmp_path / "head.safetensors")), make_engine()
    names = []
    for seed in (0, 1):
        random_head(-1, seed=seed).save(tmp_path / "head.safetensors")
        names.append(verifier.probes(engine)[0].name)
    assert names[0] != names[1]


async def test_a_model_without_a_head() -> None:
    with pytest.raises(UsageError, match=r"no value head comes with the package for scripted .*reason train value"):
        HeadVerifier().probes(ScriptedEngine(["x"]))


def test_places(codec: HubCodec) -> None:
    tokens = codec.encode("first\n\nsecond step\n\nthe end")
    ends = [len(codec.encode("first\n\n")) - 1, len(codec.encode("first\n\nsecond step\n\n")) - 1, len(tokens) - 1]
    rollout = Rollout(problem="p", prompt=(1,), tokens=tokens, answer_class=None, correct=False)
    found = places(codec, rollout, "\n\n", every=1000)
    assert found == [Place(ends[0], STEP), Place(ends[1], STEP), Place(ends[2], FINAL)]
    often = places(codec, rollout, "\n\n", every=2)
    assert [place for place in often if place.kind != INNER] == found
    inner = [place.token for place in often if place.kind == INNER]
    assert inner
    assert all(token not in ends for token in inner)
    assert sorted(place.token for place in often) == [place.token for place in often]


async def test_the_states_learnt_from_are_those_tokens_were_drawn_from(
    make_engine: MakeEngine, prompts: MakePrompts, references: dict[str, PreTrainedModel], tmp_path: FilePath
) -> None:
    engine = make_engine()
    rollouts = [
        Rollout(
            problem=f"p{i % 2}", prompt=path[:8], tokens=path[8:], answer_class=i % 3 - 1 if i else None, correct=i > 1
        )
        for i, path in enumerate(prompts(4, 20))
    ]
    told: list[tuple[int, int]] = []
    await collect(engine, rollouts, tmp_path, (0,), every=5, on_problem=lambda *count: told.append(count))
    assert sorted(told) == [(1, 2), (2, 2)]
    await collect(engine, rollouts, tmp_path, (-1, 0), every=5)  # the layer that is there stays
    ordered = [rollouts[i] for i in (0, 2, 1, 3)]
    for layer in (0, -1):
        found = load(rollouts, tmp_path, layer)
        assert found.problem.tolist() == [0, 0, 1, 1]
        assert found.correct.tolist() == [0.0, 1.0, 0.0, 1.0]
        assert found.answer_class.tolist() == [-1 if r.answer_class is None else r.answer_class for r in ordered]
        for row, number, token in zip(found.states, found.rollout.tolist(), found.token.tolist(), strict=True):
            path = ordered[number].prompt + ordered[number].tokens
            expected = states_of(references["llama"], path, layer)[len(ordered[number].prompt) - 1 + token]
            torch.testing.assert_close(row, expected.bfloat16().float(), atol=0.05, rtol=0.02)
        for row, number, token in zip(found.means, found.rollout.tolist(), found.token.tolist(), strict=True):
            path, first = ordered[number].prompt + ordered[number].tokens, len(ordered[number].prompt) - 1
            expected = states_of(references["llama"], path, layer)[first : first + token + 1].mean(dim=0)
            torch.testing.assert_close(row, expected, atol=0.05, rtol=0.02)
    # What is there is not computed again, unless there is more to compute.
    before = engine.usage("states").verifier_tokens
    await collect(engine, rollouts, tmp_path, (-1,), every=5)
    assert engine.usage("states").verifier_tokens == before
    await collect(engine, rollouts, tmp_path, (-1,), every=4)
    assert engine.usage("states").verifier_tokens > before
    before = engine.usage("states").verifier_tokens
    await collect(engine, [*rollouts, replace(rollouts[0], correct=True)], tmp_path, (-1,), every=5)
    assert engine.usage("states").verifier_tokens > before
    part = load([*rollouts, rollouts[0]], tmp_path, -1)
    own = part.of_problems([1])
    assert own.correct.tolist() == [0.0, 1.0]
    assert own.problem.tolist() == [0, 0]
    assert sorted(set(own.rollout.tolist())) == [0, 1]


async def test_what_was_kept_while_it_was_written_is_not_computed(
    make_engine: MakeEngine, prompts: MakePrompts, finish: Finish, tmp_path: FilePath
) -> None:
    engine = make_engine()
    asked = [Request(prefix=path, max_tokens=20, ignore_eos=True, states=(0, -1)) for path in prompts(3)]
    done = await finish(engine, asked)
    rollouts = [
        Rollout(problem="p", prompt=request.prefix, tokens=each.token_ids, answer_class=None, correct=False)
        for request, each in zip(asked, done, strict=True)
    ]
    given = [
        Trajectory(
            problem=Problem(content="?", id="p"),
            prompt=request.prefix,
            steps=(Step(text=each.text, tokens=each.token_ids, states=each.states),),
        )
        for request, each in zip(asked, done, strict=True)
    ]
    recorder = Recorder((0, -1), tmp_path / "kept", every=5)
    assert await recorder.score(given[:2], engine, "o") == [1.0, 1.0]
    await collect(engine, rollouts[:2], tmp_path / "kept", (0, -1), every=5)
    assert engine.usage("states").verifier_tokens == 0
    assert list((tmp_path / "kept" / "parts").iterdir()) == []
    await collect(engine, rollouts[:2], tmp_path / "computed", (0, -1), every=5)
    assert engine.usage("states").verifier_tokens > 0
    for layer in (0, -1):
        kept, computed = (load(rollouts[:2], tmp_path / name, layer) for name in ("kept", "computed"))
        torch.testing.assert_close(kept.states, computed.states, atol=0.05, rtol=0.02)
        torch.testing.assert_close(kept.means, computed.means, atol=0.05, rtol=0.02)
        assert torch.equal(kept.token, computed.token)
    # One that was not kept is computed beside the others.
    await Recorder((0, -1), tmp_path / "mixed", every=5).score(given[:2], engine, "o")
    before = engine.usage("states").verifier_tokens
    await collect(engine, rollouts, tmp_path / "mixed", (0, -1), every=5)
    assert 0 < engine.usage("states").verifier_tokens - before <= len(rollouts[2].prompt + rollouts[2].tokens)
    await collect(engine, rollouts, tmp_path / "all", (0, -1), every=5)
    for layer in (0, -1):
        mixed, computed = (load(rollouts, tmp_path / name, layer) for name in ("mixed", "all"))
        torch.testing.assert_close(mixed.states, computed.states, atol=0.05, rtol=0.02)
