"""A model for EleutherAI's lm-evaluation-harness (https://github.com/EleutherAI/lm-evaluation-harness) that searches.

    import lm_eval
    from reason.report.lm_eval_adapter import register

    register()
    lm_eval.simple_evaluate(
        model="reason",
        model_args="model=qwen2.5-coder-0.5b-instruct,strategy=best-of-n,num_samples=8",
        tasks=["gsm8k_cot_zeroshot"],
        apply_chat_template=True,
    )

or, with the harness's own command line, ``python -m reason.report.lm_eval_adapter run --model reason ...``.

``generate_until`` gives each prompt to a strategy and returns the text of the answer that won; ``loglikelihood`` scores
with the engine. Where this is not what the harness's other models do:

- A task's temperature is not used: the strategy samples as its own fields say. ``max_gen_toks`` sets ``max_tokens``
  unless that is given.
- Texts are cut at a task's stop strings, as everywhere, but afterwards. Tasks that stop at a blank line cut reasoning
  short: ``ignore_until=True``.
- A prompt without a chat template is one user message, since solvers chat.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from reason.api import Solver
from reason.errors import UsageError
from reason.fields import hints
from reason.report.evaluate import default_concurrency
from reason.search.driver import check_budget
from reason.search.strategies import make_strategy
from reason.sync import run_sync
from reason.types import Budget, Message, Path, Problem, Request, Sampling

if TYPE_CHECKING:
    from reason.types import Engine

__all__ = ["ReasonLM", "register"]

_OWNER = "lm-eval"
_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_DEFAULT_LENGTH = 1024
_SCORED_AT_ONCE = 64


class _Instance(Protocol):
    """What the harness asks: ``lm_eval.api.instance.Instance``."""

    @property
    def args(self) -> tuple[Any, ...]: ...


class ReasonLM:
    """The harness's ``LM`` without the harness; ``register`` makes it one.

    Args:
        model, device, dtype, quantize, kv_tokens, threads: see ``Solver``.
        solver: one made by the caller, instead of a model.
        strategy: a name; its fields are keyword arguments too (``num_samples=8``).
        max_policy_tokens, max_kv_tokens, max_calls, max_thinking_tokens: limits of each problem.
        concurrency: problems under way at once; by default so many that about 64 samples are.
        ignore_until: do not cut texts at the task's stop strings.
        is_greedy: also find out whether scored texts are what greedy decoding gives, which few tasks look at and takes
            as long again; without it they count as not.
        batch_size, max_batch_size: the harness's; not used.
    """

    def __init__(
        self,
        model: str | None = None,
        strategy: str = "best-of-n",
        *,
        solver: Solver | None = None,
        device: str | None = None,
        dtype: str = "auto",
        quantize: str | None = None,
        kv_tokens: int | None = None,
        threads: int | None = None,
        seed: int = 0,
        max_policy_tokens: int | None = None,
        max_kv_tokens: int | None = None,
        max_calls: int | None = None,
        max_thinking_tokens: int | None = None,
        concurrency: int | None = None,
        ignore_until: bool = False,
        is_greedy: bool = True,
        batch_size: object = None,
        max_batch_size: object = None,
        **strategy_fields: Any,
    ) -> None:
        super().__init__()  # the harness's
        made = make_strategy(strategy, **strategy_fields)
        self._budget = Budget(policy_tokens=max_policy_tokens, kv_tokens=max_kv_tokens, calls=max_calls)
        check_budget(self._budget)
        self._strategy, self._fields, self._seed = strategy, strategy_fields, seed
        self._takes_length = "max_tokens" in hints(type(made)) and "max_tokens" not in strategy_fields
        self._max_thinking_tokens = max_thinking_tokens
        self._concurrency = concurrency or default_concurrency(made)
        self._ignore_until, self._is_greedy = ignore_until, is_greedy
        self._solver = solver or Solver(
            model, device=device or "auto", dtype=dtype, quantize=quantize, kv_tokens=kv_tokens, threads=threads
        )

    @property
    def tokenizer_name(self) -> str:
        """Names the chat template in the harness's caches."""
        return self._engine.name

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The messages themselves, as JSON: the engine's codec applies the template."""
        if not add_generation_prompt:
            raise UsageError("a solver begins the assistant's turn itself: tasks with a generation prefix do not run")
        return json.dumps(chat_history, ensure_ascii=False)

    def generate_until(self, requests: Sequence[_Instance], disable_tqdm: bool = False) -> list[str]:
        """Solves every prompt; many share the engine's batch."""

        names = _names([request.args[0] for request in requests])

        async def whole() -> list[str]:
            gate = asyncio.Semaphore(self._concurrency)
            work = (self._generate(gate, name, request) for name, request in zip(names, requests, strict=True))
            return list(await asyncio.gather(*work))

        return run_sync(whole())

    def loglikelihood(self, requests: Sequence[_Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """The log-probability of each continuation, and whether greedy decoding gives it."""

        async def whole() -> list[tuple[float, bool]]:
            gate = asyncio.Semaphore(_SCORED_AT_ONCE)
            return list(await asyncio.gather(*(self._score_pair(gate, *request.args) for request in requests)))

        return self._scored("loglikelihood", requests, run_sync(whole()))

    def loglikelihood_rolling(self, requests: Sequence[_Instance], disable_tqdm: bool = False) -> list[float]:
        """The log-probability of each whole text, in windows of the model's length that overlap as much as they can."""

        async def whole() -> list[float]:
            gate = asyncio.Semaphore(_SCORED_AT_ONCE)
            return list(await asyncio.gather(*(self._score_text(gate, request.args[0]) for request in requests)))

        return self._scored("loglikelihood_rolling", requests, run_sync(whole()))

    # -- generating ------------------------------------------------------------------------------------------------

    @property
    def _engine(self) -> Engine:
        return self._solver.engine

    async def _generate(self, gate: asyncio.Semaphore, name: str, request: _Instance) -> str:
        context, settings = request.args
        fields = dict(self._fields)
        if self._takes_length:
            fields["max_tokens"] = _max_tokens(settings)
        async with gate:
            run = self._solver.start(
                Problem(content=_messages(context), id=name),
                self._strategy,
                budget=self._budget,
                seed=self._seed,
                max_thinking_tokens=self._max_thinking_tokens,
                **fields,
            )
            solution = await run.solve()
        text = solution.text if self._ignore_until else _cut(solution.text, settings)
        self._remember("generate_until", request, text)
        return text

    # -- scoring ---------------------------------------------------------------------------------------------------

    async def _score_pair(self, gate: asyncio.Semaphore, context: str, continuation: str) -> tuple[float, bool]:
        before, whole = self._encode_pair(context, continuation)
        if len(whole) == len(before):
            return 0.0, True
        length = self._max_positions
        if length is not None and len(whole) > length:  # the end counts
            before, whole = before[len(whole) - length :], whole[-length:]
        start = max(1, len(before))
        async with gate:
            (scored,) = await self._engine.score([whole], start, owner=_OWNER)
            greedy = self._is_greedy and await self._greedy(whole[:start], whole[start:])
        return float(scored.logprobs.sum()), greedy

    async def _score_text(self, gate: asyncio.Semaphore, text: str) -> float:
        tokens = (self._prefix_token, *self._engine.codec.encode(text))
        length = self._max_positions or len(tokens)
        total, done = 0.0, 1
        while done < len(tokens):
            end = min(len(tokens), done + length - 1)
            begin = max(0, end - length)
            async with gate:
                (scored,) = await self._engine.score([tokens[begin:end]], done - begin, owner=_OWNER)
            total, done = total + float(scored.logprobs.sum()), end
        return total

    async def _greedy(self, prefix: Path, continuation: Path) -> bool:
        request = Request(
            prefix=prefix,
            sampling=Sampling(temperature=0.0),
            max_tokens=len(continuation),
            ignore_eos=True,
            owner=_OWNER,
        )
        return [c.token_ids async for c in self._engine.generate([request])] == [continuation]

    def _encode_pair(self, context: str, continuation: str) -> tuple[Path, Path]:
        """The tokens of the context, and of both: white space between them belongs to the continuation."""
        codec = self._engine.codec
        if (messages := _chat(context)) is not None:
            before = codec.encode_chat(messages)
            return before, before + codec.encode(continuation)
        stripped = context.rstrip()
        continuation = context[len(stripped) :] + continuation
        if not stripped:
            return (self._prefix_token,), (self._prefix_token, *codec.encode(continuation))
        before, whole = codec.encode(stripped), codec.encode(stripped + continuation)
        return before[: len(whole)], whole

    @property
    def _prefix_token(self) -> int:
        """What stands before a text that has nothing before it: an end-of-sequence token."""
        return min(getattr(self._engine.codec, "eos_token_ids", (0,)))

    @property
    def _max_positions(self) -> int | None:
        return getattr(self._engine, "max_positions", None)

    def _scored(self, kind: str, requests: Sequence[_Instance], results: list[Any]) -> list[Any]:
        self._engine.forget(_OWNER)
        for request, result in zip(requests, results, strict=True):
            self._remember(kind, request, result)
        return results

    def _remember(self, kind: str, request: _Instance, result: object) -> None:
        """In the harness's cache, if it keeps one."""
        hook = getattr(self, "cache_hook", None)
        if hook is not None:
            hook.add_partial(kind, request.args, result)


def register() -> type[Any]:
    """Makes the model known to the harness as "reason", and returns its class. Again and again does no harm.

    Raises:
        UsageError: the harness is not installed.
    """
    try:
        from lm_eval.api.model import LM
        from lm_eval.api.registry import register_model
    except ImportError as error:
        message = f"lm-evaluation-harness cannot be imported ({error}): pip install 'reason-toolkit[tasks]'"
        raise UsageError(message) from None
    global _registered
    if _registered is None:
        _registered = type("RegisteredReasonLM", (ReasonLM, LM), {"__doc__": ReasonLM.__doc__, "__module__": __name__})
        register_model("reason")(_registered)
    return _registered


_registered: type[Any] | None = None


def _names(contexts: Sequence[str]) -> list[str]:
    """Ids of problems, which their sampling noise depends on: the same for the same prompt, others for its repeats."""
    seen: Counter[str] = Counter()
    names = []
    for context in contexts:
        names.append(f"{hashlib.sha256(context.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}-{seen[context]}")
        seen[context] += 1
    return names


def _chat(context: str) -> list[Message] | None:
    """The messages that ``apply_chat_template`` wrote; None for plain text."""
    if not context.startswith("["):
        return None
    try:
        messages = json.loads(context)
    except ValueError:
        return None
    whole = bool(messages) and all(isinstance(m, dict) and {"role", "content"} <= m.keys() for m in messages)
    return [Message(role=m["role"], content=m["content"]) for m in messages] if whole else None


def _messages(context: str) -> tuple[Message, ...]:
    return tuple(_chat(context) or [Message(role="user", content=context)])


def _max_tokens(settings: Mapping[str, Any]) -> int:
    given = (settings[name] for name in _LENGTHS if settings.get(name) is not None)
    return int(next(given, _DEFAULT_LENGTH))


def _cut(text: str, settings: Mapping[str, Any]) -> str:
    """The text before the first stop string."""
    until = settings.get("until") or []
    for stop in [until] if isinstance(until, str) else until:
        if stop:
            text = text.split(stop, 1)[0]
    return text


def _main() -> None:
    register()
    from lm_eval.__main__ import cli_evaluate

    sys.argv[0] = "lm-eval"
    cli_evaluate()


if __name__ == "__main__":
    _main()
