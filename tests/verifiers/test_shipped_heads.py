"""The value heads that come with the package."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from reason.engine.scripted import ScriptedEngine
from reason.errors import UsageError
from reason.models.catalogue import CATALOGUE
from reason.search.measuring import find_verifiers
from reason.search.strategies import make_strategy
from reason.verifiers import default_verifier, make_verifier
from reason.verifiers.probes import fingerprint
from reason.verifiers.value_head import SHIPPED, HeadVerifier, find_shipped, shipped


@pytest.mark.parametrize("model", SHIPPED)
def test_each_is_whole_small_and_has_a_card(model: str) -> None:
    file = Path(shipped.__file__).parent / "heads" / SHIPPED[model]
    assert file.stat().st_size < 2_000_000
    head = find_shipped(model)
    assert head is not None
    assert head.model == model
    assert model in CATALOGUE
    assert head.about["figures"]["step AUC"][0] > 0.7
    card = file.with_suffix(".md").read_text(encoding="utf-8")
    assert f"# Value head for {model}" in card
    assert "gsm8k-train" in card
    assert not re.search(r"(?<![\w.])/(?:home|tmp|work|root|mnt)/", card + str(head.about))


@pytest.mark.parametrize("model", SHIPPED)
def test_it_is_the_default_of_its_model(model: str) -> None:
    for name in (model, CATALOGUE[model].hub_repo):
        assert name is not None
        assert default_verifier(name) == "head"
        (verifier,) = find_verifiers(make_strategy("beam"), model=name).values()
        assert isinstance(verifier, HeadVerifier)
        assert fingerprint(verifier, name) == find_shipped(model).name  # type: ignore[union-attr]
    with pytest.raises(UsageError, match=re.escape(model)):  # another model's states
        HeadVerifier().probes(ScriptedEngine([]))


def test_other_models_have_none() -> None:
    assert find_shipped("some-model") is None
    assert default_verifier("some-model") == default_verifier(None) == "self-certainty"
    assert fingerprint(make_verifier("head"), "some-model") == ""
    assert fingerprint(make_verifier("head"), None) == ""
