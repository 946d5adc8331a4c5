"""The embedders with weights of their own. Need them in the cache: the first use downloads them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from reason.engine.scripted import ScriptedEngine
from reason.models import Cache
from reason.types import Problem, Step, Trajectory
from reason.verifiers import make_embedder
from reason.verifiers.embeddings import minilm, wordllama

pytestmark = pytest.mark.weights
FOLDERS = {"minilm": "all-minilm-l6-v2", "wordllama": "wordllama-l2-supercat-256"}
STEPS = (
    "Natalia sold 48/2 = 24 clips in May.",
    "In May, Natalia sold 48/2 = 24 clips.",
    "Altogether she sold 48 + 24 = 72 clips in April and May.",
    "The train leaves at noon.",
    "",
)


def need(name: str) -> None:
    if Cache.default().find(FOLDERS[name]) is None:
        pytest.skip(f"{FOLDERS[name]} is not cached")


@pytest.mark.parametrize("name", FOLDERS)
async def test_steps_that_say_the_same_are_close(name: str) -> None:
    need(name)
    given = [Trajectory(problem=Problem(content="?"), prompt=(1,), steps=(Step(text=s, tokens=(1,)),)) for s in STEPS]
    embedder: Any = make_embedder(name)
    engine = ScriptedEngine(["x"])
    found = np.array(await embedder.embed(given, engine, "me"))
    assert np.isfinite(found).all()
    assert (await embedder.embed(given[2:3], engine, "me"))[0] == found[2].tolist()
    unit = found[:4] / np.linalg.norm(found[:4], axis=1, keepdims=True)
    apart = 1 - unit @ unit.T
    assert apart[0, 1] < embedder.same_distance < apart[0, 2] < apart[0, 3]


def test_minilm_gives_the_published_vector() -> None:
    """The first numbers that the model's users see for this text, of length 1."""
    need("minilm")
    (vector,) = np.array(minilm._VECTORS.of(["This is an example sentence"]))
    expected = [0.0676569, 0.0634959, 0.0487131, 0.0793050, 0.0374480]
    assert (vector / np.linalg.norm(vector))[:5] == pytest.approx(expected, abs=1e-5)


def test_minilm_cuts_long_texts() -> None:
    need("minilm")
    long = "one two three " * 200
    assert minilm._VECTORS.of([long]) == minilm._VECTORS.of([long + "four"])


def test_wordllama_is_the_mean_of_its_words() -> None:
    need("wordllama")
    one, two, both = np.array(wordllama._VECTORS.of(["car", "park", "park car"]))
    assert both == pytest.approx((one + two) / 2, abs=1e-6)
