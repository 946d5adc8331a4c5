"""How many levels are best, and a draft model's options as users write them."""

from __future__ import annotations

import random

import pytest

from reason.errors import UnknownName, UsageError
from reason.speculate.sources import DRAFT_MODEL, make_source
from reason.speculate.sources.draft_shapes import DraftOptions, best_length
from reason.speculate.sources.lookup import Lookup
from reason.speculate.sources.union import Union


@pytest.mark.parametrize("seed", range(40))
def test_the_best_length_is_the_best_of_all(seed: int) -> None:
    rng = random.Random(seed)
    a = rng.choice([0.0, 0.3, 0.7, 0.95])
    draft = [rng.uniform(0.001, 0.02)] * 8
    target = [0.05 + 0.002 * rng.random() * rows for rows in range(9)]
    goodput = [(1 - a ** (n + 1)) / (1 - a) / (sum(draft[:n]) + target[n]) for n in range(9)]
    assert best_length(a, draft, target) == goodput.index(max(goodput))


def test_the_best_length_at_its_ends() -> None:
    assert best_length(1.0, [0.01] * 8, [0.1] * 9) == 8
    assert best_length(0.9, [1.0] * 8, [0.1] * 9) == 0
    assert best_length(0.9, [], [0.1]) == 0


def test_options_as_they_are_written() -> None:
    plain = DraftOptions.parse("some/model-0.5b")
    assert (plain.model, plain.shape.name, plain.length, plain.stop, plain.ngram) == (
        "some/model-0.5b",
        "chain",
        None,
        None,
        True,
    )
    full = DraftOptions.parse("a,b:c, shape=rsd-c:4,2,1,length=6,stop=0.3")
    assert (full.model, full.shape.name, full.length, full.stop, full.ngram) == ("a,b:c", "rsd-c", 6, 0.3, False)
    assert [full.shape.width(depth) for depth in range(1, 5)] == [4, 8, 8, 0]
    assert not DraftOptions.parse("m,ngram=false").ngram


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "needs the name of a model"),
        (",length=3", "needs the name of a model"),
        ("m,size=3", "knows no option 'size'"),
        ("m,length=0", "'length' wants whole numbers from 1 to 32, got '0'"),
        ("m,length=many", "'length' wants whole numbers"),
        ("m,length=2,length=3", "'length' is given twice"),
        ("m,stop=1", "'stop' wants a number between 0 and 1, got '1'"),
        ("m,stop=x", "'stop' wants a number"),
        ("m,shape=rsd-c", "'rsd-c' wants whole numbers from 1 to 8, got ''"),
        ("m,shape=rsd-c:2,9", "'rsd-c:2,9' wants whole numbers from 1 to 8, got '9'"),
        ("m,shape=rsd-s:0", "from 1 to 64"),
        ("m,shape=dyspec:1", "from 2 to 512"),
        ("m,ngram=maybe", "ngram is true or false"),
        ("m,shape=rsd-s:2,ngram=true", "true for shape=chain only"),
    ],
)
def test_options_that_are_not_allowed(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        DraftOptions.parse(text)
    assert message in str(caught.value)


@pytest.mark.parametrize("shape", ["tree", "chain:3", "rsd"])
def test_shapes_that_do_not_exist(shape: str) -> None:
    with pytest.raises(UnknownName, match="unknown draft shape"):
        DraftOptions.parse(f"m,shape={shape}")


def test_made_by_name() -> None:
    asked: list[str] = []

    def make(text: str) -> Lookup:
        asked.append(text)
        return Lookup()

    source = make_source("suffix+draft-model:some/model,shape=rsd-c:2,1", {DRAFT_MODEL: make})
    assert asked == ["some/model,shape=rsd-c:2,1"]
    assert isinstance(source, Union)
    with pytest.raises(UnknownName, match="draft-model:NAME"):
        make_source("draft-model", {DRAFT_MODEL: make})
