"""An engine of two, on scripts: who writes what, where completions end, and what is counted."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest

from reason.api import Solver
from reason.engine.scripted import ScriptedEngine
from reason.errors import EngineClosed, EngineError, UnknownName, UsageError
from reason.route import Drafted, RoutedEngine, Router, make_router
from reason.route.router import Author, Rewrite
from reason.types import Budget, Capabilities, Completion, Engine, Request, Sampling, Solution, TokenLogprobs
from reason.verifiers.recording import Recording

DRAFT = {
    "<assistant>": ["s1 small.\n\ns2 small.\n\ns3 small."],
    "s1 small.\n\n": ["s2 small.\n\ns3 small."],
    "s1 LARGE.\n\n": ["s2 small.\n\ns3 small."],
    "s2 small.\n\n": ["s3 small."],
    "s2 LARGE.\n\n": ["s3 small."],
}
TARGET = {
    "<assistant>": ["s1 LARGE.\n\ns2 LARGE.\n\ns3 LARGE."],
    "s1 small.\n\n": ["s2 LARGE.\n\ns3 LARGE."],
    "s1 LARGE.\n\n": ["s2 LARGE.\n\ns3 LARGE."],
    "s2 small.\n\n": ["s3 LARGE."],
    "s2 LARGE.\n\n": ["s3 LARGE."],
}


class Told:
    """Has the steps rewritten whose text holds one of some words."""

    author: ClassVar[Author | None] = None

    def __init__(self, *rewritten: str) -> None:
        self.rewritten = rewritten
        self.seen: list[Drafted] = []

    def recording(self, draft: Engine) -> Recording:
        return Recording()

    async def choose(self, drafted: Drafted, rewrite: Rewrite) -> Completion | None:
        self.seen.append(drafted)
        return await rewrite() if any(word in drafted.completion.text for word in self.rewritten) else None


def routed(router: Router | str, draft: Any = DRAFT, target: Any = TARGET, **options: Any) -> RoutedEngine:
    return RoutedEngine(
        ScriptedEngine(draft), ScriptedEngine(target), make_router(router), **{"max_step_tokens": 200, **options}
    )


def ask(engine: Engine, **fields: Any) -> Completion:
    prefix = engine.codec.encode_chat([{"role": "user", "content": "?"}])
    return complete(engine, [Request(prefix=prefix, owner="o", **fields)])[0]


def complete(engine: Engine, requests: Sequence[Request]) -> list[Completion]:
    async def collect() -> list[Completion]:
        return [completion async for completion in engine.generate(requests)]

    return sorted(asyncio.run(asyncio.wait_for(collect(), 30)), key=lambda one: one.index)


@pytest.mark.parametrize(
    ("rewritten", "text"),
    [
        ((), "s1 small.\n\ns2 small.\n\ns3 small."),
        (("s1", "s2", "s3"), "s1 LARGE.\n\ns2 LARGE.\n\ns3 LARGE."),
        (("s2",), "s1 small.\n\ns2 LARGE.\n\ns3 small."),
        (("s1", "s3"), "s1 LARGE.\n\ns2 small.\n\ns3 LARGE."),
    ],
)
def test_who_writes_what(rewritten: tuple[str, ...], text: str) -> None:
    router = Told(*rewritten)
    engine = routed(router)
    done = ask(engine)
    assert (done.text, done.finish_reason) == (text, "eos")
    assert bytes(done.token_ids).decode() == text
    usage = engine.usage("o")
    assert (usage.routed_steps, usage.escalated_steps) == (3, len(rewritten))
    draft, target = engine.draft.usage("o").policy_tokens, engine.target.usage("o").policy_tokens
    assert (usage.policy_tokens, usage.draft_model_tokens) == (draft + target, draft)
    assert draft == len("s1 small.\n\ns2 small.\n\ns3 small.")
    assert target == sum(len(f"{step} LARGE.") + 2 * (step != "s3") for step in rewritten)
    # What the router saw: the solution so far, whoever wrote it, and the drafted step last.
    assert [bytes(one.trajectory.path).decode() for one in router.seen][-1].endswith("s3 small.")
    assert [one.trajectory.prompt for one in router.seen] == [engine.codec.encode("<user>?<assistant>")] * 3
    assert [[step.text for step in one.trajectory.steps] for one in router.seen][2] == [
        *(part + "\n\n" for part in text.split("\n\n")[:2]),
        "s3 small.",
    ]


def test_the_ends_of_the_comparison_run_one_model() -> None:
    for name, text in {
        "never": "s1 small.\n\ns2 small.\n\ns3 small.",
        "always": "s1 LARGE.\n\ns2 LARGE.\n\ns3 LARGE.",
    }.items():
        engine = routed(name)
        assert ask(engine).text == text
        assert (engine.draft.usage("o").policy_tokens == 0) == (name == "always")
        assert (engine.target.usage("o").policy_tokens == 0) == (name == "never")


@pytest.mark.parametrize(
    ("fields", "text", "reason", "stopped_on"),
    [
        ({"max_tokens": 5}, "s1 sm", "length", None),
        ({"max_tokens": 11}, "s1 small.\n\n", "length", None),
        ({"max_tokens": 14}, "s1 small.\n\ns2 ", "length", None),
        ({"stop": ("\n\n",)}, "s1 small.", "stop", "\n\n"),
        ({"stop": ("s2 LA",)}, "s1 small.\n\n", "stop", "s2 LA"),
        ({"stop": ("\n\ns2",)}, "s1 small.", "stop", "\n\ns2"),
        ({"stop": ("l.\n\ns2 LARGE.\n\ns",)}, "s1 smal", "stop", "l.\n\ns2 LARGE.\n\ns"),
        ({"stop": ("RGE.\n", "s3")}, "s1 small.\n\ns2 LA", "stop", "RGE.\n"),
    ],
)
def test_where_a_completion_ends(fields: dict[str, Any], text: str, reason: str, stopped_on: str | None) -> None:
    done = ask(routed(Told("s2")), **fields)
    assert (done.text, done.finish_reason, done.stopped_on) == (text, reason, stopped_on)
    assert bytes(done.token_ids).decode() == text + (stopped_on or "")


def test_steps_without_a_delimiter_end_at_their_limit() -> None:
    script = lambda prefix: ["x" * (30 - prefix.count("x"))] if prefix.count("x") < 30 else [""]  # noqa: E731
    engine = routed(Told(), script, script, max_step_tokens=8)
    done = ask(engine)
    assert (done.text, done.finish_reason) == ("x" * 30, "eos")
    assert engine.usage("o").routed_steps == 4


def test_log_probabilities_are_those_of_who_wrote() -> None:
    engine = RoutedEngine(
        ScriptedEngine(DRAFT, logprob=-0.5), ScriptedEngine(TARGET, logprob=-0.25), Told("s2"), max_step_tokens=200
    )
    done = ask(engine, sampling=Sampling(logprobs=0))
    told = [each.token for each in done.logprobs]
    assert told == [-0.5] * 11 + [-0.25] * 11 + [-0.5] * 9
    assert ask(engine).logprobs == ()


@pytest.mark.parametrize(
    ("verifier", "kept"),
    [("logprob", math.exp(-0.5)), ("ensemble:logprob+span-logprob", math.exp(-0.5)), ("confidence", 0.0)],
)
def test_a_reward_reads_what_is_recorded_of_the_drafted_step(verifier: str, kept: float) -> None:
    """A step is likelier with its number, so that the second one passes and the others do not."""

    def logprob(before: str, token: str) -> float:
        return -0.5 if "s2" in before.rpartition("\n\n")[2] + token else -2.0

    draft = ScriptedEngine(DRAFT, logprob=logprob)
    target = ScriptedEngine(TARGET, logprob=-0.25)
    router = make_router("reward", verifier=verifier, threshold=kept - 0.1 if kept else -1000.0)
    engine = RoutedEngine(draft, target, router, max_step_tokens=200)
    done = ask(engine)
    assert done.finish_reason == "eos", done.error
    assert done.text == ("s1 LARGE.\n\ns2 small.\n\ns3 LARGE." if kept else "s1 small.\n\ns2 small.\n\ns3 small.")
    assert done.logprobs == (), "nobody but the router asked for them"
    (top,) = {len(row.top) for row in ask(engine, sampling=Sampling(logprobs=1)).logprobs}
    assert top <= 1


class Keeps(Told):
    """Sees what is recorded, as ``confidence`` needs it."""

    def recording(self, draft: Engine) -> Recording:
        return Recording(statistics=True, logprobs=2)

    @property
    def rows(self) -> list[list[TokenLogprobs]]:
        return [list(step.logprobs) for step in self.seen[-1].trajectory.steps]


def test_steps_have_the_rows_of_who_wrote_them() -> None:
    router = Keeps("s1")
    engine = RoutedEngine(
        ScriptedEngine(DRAFT, logprob=-0.5), ScriptedEngine(TARGET, logprob=-0.25), router, max_step_tokens=200
    )
    plain = Sampling(logprobs=0)
    done = ask(engine, sampling=plain)
    assert [{row.token for row in rows} for rows in router.rows] == [{-0.25}, {-0.5}, {-0.5}]
    assert all(row.entropy is not None for rows in router.rows for row in rows)
    assert {row.entropy for row in done.logprobs} == {None}
    assert ask(engine, sampling=Sampling(logprobs=0, statistics=True)).logprobs[0].entropy is not None


def test_a_target_that_cannot_tell_rows_is_not_asked_for_them() -> None:
    router = Keeps("s1")
    target = ScriptedEngine(TARGET)
    target.capabilities = Capabilities(statistics=False)  # type: ignore[attr-defined]
    engine = RoutedEngine(ScriptedEngine(DRAFT), target, router, max_step_tokens=200)
    assert ask(engine).finish_reason == "eos"
    assert [len(rows) for rows in router.rows] == [0, len("s2 small.\n\n"), len("s3 small.")]


@pytest.mark.parametrize("router", ["oracle:verifier=logprob", "reward:verifier=ensemble:judge+logprob,reader=target"])
def test_rows_are_not_for_those_who_read_with_the_target(router: str) -> None:
    with pytest.raises(UsageError, match="is recorded while a step is written, and scripted writes it: take one that"):
        routed(router)


def test_a_grammar_is_the_targets() -> None:
    assert ask(routed(Told()), sampling=Sampling(regex="s.*")).text == "s1 LARGE.\n\ns2 LARGE.\n\ns3 LARGE."


def test_failures_end_the_completion() -> None:
    broken = {**TARGET, "s1 small.\n\n": []}
    done = ask(routed(Told("s2"), target=broken))
    assert (done.finish_reason, type(done.error)) == ("error", UsageError)
    done = ask(routed(Told("s2"), draft={**DRAFT, "s1 small.\n\n": []}))
    assert (done.finish_reason, done.text) == ("error", "s1 small.\n\n")


def test_a_router_that_fails_fails_its_request() -> None:
    class Broken(Told):
        async def choose(self, drafted: Drafted, rewrite: Rewrite) -> Completion | None:
            raise EngineError("no reward")

    done = ask(routed(Broken()))
    assert (done.finish_reason, str(done.error)) == ("error", "no reward")


def test_what_was_written_before_the_router_fails_is_told() -> None:
    class Failing(Told):
        async def choose(self, drafted: Drafted, rewrite: Rewrite) -> Completion | None:
            chosen = await rewrite()
            if "s2" in drafted.completion.text:
                raise EngineError("no reward")
            return chosen

    engine = routed(Failing())
    done = ask(engine)
    assert (done.finish_reason, done.text) == ("error", "s1 LARGE.\n\n")
    assert len(done.token_ids) + done.discarded == engine.usage("o").policy_tokens > 30


def test_a_request_is_one_call_whoever_writes_its_steps() -> None:
    engine = routed(Told("s1", "s3"))
    ask(engine)
    assert engine.usage("o").calls == 1


def test_a_closed_engine_is_said_to_be_closed() -> None:
    class Closing(Told):
        async def choose(self, drafted: Drafted, rewrite: Rewrite) -> Completion | None:
            drafted.target.close()
            return await rewrite()

    with pytest.raises(EngineClosed):
        ask(routed(Closing()))


def test_a_path_ends_where_one_of_the_models_does() -> None:
    engine = routed(Told())
    engine.draft.max_positions = 40  # type: ignore[attr-defined]
    done = ask(engine)
    assert engine.max_positions == 40
    assert (done.finish_reason, done.text) == ("length", "s1 small.\n\ns2 small.\n\n")


def test_what_cannot_decide_is_said_at_once() -> None:
    for router in ("oracle", "reward", "reward:reader=target"):
        with pytest.raises(UsageError, match="no value head comes with the package for scripted"):
            routed(router)


def test_the_oracle_takes_the_better_step() -> None:
    """The target judges, and finds what ends in its own words right."""

    def logprob(before: str, token: str) -> float:
        return -0.1 if token in "Yes" and before.rfind("LARGE") > before.rfind("small") else -2.0

    engine = RoutedEngine(
        ScriptedEngine(DRAFT),
        ScriptedEngine(TARGET, logprob=logprob),
        make_router("oracle:verifier=judge"),
        max_step_tokens=200,
    )
    assert ask(engine).text == "s1 LARGE.\n\ns2 LARGE.\n\ns3 LARGE."
    assert engine.usage("o").escalated_steps == 3
    strict = RoutedEngine(
        engine.draft, engine.target, make_router("oracle:verifier=judge,threshold=0.95"), max_step_tokens=200
    )
    assert ask(strict).text == "s1 small.\n\ns2 small.\n\ns3 small."


def test_the_judge_rates_with_one_token() -> None:
    def rating(sure: str) -> ScriptedEngine:
        return ScriptedEngine(TARGET, logprob=lambda before, token: -0.1 if token == sure else -2.0)

    for digit, text in (("7", "s1 small.\n\ns2 small.\n\ns3 small."), ("6", "s1 LARGE.\n\ns2 LARGE.\n\ns3 LARGE.")):
        engine = RoutedEngine(ScriptedEngine(DRAFT), rating(digit), make_router("judge"), max_step_tokens=200)
        assert ask(engine).text == text
        assert engine.usage("o").verifier_tokens > 0
    engine = RoutedEngine(ScriptedEngine(DRAFT), rating("9"), make_router("judge:rating=mean"), max_step_tokens=200)
    assert ask(engine).text == "s1 LARGE.\n\ns2 LARGE.\n\ns3 LARGE.", (
        "the mean of 9 and a little of all others is below 7"
    )


def test_a_search_does_not_notice() -> None:
    with Solver(engine=routed(Told("s2"))) as solver:
        solution = solver.solve("?", "best-of-n", num_samples=2, max_tokens=100)
    assert solution.text == "s1 small.\n\ns2 LARGE.\n\ns3 small."
    assert (solution.usage.routed_steps, solution.usage.escalated_steps) == (6, 2)
    engine = routed(Told("s2"))
    with Solver(engine=engine) as solver:
        by_step = solver.solve("?", "beam", width=2, beam_width=2, max_steps=4, verifier="logprob")
    assert by_step.text == "s1 small.\n\ns2 LARGE.\n\ns3 small."
    assert by_step.usage.escalated_steps >= 1


def test_closing_early_cancels_both() -> None:
    engine = RoutedEngine(ScriptedEngine(DRAFT, delay=0.01), ScriptedEngine(TARGET, delay=0.01), Told("s1"))
    prefix = engine.codec.encode("<assistant>")

    async def begin() -> dict[int, str]:
        asked = [Request(prefix=prefix, key=3, owner="o")]
        completions = cast("AsyncGenerator[Completion, None]", engine.generate(asked))
        waiting = asyncio.ensure_future(anext(completions))
        text: dict[int, str] = {}
        while not waiting.done() and not text.get(3, "").startswith("s1 LARGE.\n\n"):
            await asyncio.sleep(0)
            text = dict(engine.progress("o"))
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await completions.aclose()
        return text

    text = asyncio.run(begin())
    assert text[3].startswith("s1 LARGE.\n\n"), "what is finished, and then what is under way"
    assert engine.progress("o") == {}


def test_names_and_objects() -> None:
    assert isinstance(make_router("reward:threshold=0.4,reader=target"), Router)
    with pytest.raises(UnknownName, match="unknown router 'arbiter'"):
        make_router("arbiter")
    with pytest.raises(UsageError, match="no router comes with the package for scripted and scripted"):
        RoutedEngine(ScriptedEngine(DRAFT), ScriptedEngine(TARGET), make_router("arbitrage"))
    with pytest.raises(UsageError, match=r"threshold must be in \[0, 9\]"):
        make_router("judge:threshold=12")
    with pytest.raises(UsageError, match="a router is a name or an object"):
        make_router(Told)  # type: ignore[arg-type]
    router = Told()
    assert make_router(router) is router


def test_models_that_do_not_share_tokens_are_refused() -> None:
    other = ScriptedEngine(TARGET)
    other.codec.encode = lambda text: tuple(text.encode("utf-16"))  # type: ignore[method-assign]
    with pytest.raises(UsageError, match="do not share a tokenizer"):
        RoutedEngine(ScriptedEngine(DRAFT), other, Told())


# -- budgets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("router", "discarded"),
    [(Told(), 0), (Told("s2"), 11), (Told("s1", "s2", "s3"), 31), ("oracle:verifier=judge,threshold=0.95", 31)],
)
def test_what_is_thrown_away_is_told(router: Router | str, discarded: int) -> None:
    engine = routed(router)
    done = ask(engine)
    assert done.discarded == discarded
    assert len(done.token_ids) + done.discarded == engine.usage("o").policy_tokens


@pytest.mark.parametrize("most", [1, 2, 16, 20, 30, 47, 62, 100])
def test_no_more_is_generated_than_a_request_allows(most: int) -> None:
    engine = routed(Told("s1", "s2", "s3"))
    done = ask(engine, max_generated=most)
    assert 0 < len(done.token_ids) + done.discarded == engine.usage("o").policy_tokens <= most
    assert (done.finish_reason == "eos") == (most >= 62)


def test_a_kept_step_that_its_limit_cut_goes_on() -> None:
    """Half of what is left is a step's limit, because both models may write it; what the router keeps cost but once."""
    text = "x" * 50 + "."
    done = ask(routed(Told(), lambda prefix: [text[len(prefix.rpartition(">")[2]) :]]), max_generated=100)
    assert (done.text, done.finish_reason) == (text, "eos")


def test_a_stop_string_that_ends_with_the_delimiter_ends_the_completion() -> None:
    """One token completes both; the engine tells of the shorter."""

    class Merged(ScriptedEngine):
        async def generate(self, requests: Sequence[Request]) -> AsyncGenerator[Completion, None]:
            for index, request in enumerate(requests):
                at = "\n\n" if "\n\n" in request.stop else request.stop[0]
                tokens = self.codec.encode("one\n\n")
                yield Completion(index=index, token_ids=tokens, text="one", finish_reason="stop", stopped_on=at)

    engine = RoutedEngine(Merged([""]), ScriptedEngine(TARGET), Told(), max_step_tokens=200)
    done = ask(engine, stop=("e\n\n",))
    assert (done.text, done.stopped_on, bytes(done.token_ids)) == ("on", "e\n\n", b"one\n\n")


def going_on(word: str) -> Callable[[str], list[str]]:
    """Writes its steps from wherever a step was cut."""

    def script(prefix: str) -> list[str]:
        *whole, begun = prefix.rpartition("<assistant>")[2].split("\n\n")
        steps = [f"s{number} {word}." for number in range(len(whole) + 1, 4)]
        own = next(step for step in (steps[0], f"s{len(whole) + 1} small.") if step.startswith(begun))
        return ["\n\n".join([own[len(begun) :], *steps[1:]])]

    return script


@pytest.mark.parametrize("limit", [40, 100, 130, 300])
def test_a_budget_counts_what_is_thrown_away(limit: int, tmp_path: Path) -> None:
    journal = tmp_path / "trace.jsonl"

    def run() -> tuple[Solution, int]:
        engine = routed(Told("s1", "s3"), going_on("small"), going_on("LARGE"))
        with Solver(engine=engine) as solver:
            started = solver.start(
                "?", "best-of-n", num_samples=9, max_tokens=64, budget=Budget(policy_tokens=limit), journal=journal
            )
            return asyncio.run(started.solve()), engine.usage("").policy_tokens

    solution, _ = run()
    assert 0 < solution.usage.policy_tokens <= limit
    assert solution.stopped_by == "policy_tokens"
    again, generated = run()
    assert (again.text, again.usage.policy_tokens, generated) == (solution.text, solution.usage.policy_tokens, 0)
