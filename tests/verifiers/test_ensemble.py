"""Several verifiers as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from reason.engine.scripted import ScriptedEngine
from reason.errors import UnknownName, UsageError
from reason.types import Engine, Trajectory, Usage, Verifier
from reason.verifiers import make_verifier
from reason.verifiers.confidence import Confidence
from reason.verifiers.ensemble import Ensemble
from reason.verifiers.judge import Judge
from reason.verifiers.logprob import LogProb

if TYPE_CHECKING:
    from tests.verifiers.conftest import MakeTrajectory

ENGINE = ScriptedEngine(["x"])


@dataclass(frozen=True)
class Fixed:
    """Gives the same scores to whatever it is asked."""

    scores: tuple[float, ...]
    tokens: int = 0
    name: str = "fixed"
    statistics: bool = False
    top_logprobs: int | None = None
    probability: bool = True

    async def score(self, trajectories: Sequence[Trajectory], engine: Engine, owner: str) -> list[float]:
        return list(self.scores[: len(trajectories)])

    def usage(self, owner: str) -> Usage:
        return Usage(verifier_tokens=self.tokens)


MEMBERS = (Fixed((0.9, 0.2)), Fixed((0.5, 0.2)), Fixed((0.1, 0.2)))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, (0.5, 0.2)),
        ({"how": "min"}, (0.1, 0.2)),
        ({"how": "disagreement"}, (0.5 - 0.5 * (0.16 + 0.16) / 3, 0.2)),
        ({"how": "disagreement", "weight": 0.0}, (0.5, 0.2)),
        ({"how": "disagreement", "weight": 1.0}, (0.5 - (0.16 + 0.16) / 3, 0.2)),
    ],
)
async def test_scores(fields: dict[str, Any], expected: tuple[float, ...], make_trajectory: MakeTrajectory) -> None:
    ensemble = Ensemble(members=MEMBERS, **fields)
    assert isinstance(ensemble, Verifier)
    scores = await ensemble.score([make_trajectory(), make_trajectory()], ENGINE, "p")
    assert scores == pytest.approx(expected)
    assert await ensemble.score([], ENGINE, "p") == []


async def test_members_that_agree_on_a_coin_are_halved_no_further(make_trajectory: MakeTrajectory) -> None:
    extremes = Ensemble(members=(Fixed((1.0,)), Fixed((0.0,))), how="disagreement", weight=1.0)
    assert await extremes.score([make_trajectory()], ENGINE, "p") == [0.25]


def test_what_its_members_need() -> None:
    ensemble = Ensemble(members=(Fixed(()), Fixed((), statistics=True, top_logprobs=3), Fixed((), top_logprobs=20)))
    assert (ensemble.statistics, ensemble.top_logprobs) == (True, 20)
    assert (Ensemble(members=MEMBERS).statistics, Ensemble(members=MEMBERS).top_logprobs) == (False, None)


def test_what_its_members_cost() -> None:
    ensemble = Ensemble(members=(Fixed((), tokens=5), Judge(), Fixed((), tokens=2)))
    assert ensemble.usage("p").verifier_tokens == 7
    ensemble.forget("p")  # of members that have nothing to forget
    ensemble.close()


def test_names() -> None:
    assert make_verifier("ensemble:judge+logprob,how=min") == Ensemble(members=(Judge(), LogProb()), how="min")
    nested = make_verifier("ensemble:judge:question=Sure?+logprob, how=disagreement, weight=0.25")
    assert nested == Ensemble(members=(Judge(question="Sure?"), LogProb()), how="disagreement", weight=0.25)
    assert make_verifier("ensemble", members=(Judge(),), how="min") == Ensemble(members=(Judge(),), how="min")
    prm: Any = make_verifier("ensemble:prm:some/model;format=rlhflow+judge")
    assert [member.name for member in prm.members] == ["prm", "judge"]
    assert prm.members[0].format == "rlhflow"


@pytest.mark.parametrize(
    ("name", "fields", "error", "message"),
    [
        ("ensemble", {}, UsageError, "ensemble needs its members: ensemble:MEMBERS"),
        ("ensemble:judge+", {}, UnknownName, "unknown verifier ''"),
        ("ensemble:judge,how=max", {}, UsageError, "how must be one of mean, min, disagreement"),
        ("ensemble:judge+self-certainty", {}, UsageError, "must give probabilities, and self-certainty does not"),
        ("ensemble:judge,weight=2", {}, UsageError, r"weight must be in \[0, 1\], got 2"),
        ("ensemble", {"members": ()}, UsageError, "at least one verifier, got"),
        ("ensemble", {"members": ("judge",)}, UsageError, "at least one verifier, got"),
    ],
)
def test_mistakes(name: str, fields: dict[str, Any], error: type[UsageError], message: str) -> None:
    with pytest.raises(error, match=message):
        make_verifier(name, **fields)


def test_no_probabilities() -> None:
    assert not Confidence().probability
    with pytest.raises(UsageError, match="confidence does not"):
        Ensemble(members=(Confidence(),))
