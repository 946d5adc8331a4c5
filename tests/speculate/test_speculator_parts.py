"""Which sources, rules and policies go together, and how they are named."""

from __future__ import annotations

from pathlib import Path as FilePath

import pytest

from reason.errors import UnknownName, UsageError
from reason.speculate.build import make_speculator
from reason.speculate.policy import Fixed, Goodput, save_template
from reason.speculate.sources import AUTO, SOURCES, make_source
from reason.speculate.speculator import Speculator
from tests.speculate.toy import ANY, BUSH, REJECTION, Toy

DETERMINISTIC = [name for name, make in SOURCES.items() if not make().stochastic]

# -- what goes together --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ANY)
def test_rules_that_follow_the_plain_samples_take_anything(rule: str) -> None:
    for source in (*SOURCES, AUTO, "+".join(SOURCES)):
        for policy in ("auto", "goodput", "fixed", "nodes:3"):
            speculator = make_speculator(source, rule=rule, policy=policy)
            assert speculator is not None
            assert speculator.takes_any_tree
    assert isinstance(Speculator(Toy(), rule=rule).policy, Goodput)


@pytest.mark.parametrize("rule", REJECTION)
def test_rejection_rules_draw_from_one_source_into_granted_slots(rule: str) -> None:
    speculator = Speculator(make_source("stand"), rule=rule)
    assert isinstance(speculator.policy, Fixed)
    assert not speculator.takes_any_tree
    assert Speculator(Toy(), rule=rule, policy=Fixed(BUSH)).rule.name == rule


@pytest.mark.parametrize("rule", [*REJECTION, "mixed"])
def test_rejection_rules_refuse_policies_that_look_at_tokens(rule: str) -> None:
    source = "lookup+stand" if rule == "mixed" else "stand"
    for policy in ("goodput", "nodes:5"):
        with pytest.raises(UsageError, match=f"rule '{rule}' is exact only where slots are granted.*'goodput'"):
            make_speculator(source, rule=rule, policy=policy)


@pytest.mark.parametrize("rule", REJECTION)
def test_rejection_rules_refuse_unions(rule: str) -> None:
    for source in ("stand+lookup", "lookup+stand", AUTO):
        with pytest.raises(UsageError, match=f"rule '{rule}' is not exact for a union of sources.*'coupled'") as caught:
            make_speculator(source, rule=rule)
        assert source in str(caught.value)


@pytest.mark.parametrize("rule", REJECTION)
@pytest.mark.parametrize("source", DETERMINISTIC)
def test_rejection_rules_refuse_sources_that_are_not_drawn_from(rule: str, source: str) -> None:
    with pytest.raises(UsageError, match=f"rule '{rule}' needs a source that tokens are drawn from, and '{source}'"):
        make_speculator(source, rule=rule)


def test_only_stand_is_drawn_from() -> None:
    assert [name for name in SOURCES if name not in DETERMINISTIC] == ["stand"]


@pytest.mark.parametrize("source", ["stand", "lookup", "stand+lookup", "lookup+suffix", "lookup+suffix+stand"])
def test_mixed_refuses_all_but_one_source_and_one_to_draw_from(source: str) -> None:
    with pytest.raises(UsageError, match="rule 'mixed' needs two sources, the second with probabilities") as caught:
        make_speculator(source, rule="mixed")
    assert repr(source) in str(caught.value)


@pytest.mark.parametrize("first", [*DETERMINISTIC])
def test_mixed_takes_any_source_beside_one_to_draw_from(first: str) -> None:
    speculator = make_speculator(f"{first}+stand", rule="mixed")
    assert speculator is not None
    assert isinstance(speculator.policy, Fixed)


# -- names ---------------------------------------------------------------------------------------------------------


def test_names_of_sources() -> None:
    assert make_speculator("none") is None
    for given, name in {"auto": AUTO, "Stand": "stand", " goose + suffix ": "goose+suffix"}.items():
        speculator = make_speculator(given)
        assert speculator is not None
        assert speculator.source.name == name
        assert speculator.rule.name == "coupled"
    made = make_speculator("draft-model:tiny+stand", others={"draft-model": Toy})
    assert made is not None
    assert made.source.name == "tiny+stand"


@pytest.mark.parametrize("draft", ["stnd", "", "stand+", "stand+eagle", "stand:x", "draft-model:tiny", "none+stand"])
def test_unknown_sources_are_named(draft: str) -> None:
    with pytest.raises(UnknownName, match="unknown draft source") as caught:
        make_speculator(draft)
    assert "token-recycling" in str(caught.value)


@pytest.mark.parametrize("draft", ["stand+stand", "goose+stand+goose", "Stand+stand"])
def test_a_source_is_named_once(draft: str) -> None:
    with pytest.raises(UsageError, match="twice"):
        make_speculator(draft)


@pytest.mark.parametrize("rule", ["typical", "", "mix"])
def test_unknown_rules_are_named(rule: str) -> None:
    with pytest.raises(UnknownName, match=r"unknown verification rule.*without-replacement"):
        make_speculator("stand", rule=rule)
    assert make_speculator("stand", rule="K-Seq") is not None


@pytest.mark.parametrize("policy", ["", "tree", "nodes", "nodes:", "nodes:0", "nodes:-3", "nodes:x", "goodput:3"])
def test_unknown_policies_are_named(policy: str) -> None:
    with pytest.raises(UnknownName, match=r"unknown draft policy.*nodes:N"):
        make_speculator("stand", policy=policy)


def test_policies_by_name(tmp_path: FilePath) -> None:
    save_template(tmp_path / "tree.json", BUSH, "a test")
    fixed = make_speculator("stand", policy=f"fixed:{tmp_path / 'tree.json'}")
    assert fixed is not None
    assert isinstance(fixed.policy, Fixed)
    assert fixed.policy.template == BUSH
    with pytest.raises(UsageError, match="is not a draft tree"):
        make_speculator("stand", policy=f"fixed:{tmp_path / 'none.json'}")
    nodes = make_speculator("stand", policy="nodes:5")
    assert nodes is not None
    assert isinstance(nodes.policy, Goodput)
    assert not nodes.policy.decides
