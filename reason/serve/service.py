"""From what a request asks for to work on the one engine: samples of the plain model, or a search."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from reason.errors import UnknownName, UsageError
from reason.search.strategies import STRATEGIES, breadth_of, for_budget, known_fields, make_strategy
from reason.serve.admission import Admission, Place
from reason.serve.chat_tools import Parsed, parse_calls
from reason.serve.failures import ApiError, bad_request
from reason.serve.limits import Limits
from reason.serve.metrics import Metrics
from reason.serve.plain import Written, write
from reason.serve.progress import Lines
from reason.serve.protocol import Ask, SearchAsk
from reason.serve.replies import Choice, Outcome, token_logprobs
from reason.tasks.prompts import BOXED_INSTRUCTION, problem_messages
from reason.types import Budget, Completion, Message, Path, Problem, Request, Solution, Usage

if TYPE_CHECKING:
    from reason.api import Solver
    from reason.search.driver import AnyRun, Run

__all__ = ["PREFIX", "Sampled", "Searched", "Service"]

PREFIX = "reason"
"""``reason/NAME`` as a model is the strategy of that name; ``reason`` alone is the server's own."""

MOST = 1_000_000
"""No number among a strategy's fields may be larger when it comes from a client."""

_PLAIN_TEXT = re.compile(r"[A-Za-z0-9_-]{0,64}")

_owners = itertools.count()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """A request to the plain model, ready to run."""

    ask: Ask
    requests: tuple[Request, ...]
    prompt_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Searched:
    """A search, ready to run."""

    ask: Ask
    problem: Problem
    strategy: str
    fields: Mapping[str, Any]
    budget: Budget
    seed: int


@dataclass(kw_only=True)
class Service:
    """What all requests share.

    Args:
        solver: its engine does all the work.
        strategy, fields: of the model ``reason``.
        allowed: texts that a client may give a strategy's fields although they may name files or models.
    """

    solver: Solver
    strategy: str = "best-of-n"
    fields: Mapping[str, Any] = field(default_factory=dict)
    allowed: frozenset[str] = frozenset()
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        make_strategy(self.strategy, **self.fields)
        self._aliases: dict[str, str] = {}
        self.metrics = Metrics()
        self.admission = Admission(max_running=self.limits.max_running, max_queued=self.limits.max_queued)
        self.began = int(time.time())

    @property
    def engine(self) -> Any:
        return self.solver.engine

    def models(self) -> list[str]:
        """The names that a request may give as its model."""
        return [self.engine.name, *self._aliases, PREFIX, *(f"{PREFIX}/{name}" for name in STRATEGIES)]

    def add_alias(self, alias: str) -> None:
        """Has clients call a model by another name too: "NAME" the model itself, "NAME=MODEL" any of ``models``.

        Raises:
            UsageError: the name is taken, or there is no such model.
        """
        name, _, model = alias.partition("=")
        model = model or self.engine.name
        if not name or name in self._aliases or name == self.engine.name or name.partition("/")[0] == PREFIX:
            raise UsageError(f"an alias is a name that no model here has, NAME or NAME=MODEL; got {alias!r}")
        try:
            self.check_model(model)
        except ApiError as error:
            raise UsageError(f"the alias {alias!r}: {error.message}") from None
        self._aliases[name] = model

    def meant(self, model: str) -> str:
        """The model that a name stands for: an alias's, else its own."""
        return self._aliases.get(model, model)

    def check_model(self, model: str) -> None:
        """Raises ApiError if no request may name this as its model."""
        self._strategy_of(model)

    # -- from what is asked for to work ----------------------------------------------------------------------------

    def prepare(self, ask: Ask) -> Sampled | Searched:
        """Checks what can be checked before anything runs.

        Raises:
            ApiError, UsageError: it cannot be done.
        """
        named, fields = self._strategy_of(ask.model)
        told = ask.search or SearchAsk()
        if told.strategy is not None:
            if named is not None and told.strategy.lower() != named:
                raise bad_request(f"the model names the strategy {named}, reason.strategy {told.strategy!r}: give one")
            if named is None:
                named, fields = _known(told.strategy), {}
        if named is None:
            if ask.search is not None:
                raise bad_request(
                    f"the model {ask.model!r} does not search; give reason.strategy, or a model such as {PREFIX}/ets",
                    param="reason",
                )
            return self._sample(ask)
        return self._search(ask, named, fields, told)

    def _strategy_of(self, model: str) -> tuple[str | None, dict[str, Any]]:
        """The strategy and its fields that a model's name means; None is the model itself."""
        model = self.meant(model)
        if model == self.engine.name:
            return None, {}
        if model == PREFIX:
            return self.strategy, dict(self.fields)
        name, colon, breadth = model.removeprefix(f"{PREFIX}/").partition(":")
        if not model.startswith(f"{PREFIX}/") or name.lower() not in STRATEGIES:
            raise ApiError(
                404,
                f"there is no model {model[:200]!r} here; there are {self.engine.name} and, with a search, {PREFIX} "
                f"and {PREFIX}/STRATEGY, where STRATEGY is one of {', '.join(STRATEGIES)}",
                param="model",
                code="model_not_found",
            )
        name = name.lower()
        if not colon:
            return name, {}
        grows = breadth_of(make_strategy(name))
        if grows is None or not re.fullmatch(r"[1-9][0-9]{0,6}", breadth):
            why = "has no breadth to set" if grows is None else f"takes its {grows}, a number from 1 to {MOST}, there"
            raise ApiError(404, f"{model[:200]!r}: {name} {why}", param="model", code="model_not_found")
        return name, {grows: int(breadth)}

    def _sample(self, ask: Ask) -> Sampled:
        codec, limits = self.engine.codec, self.limits
        prompts: list[Path] = []
        if ask.messages:
            prompts = [codec.encode_chat(ask.messages, **({"tools": ask.offer.tools} if ask.offer.tools else {}))]
        else:
            prompts = [codec.encode(prompt) if isinstance(prompt, str) else prompt for prompt in ask.prompts]
        self._check_lengths(prompts)
        count = len(prompts) * ask.n
        asked = ask.max_tokens
        if asked is None:  # OpenAI's defaults: 16 of a text, in a chat what there is room for
            asked = 16 if ask.prompts else max(1, limits.max_policy_tokens // count)
        if asked * count > limits.max_policy_tokens:
            raise bad_request(
                f"max_tokens times the number of samples may be at most {limits.max_policy_tokens} here, "
                f"got {asked} times {count}",
                param="max_tokens",
            )
        owner = f"plain#{next(_owners)}"
        seed = secrets.randbits(62) if ask.seed is None else ask.seed
        requests = [
            Request(
                prefix=prompt,
                seed=seed,
                key=i * ask.n + k,
                sampling=ask.sampling,
                max_tokens=asked,
                stop=ask.stop,
                owner=owner,
            )
            for i, prompt in enumerate(prompts)
            for k in range(ask.n)
        ]
        return Sampled(ask=ask, requests=tuple(requests), prompt_tokens=sum(map(len, prompts)))

    def _search(self, ask: Ask, name: str, fields: Mapping[str, Any], told: SearchAsk) -> Searched:
        merged = {**fields, **self._checked(told.fields)}
        allowed_fields = known_fields(name, merged.get("inner"))
        for given, value in ask.given.items():
            if given not in ("temperature", "top_p", "max_tokens") or given not in allowed_fields:
                raise bad_request(
                    f"{given} cannot be honoured by the strategy {name}; it is for the model {self.engine.name}",
                    param=given,
                )
            merged.setdefault(given, value)
        if len(ask.prompts) > 1 or any(not isinstance(prompt, str) for prompt in ask.prompts):
            raise bad_request("a search takes one prompt, as text", param="prompt")
        budget = self.limits.budget(told.budget)
        make_strategy(name, **for_budget(name, merged, budget))
        problem = _problem(ask, True if told.instruct is None else told.instruct)
        seed = secrets.randbits(62) if ask.seed is None else ask.seed
        searched = Searched(ask=ask, problem=problem, strategy=name, fields=merged, budget=budget, seed=seed)
        self.start(searched)  # refuses what it would, and costs nothing
        self._check_lengths([self.engine.codec.encode_chat(problem_messages(problem))])
        return searched

    def check_text(self, name: str, value: str) -> None:
        """Raises ApiError if a client's text for a field could name a file or a model and is not allowed."""
        if value not in self.allowed and (name == "table" or not _PLAIN_TEXT.fullmatch(value)):
            raise bad_request(
                f"{name[:100]}: what may name a file or a model must be allowed by the server (--allow {value[:60]!r})",
                param=name[:100],
            )

    def _checked(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """A client's fields, without those that could reach into the machine."""
        for name, value in fields.items():
            where = f"reason.{name[:100]}"
            if isinstance(value, str):
                self.check_text(name, value)
            elif name == "inner":
                raise bad_request(f"{where} must be a strategy's name", param=where)
            elif isinstance(value, (int, float)) and not -MOST <= value <= MOST:
                raise bad_request(f"{where} must be from {-MOST} to {MOST}", param=where)
        return dict(fields)

    def _check_lengths(self, prompts: list[Path]) -> None:
        """Raises ApiError if one is empty, or fills the context."""
        longest = max(map(len, prompts))
        if longest == 0:
            raise bad_request("the prompt is empty")
        context = getattr(self.engine, "max_positions", None)
        if context is not None and longest + 1 > context:
            raise bad_request(
                f"the prompt has {longest} tokens, which leaves no room in this model's context of {context}",
                code="context_length_exceeded",
            )

    # -- the work ---------------------------------------------------------------------------------------------------

    def start(self, search: Searched, on_change: Callable[[Run], None] | None = None) -> AnyRun:
        """The run of a search, not begun."""
        return self.solver.start(
            search.problem,
            search.strategy,
            budget=search.budget,
            seed=search.seed,
            on_change=on_change,
            **search.fields,
        )

    async def solve(self, search: Searched, place: Place, on_line: Callable[[str], None] | None = None) -> Outcome:
        """Runs a search in its place; cancelling cancels it.

        Args:
            on_line: told about the search as it goes on.
        """
        await place.turn()
        line = None if on_line is None else Lines(on_line, self.limits.progress_seconds)
        run = self.start(search, line)
        place.on_interrupt(run.interrupt)
        solution = await run.solve()
        place.tokens = solution.usage.policy_tokens
        self.metrics.count_search(solution.strategy, solution.stopped_by)
        return self._searched(solution)

    async def follow(self, search: Searched, place: Place) -> AsyncGenerator[str | Outcome, None]:
        """Lines about a search while ``solve`` runs it, then what it came to. Closing it cancels the search."""
        lines: asyncio.Queue[str | None] = asyncio.Queue()
        solving = asyncio.ensure_future(self.solve(search, place, lines.put_nowait))
        solving.add_done_callback(lambda _: lines.put_nowait(None))
        try:
            while (line := await lines.get()) is not None:
                yield line
            yield solving.result()
        finally:
            solving.cancel()
            await asyncio.gather(solving, return_exceptions=True)

    async def sample(self, sampled: Sampled, place: Place, *, live: bool) -> AsyncGenerator[Written, None]:
        """Runs a request to the plain model in its place; closing the iterator cancels it.

        Raises:
            ApiError: it took too long.
        """
        await place.turn()
        work = write(self.engine, sampled.requests, live=live, seconds=self.limits.max_seconds)
        try:
            async with contextlib.aclosing(work) as written:
                async for step in written:
                    if step.completion is not None and step.completion.finish_reason in ("error", "cancelled"):
                        raise step.completion.error or ApiError(503, "the work was cancelled", kind="server_error")
                    yield step
        except BaseException:  # closed, cancelled or failed: nobody will read its row
            self.engine.forget(sampled.requests[0].owner)
            raise

    def choice(self, sampled: Sampled, completion: Completion) -> Choice:
        """What a client is told of a completion."""
        ask = sampled.ask
        parsed = Parsed(content=completion.text)
        if ask.offer.tools:
            parsed = parse_calls(completion.text, ask.offer.allows, most=1 if ask.offer.one_call else None)
        reason = "length" if completion.finish_reason == "length" else "stop"
        logprobs = None
        if ask.sampling.logprobs is not None:
            logprobs = token_logprobs(self.engine.codec, completion)
        return Choice(
            text=parsed.content,
            finish_reason="tool_calls" if parsed.calls else reason,
            calls=parsed.calls,
            logprobs=logprobs,
        )

    def sampled(self, sampled: Sampled, choices: Mapping[int, Choice], place: Place) -> Outcome:
        """All the choices, with the ledger, which the engine then forgets."""
        owner = sampled.requests[0].owner
        usage: Usage = self.engine.usage(owner)
        self.engine.forget(owner)
        usage.prompt_tokens, usage.seconds = sampled.prompt_tokens, place.seconds
        place.tokens = usage.policy_tokens
        self.metrics.count_tokens(sampled.prompt_tokens, usage)
        ordered = tuple(choices[i] for i in range(len(sampled.requests)))
        return Outcome(choices=ordered, prompt_tokens=sampled.prompt_tokens, usage=usage)

    def _searched(self, solution: Solution) -> Outcome:
        self.metrics.count_tokens(solution.usage.prompt_tokens, solution.usage)
        choice = Choice(text=solution.text, finish_reason="length" if _cut_off(solution) else "stop")
        return Outcome(
            choices=(choice,), prompt_tokens=solution.usage.prompt_tokens, usage=solution.usage, solution=solution
        )


def _known(strategy: str) -> str:
    if strategy.lower() not in STRATEGIES:
        raise UnknownName("strategy", strategy[:100], STRATEGIES)
    return strategy.lower()


def _cut_off(solution: Solution) -> bool:
    """Whether the text of a solution ends where a limit ended it."""
    ends = {each.finish_reason for each in solution.candidates if each.text == solution.text}
    if not ends:  # not one model's text: put together by the strategy, or unfinished
        return solution.stopped_by != "done" and solution.answer is None
    return ends == {"length"}


def _problem(ask: Ask, instruct: bool) -> Problem:
    """The conversation, or the text, as a problem: its last message asks for steps and a boxed answer."""
    messages = ask.messages or (Message(role="user", content=str(ask.prompts[0])),)
    last = messages[-1]
    if last["role"] not in ("user", "tool"):
        raise bad_request("a search answers the user: the last message must be the user's", param="messages")
    if not last["content"].strip():
        raise bad_request("the last message is empty", param="messages")
    if not instruct or "\\boxed" in last["content"]:
        return Problem(content=messages)
    if len(messages) == 1:
        return Problem(content=last["content"])  # asked as ``solve`` asks it
    told: Any = {**last, "content": f"{last['content'].strip()}\n{BOXED_INSTRUCTION}"}
    return Problem(content=(*messages[:-1], told))
