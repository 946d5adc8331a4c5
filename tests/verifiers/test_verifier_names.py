"""Verifiers by name, and what holds for every one of them."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError
from typing import TYPE_CHECKING, Any

import pytest

from reason.engine.scripted import ScriptedEngine
from reason.errors import UnknownName, UsageError
from reason.types import Verifier
from reason.verifiers import VERIFIERS, default_verifier, make_verifier
from reason.verifiers.confidence import Confidence
from reason.verifiers.judge import Judge

if TYPE_CHECKING:
    from tests.verifiers.conftest import MakeTrajectory, Play

RECORDED = ("confidence", "entropy", "logprob", "self-certainty")
OF_PROGRAMS = {"codet", "public-tests"}
OF_MODELS = {"head"}  # nothing to a scripted engine
LINES = ("3 * 4 = 12\n", "3 * 4 = 12\nso 12\n", "3 * 4 = 34\nno idea\n")


def noise(prefix: str, token: str) -> float:
    """A log-probability that looks random."""
    return -0.05 - (len(prefix) * 7 + ord(token) * 13) % 11 / 5


@pytest.mark.parametrize("name", VERIFIERS)
def test_each_is_a_verifier_of_its_name(name: str) -> None:
    verifier = make_verifier(name)
    assert isinstance(verifier, Verifier)
    assert verifier.name == name
    assert make_verifier(verifier) is verifier
    assert make_verifier(f" {name.upper()}") == verifier
    with pytest.raises(FrozenInstanceError):
        verifier.window = 3  # type: ignore[attr-defined]


def test_the_default_exists() -> None:
    assert default_verifier(None) in VERIFIERS


def test_fields_by_name_and_as_text() -> None:
    expected = Confidence(variant="tail", window=512)
    assert make_verifier("confidence", variant="tail", window=512) == expected
    assert make_verifier("confidence:variant=tail, window=512") == expected
    assert make_verifier("confidence:variant=tail", window=512) == expected
    assert make_verifier("judge:question=Sure?") == Judge(question="Sure?")


@pytest.mark.parametrize(
    ("name", "fields", "error", "message"),
    [
        ("jduge", {}, UnknownName, "unknown verifier 'jduge'. Did you mean 'judge'"),
        ("entropy", {"windw": 1}, UnknownName, "unknown field of entropy 'windw'. Did you mean 'window'"),
        ("entropy", {"name": "x"}, UnknownName, "unknown field of entropy 'name'"),
        ("entropy", {"window": "8"}, UsageError, "window must be a whole number, got '8'"),
        ("entropy", {"window": True}, UsageError, "window must be a whole number, got True"),
        ("entropy", {"window": -1}, UsageError, "window must be at least 0"),
        ("entropy:window=x", {}, UsageError, "window must be a whole number, got 'x'"),
        ("entropy:window", {}, UsageError, "written field=value, got 'window'"),
        ("entropy:", {}, UsageError, "written field=value, got ''"),
        ("entropy:size=3", {}, UnknownName, "unknown field of entropy 'size'"),
        ("entropy:window=3", {"window": 3}, UsageError, "window is given twice"),
        ("judge:yes=Y", {}, UsageError, "yes cannot be written as text"),
        ("confidence:variant=best", {}, UsageError, "variant must be one of"),
        (Judge(), {"question": "?"}, UsageError, "not with an object: question"),
        (Judge, {}, UsageError, "a verifier is a name or an object with a score method"),
        (3, {}, UsageError, "a verifier is a name or an object with a score method, got 3"),
    ],
)
def test_mistakes(name: Any, fields: dict[str, Any], error: type[UsageError], message: str) -> None:
    with pytest.raises(error, match=message):
        make_verifier(name, **fields)


@pytest.mark.parametrize(
    "name", sorted(set(VERIFIERS) - {"agreement", "tools", "value-prompt"} - OF_PROGRAMS - OF_MODELS)
)
async def test_scores_do_not_depend_on_the_batch(name: str, play: Play) -> None:
    verifier, engine = make_verifier(name), ScriptedEngine(["x"], logprob=noise)
    paths = [await play(engine, verifier, text) for text in LINES]
    together = await verifier.score(paths, engine, "p")
    alone = [(await verifier.score([path], engine, "p"))[0] for path in paths]
    assert together == alone
    flat = name == "separability"  # scripted rows are even but for one token, which then stands out without measure
    assert len(set(together)) == (1 if flat else len(paths))
    assert all(math.isfinite(score) and score >= 0 for score in together)
    assert not verifier.probability or max(together) <= 1
    assert await verifier.score([], engine, "p") == []


@pytest.mark.parametrize("name", RECORDED)
async def test_an_empty_step_is_judged_by_the_one_before(
    name: str, play: Play, make_trajectory: MakeTrajectory
) -> None:
    verifier, engine = make_verifier(name), ScriptedEngine(["x"], logprob=noise)
    path = await play(engine, verifier, LINES[1])
    rows = [step.logprobs for step in path.steps]
    expected, got, nothing, none = await verifier.score(
        [path, make_trajectory(*rows, [], []), make_trajectory([]), make_trajectory()], engine, "p"
    )
    assert got == expected
    assert nothing == none == 0.0


@pytest.mark.parametrize("name", sorted(set(VERIFIERS) - OF_PROGRAMS - OF_MODELS))
async def test_empty_paths_have_a_finite_score(name: str, make_trajectory: MakeTrajectory) -> None:
    engine = ScriptedEngine(["x"])
    for score in await make_verifier(name).score([make_trajectory(), make_trajectory([])], engine, "p"):
        assert 0 <= score <= 1


@pytest.mark.parametrize("name", RECORDED)
async def test_what_was_not_recorded_is_asked_for(name: str, play: Play) -> None:
    verifier, engine = make_verifier(name), ScriptedEngine(["x"])
    path = await play(engine, make_verifier("agreement"), LINES[1])
    expected = {"confidence": "logprobs=20", "logprob": "logprobs=0"}.get(name, "logprobs=0, statistics=True")
    message = rf"the {name} verifier reads what is recorded while steps are generated \(Sampling {expected}\)"
    with pytest.raises(UsageError, match=message):
        await verifier.score([path], engine, "p")
    if name != "logprob":  # recorded, but not what it needs
        path = await play(engine, make_verifier("logprob"), LINES[1])
        with pytest.raises(UsageError, match=message):
            await verifier.score([path], engine, "p")
