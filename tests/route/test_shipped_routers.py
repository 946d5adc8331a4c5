"""The routers that come with the package."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from reason.errors import UsageError
from reason.models.catalogue import CATALOGUE, SMALLER
from reason.route import make_router
from reason.route.shipped import SHIPPED, shipped_router
from reason.verifiers.value_head import ValueHead


@pytest.mark.parametrize("pair", SHIPPED)
def test_each_is_whole_small_and_has_a_card(pair: tuple[str, str]) -> None:
    draft, target = pair
    assert SMALLER[target] == draft
    file = shipped_router(draft, target)
    assert shipped_router(str(CATALOGUE[draft].hub_repo), str(CATALOGUE[target].hub_repo)) == file
    assert file.stat().st_size < 2_000_000
    head = ValueHead.load(file)
    assert (head.model, head.about["target"]) == pair
    thresholds = head.about["thresholds"]
    assert len(thresholds) == 101
    assert (np.diff(thresholds) <= 0).all()
    card = file.with_suffix(".md").read_text(encoding="utf-8")
    assert f"# Router for {draft} and {target}" in card
    assert "gsm8k-train" in card
    assert not re.search(r"(?<![\w.])/(?:home|tmp|work|root|mnt)/", card + str(head.about))


@pytest.mark.parametrize("pair", SHIPPED)
def test_arbitrage_takes_it_by_itself(pair: tuple[str, str]) -> None:
    draft, target = (SimpleNamespace(name=name) for name in pair)
    router: Any = make_router("arbitrage:escalate=0.3")
    router.check(draft, target)
    named: Any = make_router(f"arbitrage:{shipped_router(*pair)},escalate=0.3")
    named.check(draft, target)
    assert router._limit(draft) == named._limit(draft)
    with pytest.raises(UsageError, match=f"no router comes with the package for {pair[0]} and other"):
        router.check(draft, SimpleNamespace(name="other"))
