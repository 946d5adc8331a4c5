"""Embedders by name, what each makes of a step, and what is remembered."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from reason.engine.scripted import ScriptedEngine
from reason.errors import ModelError, UnknownName, UsageError
from reason.types import Embedder, Problem, Scored, Step, Trajectory
from reason.verifiers import EMBEDDERS, VERIFIERS, make_embedder, make_measure
from reason.verifiers.embeddings import sentences
from reason.verifiers.embeddings.hidden import HiddenStates
from reason.verifiers.embeddings.sentences import SentenceTransformers
from reason.verifiers.embeddings.texts import TextVectors


def trajectory(*steps: str) -> Trajectory:
    return Trajectory(
        problem=Problem(content="What?"),
        prompt=(1, 2, 3),
        steps=tuple(Step(text=text, tokens=tuple(text.encode())) for text in steps),
    )


@pytest.mark.parametrize("name", EMBEDDERS)
def test_each_is_an_embedder_of_its_name(name: str) -> None:
    embedder: Any = make_embedder(name)
    assert 0 < embedder.same_distance < 0.5
    assert isinstance(embedder, Embedder)
    assert embedder.name == name
    assert make_measure(f" {name.upper()}") == embedder
    assert name not in VERIFIERS


def test_fields_in_the_name() -> None:
    embedder = make_embedder("sentence-transformers:model=BAAI/bge-small-en-v1.5,same_distance=0.1")
    assert embedder == SentenceTransformers(model="BAAI/bge-small-en-v1.5", same_distance=0.1)
    with pytest.raises(UnknownName, match="unknown embedder 'minilmm'"):
        make_embedder("minilmm")
    with pytest.raises(UsageError, match="model must name"):
        SentenceTransformers(model="")
    with pytest.raises(UsageError, match=r"same_distance must be in \(0, 2\], got 0"):
        SentenceTransformers(same_distance=0)


# -- hidden ----------------------------------------------------------------------------------------------------------


class StatesEngine(ScriptedEngine):
    """The state at a token is (the token, its place)."""

    def __init__(self) -> None:
        super().__init__(["x"])
        self.rows = 0

    async def score(
        self,
        paths: Sequence[tuple[int, ...]],
        start: int,
        *,
        logprobs: bool = True,
        layers: Sequence[int] = (),
        owner: str = "",
    ) -> Sequence[Scored]:
        assert tuple(layers) == (-1,)
        assert owner == "me"
        self.rows += sum(len(path) - start for path in paths)
        states = [[[float(path[i]), float(i)] for i in range(start, len(path))] for path in paths]
        return [Scored(logprobs=torch.zeros(len(rows)), hidden={-1: torch.tensor(rows)}) for rows in states]


async def test_hidden_is_the_mean_of_what_the_last_step_was_drawn_from() -> None:
    engine = StatesEngine()
    one, two = trajectory("ab", "df"), trajectory("b")
    assert await HiddenStates().embed([one, two], engine, "me") == [[99.0, 4.5], [3.0, 2.0]]
    assert engine.rows == 3  # those of the last steps
    assert await HiddenStates().embed([two], engine, "me") == [[3.0, 2.0]]
    assert await HiddenStates().embed([], engine, "me") == []


async def test_hidden_of_a_step_without_tokens_is_the_state_before_it() -> None:
    assert await HiddenStates().embed([trajectory("ab", "")], StatesEngine(), "me") == [[98.0, 4.0]]


# -- texts -----------------------------------------------------------------------------------------------------------


def counting(asked: list[str]) -> TextVectors:
    def load() -> Any:
        asked.append("load")

        def embed(text: str) -> Any:
            asked.append(text)
            return np.array([len(text), threading.get_ident() % 997], dtype=np.float32)

        return embed

    return TextVectors(load, size=3)


def test_texts_are_embedded_once_and_the_oldest_forgotten() -> None:
    asked: list[str] = []
    vectors = counting(asked)
    assert asked == []
    assert [vector[0] for vector in vectors.of(["a", "bb", "a"])] == [1.0, 2.0, 1.0]
    vectors.of(["ccc", "a", "dddd"])  # bb was not used for longest
    assert asked == ["load", "a", "bb", "ccc", "dddd"]
    vectors.of(["a", "bb"])
    assert asked == ["load", "a", "bb", "ccc", "dddd", "bb"]


async def test_texts_are_embedded_beside_the_event_loop() -> None:
    vectors = counting([])
    found = await vectors.of_last_steps([trajectory("x", "  ab \n\n"), trajectory("q", " ab"), trajectory()])
    assert [vector[0] for vector in found] == [2.0, 2.0, 0.0]  # without the white space around them
    assert found[0][1] != threading.get_ident() % 997


async def test_many_may_ask_at_once() -> None:
    asked: list[str] = []
    vectors = counting(asked)
    await asyncio.gather(*(vectors.of_last_steps([trajectory("a"), trajectory("bb")]) for _ in range(20)))
    assert sorted(asked) == ["a", "bb", "load"]


# -- sentence-transformers -------------------------------------------------------------------------------------------


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """In the library's place: what was loaded, and what was embedded."""
    said: list[Any] = []

    class SentenceTransformer:
        def __init__(self, name: str, **options: Any) -> None:
            if name == "gone":
                raise OSError("gone is not a local folder\nand more")
            said.append((name, options))

        def encode(self, text: str, **options: Any) -> Any:
            said.append(text)
            return np.array([len(text), 1.0], dtype=np.float32)

    monkeypatch.setitem(sys.modules, "sentence_transformers", SimpleNamespace(SentenceTransformer=SentenceTransformer))
    sentences._vectors.cache_clear()
    return said


async def test_sentence_transformers_are_loaded_at_the_first_use(library: list[Any]) -> None:
    embedder, engine = SentenceTransformers(model="some/model"), ScriptedEngine(["x"])
    assert library == []
    assert await embedder.embed([trajectory("ab"), trajectory("x", "ab")], engine, "me") == [[2.0, 1.0], [2.0, 1.0]]
    assert await SentenceTransformers(model="some/model").embed([trajectory("abc")], engine, "me") == [[3.0, 1.0]]
    assert library == [("some/model", {"device": "cpu"}), "ab", "abc"]


async def test_a_model_that_cannot_be_had(library: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    engine = ScriptedEngine(["x"])
    with pytest.raises(ModelError, match=r"model 'gone' cannot be had: gone is not a local folder\. Others: minilm"):
        await SentenceTransformers(model="gone").embed([trajectory("ab")], engine, "me")
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ModelError, match="pip install sentence-transformers"):
        await SentenceTransformers(model="other").embed([trajectory("ab")], engine, "me")
