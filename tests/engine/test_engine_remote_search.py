"""Strategies, verifiers and routing over a server, as over any engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path as FilePath
from typing import Any

import pytest

from reason.api import Solver
from reason.cli.solve import measure_names
from reason.engine.codec import HubCodec
from reason.engine.remote import RemoteEngine
from reason.engine.scripted import ScriptedEngine
from reason.errors import UsageError
from reason.route import RoutedEngine, make_router
from reason.search.journal import read_journal
from reason.search.measuring import find_verifiers
from reason.search.strategies import make_strategy
from reason.sync import run_sync
from reason.types import Budget, Capabilities, Problem, capabilities_of
from reason.verifiers import default_embedder, default_verifier
from tests.engine.remote_servers import FakeServer, running

PROBLEM = Problem(content="what is 3 times 4?")
SETTINGS: dict[str, dict[str, Any]] = {
    "best-of-n": {"num_samples": 5, "select": "weighted"},
    "beam": {"width": 4, "beam_width": 2, "max_steps": 4},
    "ets": {"width": 4, "max_steps": 4},
    "mcts": {"iterations": 3, "max_steps": 4},
    "best-first": {"num_children": 2, "iterations": 4},
    "merge": {"width": 4, "beam_width": 2, "max_steps": 3, "embedder": "mine", "distance": 0.1},
}


def script(text: str) -> list[str]:
    """What is left of a solution of two steps and an answer."""
    done = text.count("add") + text.count("multiply")
    first = ["so add 3\n\n", "then multiply\n\n", "the answer is \\boxed{12}"]
    second = ["multiply first\n\n", "add the rest\n\n", "no, \\boxed{7}"]
    return ["".join(steps[min(done, 2) :]) for steps in (first, first, second)]


class ByLength:
    """An embedder that needs no model."""

    name = "mine"

    async def embed(self, trajectories: Any, engine: Any, owner: str) -> list[list[float]]:
        return [[1.0, float(len(each.text) % 3)] for each in trajectories]


@pytest.fixture(params=["vllm", "llama.cpp", "text"])
def engine(request: pytest.FixtureRequest, codec: HubCodec) -> Iterator[RemoteEngine]:
    text_only = request.param == "text"
    kind = "vllm" if text_only else request.param
    server = FakeServer(script, kind=kind, codec=None if text_only else codec)
    with running(server.app) as address:
        made = RemoteEngine(address, backoff=0.01, codec=None if text_only else codec)
        yield made
        made.close()


@pytest.mark.parametrize("name", SETTINGS)
def test_strategies(engine: RemoteEngine, name: str, tmp_path: FilePath) -> None:
    solver = Solver(engine=engine)
    options = SETTINGS[name] | {"max_tokens": 80, "verifiers": {"mine": ByLength(), "minilm": ByLength()}}
    solution = solver.solve(PROBLEM, name, **options)
    assert solution.answer in ("12", "7")
    assert solution.usage.policy_tokens > 0
    bound = solver.solve(PROBLEM, name, budget=Budget(policy_tokens=60, calls=4), **options)
    assert bound.usage.policy_tokens <= 60
    assert bound.usage.calls <= 4
    journal = tmp_path / "trace.jsonl"

    def run() -> Any:
        return run_sync(solver.start(PROBLEM, name, journal=journal, **options).solve())

    first = run()
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[: len(lines) * 2 // 3]))
    again = run()
    assert again.answer is not None
    journal.write_bytes(b"".join(lines[:-1]))
    assert run().text == first.text, "what was recorded is read again"


def test_auto_is_what_the_server_has_enough_for(engine: RemoteEngine) -> None:
    (found,) = find_verifiers(make_strategy("beam"), model=engine.name, can=engine.capabilities).values()
    assert found.name == "logprob"
    solution = Solver(engine=engine).solve(PROBLEM, "beam", width=2, beam_width=1, max_steps=3, max_tokens=60)
    assert all(each.score is not None and 0 < each.score < 1 for each in solution.candidates)


def test_the_embedder_is_what_the_server_has_enough_for(tmp_path: FilePath) -> None:
    read: list[str] = []

    class Reads(ByLength):
        name = "minilm"

        async def embed(self, trajectories: Any, engine: Any, owner: str) -> list[list[float]]:
            read.extend(each.text for each in trajectories)
            return await super().embed(trajectories, engine, owner)

    strategy = make_strategy("ets", width=4, max_steps=4, max_tokens=400)
    with running(FakeServer(script, kind="vllm").app) as address:
        engine = RemoteEngine(address, backoff=0.01)
        found = find_verifiers(strategy, model=engine.name, can=engine.capabilities)
        assert {name: each.name for name, each in found.items()} == {"auto": "logprob", "auto-embedder": "minilm"}
        assert measure_names(strategy, engine) == ["logprob (auto)", "minilm (auto)"]
        file = tmp_path / "trace.jsonl"
        run = Solver(engine=engine).start(PROBLEM, strategy, journal=file, verifiers={"minilm": Reads()})
        run_sync(run.solve())
        engine.close()
    assert len(set(read)) > 1
    (header, *_) = read_journal(file)
    assert header["fields"]["embedder"] == "auto"
    assert {name: each["name"] for name, each in header["verifiers"].items()} == {
        "auto": "logprob",
        "auto-embedder": "minilm",
    }


def test_the_default_embedder() -> None:
    assert default_embedder() == default_embedder(Capabilities()) == "hidden"
    assert default_embedder(Capabilities(states=False)) == "minilm"


def test_the_default_verifier() -> None:
    shipped = "qwen2.5-coder-0.5b-instruct"
    assert default_verifier(shipped) == "head"
    assert default_verifier(shipped, Capabilities(states=False)) == "self-certainty"
    assert default_verifier(shipped, Capabilities(states=False, statistics=False)) == "logprob"
    assert default_verifier(shipped, Capabilities(states=False, statistics=False, logprobs=False)) == "agreement"
    assert capabilities_of(ScriptedEngine(["x"])) == Capabilities()


@pytest.mark.parametrize(
    ("strategy", "fields", "message"),
    [
        ("beam", {"verifier": "self-certainty"}, r"self-certainty needs figures over whole rows.*works with.*logprob"),
        ("beam", {"verifier": "entropy"}, "entropy needs figures over whole rows"),
        ("beam", {"verifier": "head"}, "head needs hidden states"),
        ("beam", {"verifier": "ensemble:agreement+head"}, "needs hidden states"),
        ("merge", {"embedder": "hidden"}, "embedder hidden needs hidden states.*works with minilm, wordllama"),
    ],
)
def test_verifiers_that_would_find_nothing(strategy: str, fields: dict[str, Any], message: str) -> None:
    with running(FakeServer(script).app) as address:
        engine = RemoteEngine(address)
        with pytest.raises(UsageError, match=message):
            Solver(engine=engine).solve(PROBLEM, strategy, **fields)
        engine.close()


def test_a_judge_on_a_server_that_scores(codec: HubCodec) -> None:
    with running(FakeServer(script, codec=codec).app) as address:
        engine = RemoteEngine(address, codec=codec)
        solution = Solver(engine=engine).solve(PROBLEM, "best-of-n", num_samples=2, select="best", verifier="judge")
        assert solution.usage.verifier_tokens > 0
        engine.close()


def test_a_server_without_log_probabilities() -> None:
    server = FakeServer(["so \\boxed{12}", "\\boxed{12}"], kind="openai", completions=False, logprobs=False)
    with running(server.app) as address:
        engine = RemoteEngine(address)
        solution = Solver(engine=engine).solve(PROBLEM, num_samples=3, select="weighted")
        assert solution.answer == "12"
        with pytest.raises(UsageError, match=r"logprob needs log-probabilities.*works with agreement"):
            Solver(engine=engine).solve(PROBLEM, num_samples=3, select="weighted", verifier="logprob")
        engine.close()


@pytest.mark.parametrize("router", ["judge:threshold=5", "always", "never"])
def test_routing_between_two_servers(codec: HubCodec, router: str) -> None:
    with running(FakeServer(script, codec=codec).app) as one, running(FakeServer(script, codec=codec).app) as other:
        draft, target = (RemoteEngine(address, codec=codec) for address in (one, other))
        routed = RoutedEngine(draft, target, make_router(router), max_step_tokens=40)
        assert not capabilities_of(routed).states
        solution = Solver(engine=routed).solve(PROBLEM, "best-of-n", num_samples=2, max_tokens=80)
        assert solution.answer in ("12", "7")
        assert (solution.usage.draft_model_tokens > 0) == (router != "always")
        routed.close()


def test_routers_that_would_find_nothing() -> None:
    with running(FakeServer(script).app) as address:
        draft, target = RemoteEngine(address), RemoteEngine(address)
        for router, message in (("judge", "judge router reads"), ("reward", "hidden states")):
            with pytest.raises(UsageError, match=message):
                RoutedEngine(draft, target, make_router(router))
        draft.close()
        target.close()


def test_a_solver_with_a_base_url(monkeypatch: pytest.MonkeyPatch, tmp_path: FilePath) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-of-the-user")
    with running(FakeServer(script, key="sk-secret-of-the-user").app) as address:
        with Solver(base_url=address, server="vllm") as solver:
            assert solver.pair == {"base_url": address}
            journal = tmp_path / "trace.jsonl"
            solution = run_sync(solver.start(PROBLEM, num_samples=2, journal=journal).solve())
        assert solution.answer in ("12", "7")
        assert solution.model == "served"
        trace = journal.read_text()
        assert "sk-secret" not in trace
        assert json.loads(trace.splitlines()[0])["type"] == "run"
        with pytest.raises(UsageError, match="a server drafts by itself"):
            Solver(base_url=address, draft="stand")
        with pytest.raises(UsageError, match="threads=2 is for models that run here"):
            Solver(base_url=address, threads=2)
        with Solver(base_url=address, small_base_url=address, route="never") as both:
            assert both.solve(PROBLEM, num_samples=1).usage.draft_model_tokens > 0
