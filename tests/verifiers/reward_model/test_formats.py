"""Each published format: the tokens, the scores, and that longer paths begin with the shorter ones'."""

from __future__ import annotations

import gzip
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from reason.engine.scripted import ScriptedEngine
from reason.verifiers.reward_model.formats import FORMATS
from tests.verifiers.reward_model.conftest import (
    BAD,
    GOOD,
    QUESTION,
    STEPS,
    TAG,
    Kind,
    MakeVerifier,
    trajectory,
)

ENGINE = ScriptedEngine(["x"])


async def test_step_by_step_equals_one_forward_over_the_whole_text(kind: Kind, make_prm: MakeVerifier) -> None:
    verifier = make_prm(kind)
    expected = kind.refer(QUESTION, STEPS).scores
    got = [(await verifier.score([trajectory(*STEPS[:count])], ENGINE, "p"))[0] for count in range(1, len(STEPS) + 1)]
    assert got == pytest.approx(expected, abs=1e-4)
    assert len({round(score, 3) for score in got}) == len(STEPS)  # scores that say something
    assert all(0 < score < 1 for score in got)


def test_the_tokens_are_those_of_the_whole_text(kind: Kind, make_prm: MakeVerifier) -> None:
    model = make_prm(kind).load()
    reference = kind.refer(QUESTION, STEPS)
    path = model.path(trajectory(*STEPS))
    assert path is not None
    assert list(path) == reference.ids[: reference.places[-1] + 1]


def test_a_step_s_tokens_do_not_depend_on_what_follows(kind: Kind, make_prm: MakeVerifier) -> None:
    model = make_prm(kind).load()
    paths = [model.path(trajectory(*STEPS[:count])) or () for count in range(1, len(STEPS) + 1)]
    # The closing turn and the full stop, which merges with the line break after it, only end what they close.
    closing = 3 if FORMATS[kind.format].closes else 0
    for shorter, longer in itertools.pairwise(paths):
        kept = len(shorter) - closing
        assert longer[:kept] == shorter[:kept]
        other = model.path(trajectory(*STEPS[: paths.index(shorter) + 1], "- and something else?")) or ()
        assert other[:kept] == shorter[:kept]


def test_formats_are_found_by_class_and_by_name(kind: Kind, make_prm: MakeVerifier) -> None:
    assert make_prm(kind).load()._form is FORMATS[kind.format]


def test_the_tags_are_the_published_tokens(kinds: Callable[[str], Kind], make_prm: MakeVerifier) -> None:
    kind = kinds("math_shepherd")
    model = make_prm(kind).load()
    assert model._tokens.words == (GOOD, BAD)
    path = model.path(trajectory(*STEPS)) or ()
    assert path[0] == 1  # BOS
    assert [place for place, token in enumerate(path) if token == TAG] == kind.refer(QUESTION, STEPS).places
    assert path[-1] == TAG


async def test_nodes_of_several_steps_and_blank_steps(kind: Kind, make_prm: MakeVerifier) -> None:
    verifier = make_prm(kind)
    whole = trajectory("\n\n".join(STEPS))
    model = verifier.load()
    assert model.path(whole) == model.path(trajectory(*STEPS)) == model.path(trajectory(" ", *STEPS, " \n"))
    assert await verifier.score([trajectory(), trajectory(" ", "\n")], ENGINE, "p") == [0.0, 0.0]
    assert await verifier.score([], ENGINE, "p") == []


def test_steps_that_are_numbered_already_are_not_numbered_again(
    kinds: Callable[[str], Kind], make_prm: MakeVerifier
) -> None:
    model = make_prm(kinds("math_shepherd")).load()
    plain, numbered = trajectory("One.", "Two."), trajectory("Step 1: One.", "Step 2: Two.")
    assert model.path(plain) == model.path(numbered)


def test_the_published_example_rows_are_spelled_as_they_are(
    kinds: Callable[[str], Kind], make_prm: MakeVerifier, data_dir: Path
) -> None:
    """Math-Shepherd's own records: question, steps and tags in one text."""
    model = make_prm(kinds("math_shepherd")).load()
    with gzip.open(data_dir / "process" / "prm_format_examples.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    texts = [row["row"]["input"] for row in rows if row["format"] == "math_shepherd"]
    assert len(texts) == 7
    for text in texts:
        question, first, rest = text.partition(" Step 1:")
        steps = [step.strip() for step in (first + rest).split("ки") if step.strip()]
        path = model.path(trajectory(*steps, question=question)) or ()
        assert list(path) == model._tokens._codec.tokenizer.encode(text.strip())
