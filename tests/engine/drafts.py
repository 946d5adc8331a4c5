"""Requests whose tokens drafting must not change, and what is drafted for them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from reason.engine.local import LocalEngine
from reason.speculate.build import make_speculator
from reason.speculate.draft import Distribution, Source, State, Stream
from reason.speculate.policy import Policy, wide_template
from reason.speculate.sources import make_source
from reason.speculate.speculator import Speculator
from reason.types import Completion, Path, Request, Sampling

if TYPE_CHECKING:
    from tests.engine.conftest import MakePrompts

WORDS = range(67, 79)
"""The tokens that the model says."""
MANY = "stand+goose+suffix"
REJECTION = {
    "iid": "stand",
    "k-seq": "stand",
    "without-replacement": "stand",
    "traversal": "stand",
    "traversal-iid": "stand",
    "mixed": "lookup+stand",
}
BUSH = wide_template(nodes=10, depth=4, width=3)

MakeDrafting = Callable[..., LocalEngine]
Compare = Callable[..., Awaitable[LocalEngine]]


def speculator_of(draft: str | Source, rule: str, policy: str | Policy) -> Speculator | None:
    if isinstance(draft, str) and isinstance(policy, str):
        return make_speculator(draft, rule=rule, policy=policy)
    source = make_source(draft) if isinstance(draft, str) else draft
    return Speculator(source, rule=rule, policy=None if isinstance(policy, str) else policy)


def assert_same(done: Sequence[Completion], expected: Sequence[Completion]) -> None:
    for one, other in zip(done, expected, strict=True):
        assert one.error is None, one.error
        assert one.token_ids == other.token_ids
        assert replace(one, logprobs=()) == replace(other, logprobs=())
        assert len(one.logprobs) == len(other.logprobs)
        for row, wanted in zip(one.logprobs, other.logprobs, strict=True):
            assert row.token == pytest.approx(wanted.token, abs=1e-4)
            assert [value for _, value in row.top] == pytest.approx([value for _, value in wanted.top], abs=1e-4)
            assert (row.entropy is None, row.self_certainty is None) == (wanted.entropy is None, wanted.entropy is None)
            if wanted.entropy is not None and wanted.self_certainty is not None:
                assert row.entropy == pytest.approx(wanted.entropy, abs=1e-4)
                assert row.self_certainty == pytest.approx(wanted.self_certainty, abs=1e-4)


def requests_for(paths: Sequence[Path], *, max_tokens: int = 40, **sampling: Any) -> list[Request]:
    made = Sampling(**sampling)
    return [
        Request(prefix=path, seed=7, key=i, sampling=made, max_tokens=max_tokens, ignore_eos=True, owner="p")
        for i, path in enumerate(paths)
    ]


def eight(prompts: MakePrompts) -> list[Path]:
    """Eight branches: six rollouts of one prompt, and two others."""
    paths = prompts(3, 12)
    return [paths[0]] * 6 + paths[1:]


class Guess(Source):
    """The same token everywhere, or after prompts only."""

    name = "guess"

    def __init__(self, token: int, *, after_prompts: bool = False) -> None:
        self.token = token
        self.after_prompts = after_prompts

    def state(self, stream: Stream) -> State:
        return True if not self.after_prompts or len(stream.tokens) == stream.prompt_length else None

    def step(self, state: State, token: int) -> State:
        return None

    def distribution(self, state: State) -> Distribution:
        return Distribution([self.token], [0.9])
