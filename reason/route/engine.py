"""``RoutedEngine``: an engine of two. Strategies do not notice.

The draft model writes a step; the router keeps it or has the target model write it again, from the same prefix and with
the same noise; and so on until the completion ends. A step ends at the delimiter, at ``max_step_tokens`` or where the
request ends. Both engines keep their KV by content, so that each computes what the other wrote when it comes to it, in
one go.

Requests whose tokens hang on all that were drawn before them within the request (grammars, presence and frequency
penalties) are not cut into steps: the target serves them alone. What is recorded of a token (log-probabilities, the
request's probes) is recorded by who wrote it; the request's probes read the target's states, so that steps of the draft
model are without their numbers, and completions of several steps without hidden states.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from reason.engine.finishing import as_finished
from reason.errors import EngineClosed, UsageError
from reason.route.router import Author, Drafted, Router
from reason.types import (
    Capabilities,
    Completion,
    Engine,
    Message,
    Path,
    Problem,
    Request,
    Scored,
    Step,
    TextCodec,
    TokenLogprobs,
    Trajectory,
    Usage,
    capabilities_of,
)
from reason.verifiers.recording import Recording
from reason.verifiers.remembered import Remembered

__all__ = ["RoutedEngine"]

_FAILED = ("error", "cancelled")


@dataclass(slots=True)
class _Counts:
    """What routing did for an owner."""

    calls: int = 0
    steps: int = 0
    escalated: int = 0


@dataclass(slots=True)
class _Written:
    """A completion under way."""

    steps: list[Completion] = field(default_factory=list)
    limit: int = 0  # tokens that the last of them could have

    @property
    def num_generated(self) -> int:
        """Tokens that it has cost."""
        return sum(len(step.token_ids) + step.discarded for step in self.steps)

    @property
    def tokens(self) -> Path:
        return tuple(token for step in self.steps for token in step.token_ids)


class RoutedEngine:
    """See the module's docstring and ``reason.types.Engine``. Scores, the codec and the name are the target's.

    Args:
        draft, target: engines whose models share a tokenizer. They are the caller's; ``close`` closes both.
        router: decides.
        delimiter: what ends a step.
        max_step_tokens: a step's length at most.

    Raises:
        UsageError: the models' tokens differ.
    """

    def __init__(
        self, draft: Engine, target: Engine, router: Router, *, delimiter: str = "\n\n", max_step_tokens: int = 512
    ) -> None:
        if not delimiter or max_step_tokens < 1:
            raise UsageError("a step needs a delimiter and at least one token")
        _check_codecs(draft, target)
        self.draft, self.target, self.router = draft, target, router
        self._delimiter = delimiter
        self._max_step_tokens = max_step_tokens
        if (check := getattr(router, "check", None)) is not None:
            check(draft, target)
        self._recording = router.recording(draft)
        if self._recording.reads_states and not capabilities_of(draft).states:
            raise UsageError(f"this router reads hidden states, which the engine of {draft.name} does not tell")
        rows = self._recording.rows
        self._rewriting = rows if rows.told_by(capabilities_of(target)) else Recording()
        self._counts: dict[str, _Counts] = {}
        self._begun: dict[tuple[str, int], str] = {}  # text of finished steps, by owner and key
        self._known: Remembered[tuple[Step, ...]] = Remembered()  # solutions, by their paths
        self._opening = _opening(target.codec)

    @property
    def name(self) -> str:
        return self.target.name

    @property
    def capabilities(self) -> Capabilities:
        """What both engines can; scores are the target's."""
        target = capabilities_of(self.target)
        return replace(target.both(capabilities_of(self.draft)), score=target.score)

    @property
    def generated_per_token(self) -> int:
        """Of a step both models may write their own, and one of them stays."""
        return 1 if self.router.author is not None else 2

    @property
    def max_positions(self) -> int | None:
        """The longest path that both engines take, where they say."""
        known = [getattr(engine, "max_positions", None) for engine in (self.draft, self.target)]
        return min((each for each in known if each is not None), default=None)

    @property
    def codec(self) -> TextCodec:
        return self.target.codec

    async def generate(self, requests: Sequence[Request]) -> AsyncIterator[Completion]:
        tasks = [asyncio.ensure_future(self._complete(index, request)) for index, request in enumerate(requests)]
        async with as_finished(tasks) as finished:
            for task in finished:
                yield await task

    async def score(
        self,
        paths: Sequence[Path],
        start: int,
        *,
        logprobs: bool = True,
        layers: Sequence[int] = (),
        owner: str = "",
    ) -> Sequence[Scored]:
        return await self.target.score(paths, start, logprobs=logprobs, layers=layers, owner=owner)

    def usage(self, owner: str) -> Usage:
        """Both engines' work; ``policy_tokens`` counts what was drafted and not kept, too. ``calls`` are the requests,
        whoever wrote their steps."""
        draft, target = self.draft.usage(owner), self.target.usage(owner)
        total = target.plus(draft)
        counts = self._counts.get(owner, _Counts())
        total.draft_model_tokens = draft.policy_tokens
        total.calls, total.routed_steps, total.escalated_steps = counts.calls, counts.steps, counts.escalated
        return total

    def forget(self, owner: str) -> None:
        self._counts.pop(owner, None)
        for engine in (self.draft, self.target):
            engine.forget(owner)

    def progress(self, owner: str) -> Mapping[int, str]:
        under_way = {**self.target.progress(owner), **self.draft.progress(owner)}
        begun = {key: text for (of, key), text in list(self._begun.items()) if of == owner}
        return {key: begun.get(key, "") + under_way.get(key, "") for key in {**begun, **under_way}}

    def close(self) -> None:
        for engine in (self.draft, self.target):
            engine.close()

    # -- one completion ----------------------------------------------------------------------------------------------

    async def _complete(self, index: int, request: Request) -> Completion:
        place = request.owner, request.key
        try:
            self._counts.setdefault(request.owner, _Counts()).calls += 1
            if (author := self._settled(request)) is not None:
                return replace(await self._alone(request, author), index=index)
            return replace(await self._by_steps(request), index=index)
        except EngineClosed:
            raise
        except Exception as error:  # what a request that is none raises
            return Completion(index=index, token_ids=(), text="", finish_reason="error", error=error)
        finally:
            self._begun.pop(place, None)

    def _settled(self, request: Request) -> Author | None:
        """Who writes the whole request, if it is not cut into steps."""
        sampling = request.sampling
        whole = (sampling.json_schema, sampling.regex, sampling.lark)
        if any(each is not None for each in whole) or sampling.presence_penalty or sampling.frequency_penalty:
            return "target"
        return self.router.author

    async def _alone(self, request: Request, author: Author) -> Completion:
        if author == "target":
            return await _one(self.target, request)
        return await _one(self.draft, replace(request, probes=(), states=(), hidden=False))

    async def _by_steps(self, request: Request) -> Completion:
        written = _Written()
        solution = self._solution_so_far(request.prefix)
        most = self.max_positions
        while True:
            begun = written.tokens
            left = None if request.max_generated is None else request.max_generated - written.num_generated
            too_long = most is not None and len(request.prefix) + len(begun) >= most
            if too_long or (left is not None and left < 2):  # of a step both models may write their own
                if not written.steps:
                    alone = replace(request, max_tokens=request.max_tokens if left is None else max(1, left))
                    return await self._alone(alone, "target")
                return self._whole(written, begun, replace(written.steps[-1], finish_reason="length", stopped_on=None))
            written.limit = self._step_tokens(request.max_tokens - len(begun), left)
            step = replace(
                request,
                prefix=request.prefix + begun,
                max_tokens=written.limit,
                stop=(*request.stop, *({self._delimiter} - set(request.stop))),
            )
            completion, values = await self._step(step, solution)
            written.steps.append(completion)
            if completion.finish_reason not in _FAILED:
                text = self.codec.decode(completion.token_ids)
                solution = (*solution, Step(text=text, tokens=completion.token_ids, logprobs=values))
                self._remember(request.prefix + written.tokens, solution)
            ended = self._ended(written, request)
            if ended is not None:
                return ended
            self._begun[request.owner, request.key] = self.codec.decode(written.tokens)

    def _step_tokens(self, wanted: int, left: int | None) -> int:
        """How long a step may be, of which there may be two.

        Args:
            wanted: that the completion may still have.
            left: that may still be generated; None is no limit.
        """
        longest = min(self._max_step_tokens, wanted)
        return longest if left is None else max(1, min(longest, left // 2))

    async def _step(self, request: Request, before: tuple[Step, ...]) -> tuple[Completion, tuple[TokenLogprobs, ...]]:
        """The step that stays, and what the router had recorded of it; a failed one where the router fails."""
        counts = self._counts.setdefault(request.owner, _Counts())
        counts.steps += 1
        alone = replace(request, probes=(), states=(), hidden=False)
        drafted = await _one(self.draft, self._recording.of(alone))
        if drafted.finish_reason in _FAILED:
            return drafted, ()
        guessing = replace(request, guess=drafted.token_ids)
        rewriting: asyncio.Future[Completion] | None = None

        async def rewrite() -> Completion:
            nonlocal rewriting
            if rewriting is None:
                rewriting = asyncio.ensure_future(_one(self.target, self._rewriting.of(guessing)))
            return await rewriting

        step = Step(
            text=self.codec.decode(drafted.token_ids),
            tokens=drafted.token_ids,
            logprobs=drafted.logprobs,
            hidden=drafted.hidden,
            states=drafted.states,
        )
        boundary = len(request.prefix) - sum(len(each.tokens) for each in before)
        trajectory = Trajectory(
            problem=Problem(content=self.codec.decode(request.prefix[:boundary]) or " "),
            prompt=request.prefix[:boundary],
            steps=(*before, step),
            finished=drafted.finish_reason == "eos",
        )
        given = Drafted(
            trajectory=trajectory, completion=drafted, draft=self.draft, target=self.target, owner=request.owner
        )
        try:
            chosen = await self.router.choose(given, rewrite)
            rows: tuple[TokenLogprobs, ...] = ()
            if chosen is not None and chosen.finish_reason not in _FAILED:
                rows = await self._read(request, chosen)
        except EngineClosed:
            raise
        except Exception as error:  # the router's, or of a verifier that it asked; what was written has its price
            if rewriting is not None:
                await asyncio.wait({rewriting})
            spent = len(drafted.token_ids) + _num_tokens(rewriting)
            failed = Completion(index=0, token_ids=(), text="", finish_reason="error", error=error, discarded=spent)
            return failed, ()
        finally:
            if rewriting is not None and not rewriting.done():
                rewriting.cancel()
        if chosen is None:
            kept = tuple(replace(row, values=()) for row in _asked(drafted.logprobs, request))
            stays = replace(drafted, logprobs=kept, hidden=None, states={}, discarded=_num_tokens(rewriting))
            return stays, drafted.logprobs
        counts.escalated += 1
        dropped = len(drafted.token_ids)
        return replace(chosen, logprobs=_asked(chosen.logprobs, request), discarded=dropped), rows

    async def _read(self, request: Request, written: Completion) -> tuple[TokenLogprobs, ...]:
        """What the router had recorded of a step of the target's. The probes' part is read by the draft model, which
        reads the step in any case to go on."""
        probes, rows = self._recording.probes, written.logprobs if self._rewriting.rows_asked else ()
        if not probes or not written.token_ids:
            return rows
        path = request.prefix + written.token_ids[:-1]
        start = len(request.prefix) - 1
        layers = tuple(dict.fromkeys(probe.layer for probe in probes))
        (scored,) = await self.draft.score([path], start, logprobs=False, layers=layers, owner=request.owner)
        columns = [(probe.name, probe(scored.hidden[probe.layer]).tolist()) for probe in probes]
        return tuple(
            replace(row, values=tuple((name, float(numbers[i])) for name, numbers in columns))
            for i, row in enumerate(rows or (TokenLogprobs(0.0),) * len(written.token_ids))
        )

    # -- what a completion comes to ----------------------------------------------------------------------------------

    def _ended(self, written: _Written, request: Request) -> Completion | None:
        """The whole completion, if its last step ends it."""
        last = written.steps[-1]
        if last.finish_reason in _FAILED:
            return self._whole(written, written.tokens, last)
        tokens = written.tokens
        if len(written.steps) > 1 and (cut := self._stopped(tokens, len(tokens) - len(last.token_ids), request)):
            count, stop = cut
            return self._whole(written, tokens[:count], replace(last, finish_reason="stop", stopped_on=stop))
        at_delimiter = last.finish_reason == "stop" and last.stopped_on == self._delimiter
        if at_delimiter and (completed := self._stopped_there(last, request)) is not None:
            return self._whole(written, tokens, replace(last, stopped_on=completed))
        too_long = last.finish_reason == "length" and len(last.token_ids) >= written.limit
        goes_on = (at_delimiter and self._delimiter not in request.stop) or too_long
        if goes_on and len(tokens) < request.max_tokens:
            return None
        if at_delimiter and self._delimiter not in request.stop:
            last = replace(last, finish_reason="length", stopped_on=None)
        return self._whole(written, tokens, last)

    def _stopped(self, tokens: Path, before: int, request: Request) -> tuple[int, str] | None:
        """How many tokens there are when a stop string is complete that began in an earlier step, and which it is."""
        if not request.stop:
            return None
        longest = max(map(len, request.stop))
        first = max(0, before - 4 * longest)  # a token has a byte at least, a character four at most
        begun = len(self.codec.decode(tokens[first:before]))
        for count in range(before + 1, min(len(tokens), before + 4 * longest) + 1):
            text = self.codec.decode(tokens[first:count])
            for stop in request.stop:
                if 0 <= text.find(stop) < begun:
                    return count, stop
        return None

    def _stopped_there(self, last: Completion, request: Request) -> str | None:
        """The stop string that a step's last token completes along with the delimiter."""
        text = self.codec.decode(last.token_ids)
        return min((stop for stop in request.stop if stop in text), key=text.find, default=None)

    def _whole(self, written: _Written, tokens: Path, last: Completion) -> Completion:
        text = self.codec.decode(tokens)
        if last.finish_reason == "stop" and isinstance(last.stopped_on, str) and last.stopped_on in text:
            text = text[: text.find(last.stopped_on)]
        elif last.finish_reason == "stop" and isinstance(last.stopped_on, int):
            text = self.codec.decode(tokens[:-1])
        alone = len(written.steps) == 1
        return Completion(
            index=0,
            token_ids=tokens,
            text=text,
            finish_reason=last.finish_reason,
            stopped_on=last.stopped_on,
            logprobs=tuple(each for step in written.steps for each in step.logprobs)[: len(tokens)],
            hidden=last.hidden if alone else None,
            states=last.states if alone else {},
            proposers=tuple(each for step in written.steps for each in step.proposers)[: len(tokens)],
            discarded=written.num_generated - len(tokens),
            error=last.error,
        )

    # -- solutions under way -----------------------------------------------------------------------------------------

    def _solution_so_far(self, prefix: Path) -> tuple[Step, ...]:
        """The steps since the prompt, with what the probes said of them where that is known."""
        known = self._known.get(prefix)
        if known is not None:
            return known
        rest = prefix[_turn_begin(prefix, self._opening) :]
        return (Step(text=self.codec.decode(rest), tokens=rest),) if rest else ()

    def _remember(self, path: Path, steps: tuple[Step, ...]) -> None:
        if self._recording != Recording():
            self._known.put(path, steps)


async def _one(engine: Engine, request: Request) -> Completion:
    async for completion in engine.generate([request]):
        return completion
    raise AssertionError("an engine answers every request")


def _num_tokens(work: asyncio.Future[Completion] | None) -> int:
    """Of what was written, if it was."""
    there = work is not None and work.done() and not work.cancelled() and work.exception() is None
    return len(work.result().token_ids) if work is not None and there else 0


def _asked(rows: Sequence[TokenLogprobs], request: Request) -> tuple[TokenLogprobs, ...]:
    """Of what was recorded what the request asked for, without what only the router did."""
    sampling = request.sampling
    if sampling.logprobs is None and not sampling.statistics and not request.probes:
        return ()
    top = sampling.logprobs or 0
    if sampling.statistics:
        return tuple(replace(row, top=row.top[:top]) for row in rows)
    return tuple(replace(row, top=row.top[:top], entropy=None, self_certainty=None) for row in rows)


def _opening(codec: TextCodec) -> Path:
    """The tokens that open the assistant's turn."""
    one, other = (codec.encode_chat([Message(role="user", content=text)]) for text in ("a", "b"))
    length = 0
    while length < min(len(one), len(other)) and one[len(one) - 1 - length] == other[len(other) - 1 - length]:
        length += 1
    return one[len(one) - length :]


def _turn_begin(path: Path, opening: Path) -> int:
    """Where the assistant's last turn begins; the path's end where none does."""
    size = len(opening)
    for end in range(len(path), size - 1, -1):
        if size and path[end - size : end] == opening:
            return end
    return len(path)


def _check_codecs(draft: Engine, target: Engine) -> None:
    sample = "Step 1: 3 × 4 = 12, so\n\n\\boxed{12} ünïcödé\tdef f(x):\n    return x"
    chat = [Message(role="user", content=sample)]
    one, other = draft.codec, target.codec
    if one.encode(sample) != other.encode(sample) or one.encode_turn(chat) != other.encode_turn(chat):
        raise UsageError(f"{draft.name} and {target.name} do not share a tokenizer: steps cannot pass between them")
