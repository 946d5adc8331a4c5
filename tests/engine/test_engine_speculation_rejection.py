"""Under the rules that draw and reject the tokens are those of plain decoding in distribution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.stats import chisquare

from reason.speculate.draft import Distribution, Rows, Source, State, Stream
from reason.speculate.policy import Fixed
from reason.speculate.sources.stand import Stand
from reason.speculate.sources.suffix import Suffix
from reason.speculate.sources.union import Union
from reason.types import Path, Request, Sampling
from tests.engine.drafts import BUSH, REJECTION, WORDS, Compare, MakeDrafting, eight, requests_for

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tests.engine.conftest import Finish, MakePrompts


@pytest.mark.parametrize("rule", REJECTION)
async def test_rejection_rules_give_the_greedy_tokens(compare: Compare, prompts: MakePrompts, rule: str) -> None:
    requests = requests_for(eight(prompts), temperature=0.0)
    engine = await compare(requests, draft=REJECTION[rule], rule=rule, policy=Fixed(BUSH))
    await compare(requests, engine)
    await compare(requests_for(eight(prompts), temperature=0.0, frequency_penalty=0.1, logprobs=1), engine)
    await compare(requests, draft=REJECTION[rule], rule=rule, policy=Fixed(BUSH), kv_tokens=100)


@pytest.mark.parametrize("rule", REJECTION)
async def test_rejection_rules_leave_grammars_alone(
    compare: Compare, make_drafting: MakeDrafting, prompts: MakePrompts, rule: str
) -> None:
    """What a grammar allows at a draft node is not known beforehand, so nothing is drafted: the tokens are plain."""
    pytest.importorskip("llguidance")
    constrained = [
        replace(request, key=20 + request.key, ignore_eos=False)
        for request in requests_for(prompts(3), temperature=0.8, regex="((ab|cd)+x){4,9}")
    ]
    engine = make_drafting(REJECTION[rule], rule=rule, policy=Fixed(BUSH))
    await compare([*constrained, *requests_for(eight(prompts), temperature=0.0)], engine)


@pytest.fixture(scope="module")
def law(talker: PreTrainedModel, prompts: MakePrompts) -> tuple[list[int], npt.NDArray[np.float64]]:
    """The words that may follow a prompt when three are drawn (temperature 1.5, from the best four), and the
    probability of each three of them, [words, words, words]."""
    (prompt,) = prompts(1)
    p: dict[Path, npt.NDArray[np.float64]] = {}
    words: set[int] = set()
    level: list[Path] = [()]
    for _ in range(3):
        after: list[Path] = []
        for path in level:
            with torch.inference_mode():
                logits = cast(Any, talker)(input_ids=torch.tensor([[*prompt, *path]])).logits[0, -1].double() / 1.5
            best = logits.topk(4)
            p[path] = np.zeros(400)
            p[path][best.indices.numpy()] = torch.softmax(best.values, 0).numpy()
            words.update(best.indices.tolist())
            after += [(*path, token) for token in best.indices.tolist()]
        level = after
    names = sorted(words)
    joint = np.zeros((len(names),) * 3)
    for a, b, c in level:
        joint[names.index(a), names.index(b), names.index(c)] = p[()][a] * p[(a,)][b] * p[a, b][c]
    return names, joint


def assert_fits(counts: npt.NDArray[np.float64], probabilities: npt.NDArray[np.float64]) -> None:
    """Chi-square; what is expected fewer than five times is one cell."""
    expected = probabilities.ravel() * counts.sum()
    observed = counts.ravel()
    assert observed[expected == 0.0].sum() == 0, "what cannot be drawn was drawn"
    rare = expected < 5
    cells = np.append(observed[~rare], observed[rare].sum()), np.append(expected[~rare], expected[rare].sum())
    kept = cells[1] > 0.5
    assert kept.sum() > 3
    assert chisquare(cells[0][kept], cells[1][kept] * cells[0][kept].sum() / cells[1][kept].sum()).pvalue > 1e-4


class Frozen(Stand):
    """Knows what it learnt at first only, so that it stays wrong."""

    frozen = False

    def observe(self, rows: Rows) -> None:
        if not self.frozen:
            super().observe(rows)


@pytest.mark.parametrize("rule", [*REJECTION, "match"])
async def test_rejection_rules_keep_the_distribution(
    make_drafting: MakeDrafting,
    prompts: MakePrompts,
    finish: Finish,
    law: tuple[list[int], npt.NDArray[np.float64]],
    rule: str,
) -> None:
    """Of three tokens, and of the first of two rollouts beside each other, which must be independent."""
    names, joint = law
    stand = Frozen()
    source = Union([Suffix(), stand]) if rule == "mixed" else stand
    engine = make_drafting(source, rule=rule, policy=Fixed(((0,), (1,), (2,), (0, 0), (0, 1), (1, 0), (0, 0, 0))))

    def requests(count: int, seed: int, sampling: Sampling, max_tokens: int) -> list[Request]:
        (prompt,) = prompts(1)
        same = Request(prefix=prompt, seed=seed, sampling=sampling, max_tokens=max_tokens, ignore_eos=True)
        return [replace(same, key=key) for key in range(count)]

    await finish(engine, requests(1, 9, Sampling(temperature=0.0), 2))  # the prompt is in the cache from now on
    await finish(engine, requests(24, 1, Sampling(temperature=0.9), 8))
    stand.frozen = True
    before = engine.stats()
    done = await finish(engine, requests(3000, 2, Sampling(temperature=1.5, top_k=4), 4))
    after = engine.stats()
    accepted, drafted = after.accepted - before.accepted, after.drafted - before.drafted
    assert 1500 < accepted < drafted / 2
    place = {name: i for i, name in enumerate(names)}
    drawn = np.array([[place[token] for token in c.token_ids[:3]] for c in done])
    counts = np.zeros_like(joint)
    np.add.at(counts, tuple(drawn.T), 1.0)
    assert_fits(counts, joint)
    first = joint.sum(axis=(1, 2))
    pairs = np.zeros((len(names),) * 2)
    np.add.at(pairs, (drawn[::2, 0], drawn[1::2, 0]), 1.0)
    assert_fits(pairs, np.outer(first, first))


class Uneven(Source):
    """One of two tokens after prompts; the first is followed by more, the second by nothing."""

    name = "uneven"
    stochastic = True

    def __init__(self, tokens: Sequence[int]) -> None:
        self.tokens = tokens

    def state(self, stream: Stream) -> State:
        return "prompt" if len(stream.tokens) == stream.prompt_length else None

    def step(self, state: State, token: int) -> State:
        return "more" if state == "more" or token == self.tokens[0] else None

    def distribution(self, state: State) -> Distribution:
        return Distribution(self.tokens, [0.5, 0.5])


@pytest.mark.parametrize("rule", ["iid", "without-replacement"])
async def test_what_was_drawn_does_not_decide_whether_it_is_verified(
    make_drafting: MakeDrafting,
    prompts: MakePrompts,
    finish: Finish,
    law: tuple[list[int], npt.NDArray[np.float64]],
    rule: str,
) -> None:
    """The pool has room for two draft tokens: for all that follows the second token, not for what follows the first."""
    names, joint = law
    first = joint.sum(axis=(1, 2))
    likely = [names[i] for i in np.argsort(-first)[:2]]
    chain = Fixed(((0,), (0, 0), (0, 0, 0)))
    engine = make_drafting(Uneven(likely), rule=rule, policy=chain, kv_tokens=16, max_running=1)
    sampling = Sampling(temperature=1.5, top_k=4)
    done = await finish(
        engine,
        [
            Request(prefix=prompts(1)[0], seed=2, key=key, sampling=sampling, max_tokens=4, ignore_eos=True)
            for key in range(500)
        ],
    )
    counts = np.array([sum(c.token_ids[0] == name for c in done) for name in names], dtype=np.float64)
    assert_fits(counts, first)


class Wide(Source):
    """One of some tokens after prompts, and nothing behind it."""

    name = "wide"
    stochastic = True

    def __init__(self, tokens: Sequence[int]) -> None:
        self.tokens = tokens

    def state(self, stream: Stream) -> State:
        return True if len(stream.tokens) == stream.prompt_length else None

    def step(self, state: State, token: int) -> State:
        return None

    def distribution(self, state: State) -> Distribution:
        return Distribution(self.tokens, [1.0 / len(self.tokens)] * len(self.tokens))


async def test_a_tree_that_was_drawn_is_never_dropped_for_the_pool(
    make_drafting: MakeDrafting, prompts: MakePrompts, finish: Finish
) -> None:
    """One of the four tokens begins a cached run that fills what is left of the pool: were the whole run locked with
    it, the tokens drawn after it would find no room."""
    (prompt,) = prompts(1)
    words = list(WORDS[:4])
    four = Fixed(((0,), (1,), (2,), (3,)))
    engine = make_drafting(Wide(words), rule="without-replacement", policy=four, kv_tokens=20)
    for key in range(12):
        engine.drop_cache()
        for path in ((*prompt, *[words[0]] * 8), (*prompt, WORDS[5], 1)):  # two, so that the prompt is a run by itself
            await engine.score([path], 1)
        sampling = Sampling(temperature=1.5)
        request = Request(prefix=prompt, key=key, sampling=sampling, max_tokens=2, ignore_eos=True, owner="p")
        await finish(engine, [request])
        assert engine.stats().drafted == engine.usage("p").drafted_tokens == 4 * (key + 1)
