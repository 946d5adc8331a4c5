"""What the loop works on: a request being generated, and a path being scored."""

from __future__ import annotations

import math
import operator
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from reason.errors import OutOfKV, ReasonError, UsageError
from reason.types import Completion, FinishReason, Path, Request, Scored, TokenLogprobs

if TYPE_CHECKING:
    from reason.engine.codec import HubCodec, StopMatcher
    from reason.runtime.forest import Branch, Node
    from reason.runtime.grammar import Grammar
    from reason.runtime.runner import ModelRunner

__all__ = ["GenerateJob", "ScoreJob", "nodes_at", "refusal", "score_refusal"]


class GenerateJob:
    """One request on its way. It holds KV only while ``branch`` is set."""

    def __init__(self, request: Request, index: int, deliver: Callable[[Completion], None]) -> None:
        self.request = request
        self.index = index
        self.deliver = deliver
        self.branch: Branch | None = None
        self.generated: list[int] = []
        self.logprobs: list[TokenLogprobs] = []
        self.hidden_sum: torch.Tensor | None = None  # of the states that the generated tokens were drawn from
        self.states: dict[int, list[torch.Tensor]] = {layer: [] for layer in request.states}  # by layer, one a token
        self.proposers: list[str] = []  # of the generated tokens, where the engine drafts
        self.grammar: Grammar | None = None
        self.stops: StopMatcher | None = None
        self.prepared = False
        self.done = False

    @property
    def owner(self) -> str:
        return self.request.owner

    def path(self) -> Sequence[int]:
        """Everything that must be in the forest to go on."""
        return (*self.request.prefix, *self.generated)

    def add_hidden(self, state: torch.Tensor) -> None:
        """Counts a state, [hidden_size] float32, that a token is drawn from."""
        self.hidden_sum = state.clone() if self.hidden_sum is None else self.hidden_sum.add_(state)

    def add_states(self, layer: int, state: torch.Tensor) -> None:
        """Keeps a layer's state, [hidden_size], that a token is drawn from."""
        self.states[layer].append(state.clone())

    def completion(
        self,
        codec: HubCodec,
        reason: FinishReason,
        stopped_on: str | int | None = None,
        error: Exception | None = None,
    ) -> Completion:
        text = codec.decode(self.generated)
        if reason == "stop" and isinstance(stopped_on, str):
            text = text[: text.find(stopped_on)] if stopped_on in text else text
        elif reason == "stop" and isinstance(stopped_on, int):
            text = codec.decode(self.generated[:-1])
        return Completion(
            index=self.index,
            token_ids=tuple(self.generated),
            text=text,
            finish_reason=reason,
            stopped_on=stopped_on,
            logprobs=tuple(self.logprobs),
            hidden=None if self.hidden_sum is None else self.hidden_sum / len(self.generated),
            states={layer: torch.stack(states) for layer, states in self.states.items() if states},
            proposers=tuple(self.proposers),
            error=error,
        )


class ScoreJob:
    """One path whose rows from ``start`` on are wanted."""

    def __init__(
        self,
        path: Path,
        start: int,
        owner: str,
        deliver: Callable[[Scored | Exception], None],
        *,
        logprobs: bool = True,
        layers: Sequence[int] = (),
    ) -> None:
        self.path = path
        self.start = start
        self.wants_logprobs = logprobs
        self.layers = tuple(dict.fromkeys(layers))
        self.owner = owner
        self.deliver = deliver
        self.branch: Branch | None = None
        self.next_position = 0  # the next path position whose row is wanted
        self.last_position = len(path) if self.layers else len(path) - 1  # rows end before this
        self.logprobs = torch.zeros(max(0, len(path) - start) if logprobs else 0, dtype=torch.float32)
        self.hidden: dict[int, list[torch.Tensor]] = {layer: [] for layer in self.layers}
        self.done = False

    def first_position(self) -> int:
        """The first row that is needed: ``start``'s own, or the one that predicts it."""
        return max(self.start - 1, 0) if self.wants_logprobs else self.start

    def forget_rows(self) -> None:
        """It begins anew."""
        self.branch, self.hidden = None, {layer: [] for layer in self.layers}

    def result(self) -> Scored:
        hidden = {layer: torch.cat(states) for layer, states in self.hidden.items()}
        return Scored(logprobs=self.logprobs, hidden=hidden)


def refusal(request: Request, runner: ModelRunner) -> ReasonError | None:
    """Why a request cannot be served, or None if it can."""
    prefix, sampling = request.prefix, request.sampling
    vocab_size, max_positions = runner.vocab_size, runner.max_positions
    try:
        whole = (request.max_tokens, request.seed, request.key, sampling.top_k, sampling.logprobs or 0)
        deque(map(operator.index, (*prefix, *request.guess, *whole)), maxlen=0)  # raises TypeError
        hash(request.owner)
        if len(prefix) > max_positions:
            return OutOfKV(f"the prompt has {len(prefix)} tokens; this engine holds {max_positions}")
        rules = {
            "a request needs a prefix of at least one token": len(prefix) > 0,
            f"a prefix token is outside the vocabulary of {vocab_size}": _within(prefix, vocab_size),
            f"a guessed token is outside the vocabulary of {vocab_size}": _within(request.guess, vocab_size),
            f"max_tokens must be at least 1, got {request.max_tokens}": request.max_tokens >= 1,
            "a stop string must not be empty": all(len(s) > 0 for s in request.stop),
            f"temperature must be at least 0, got {sampling.temperature}": 0 <= sampling.temperature < math.inf,
            f"top_p must be in (0, 1], got {sampling.top_p}": 0 < sampling.top_p <= 1,
            f"top_k must be at least 0, got {sampling.top_k}": sampling.top_k >= 0,
            f"min_p must be in [0, 1], got {sampling.min_p}": 0 <= sampling.min_p <= 1,
            f"repetition_penalty must be more than 0, got {sampling.repetition_penalty}": sampling.repetition_penalty
            > 0,
            f"logprobs must be None or at least 0, got {sampling.logprobs}": (sampling.logprobs or 0) >= 0,
            "seed and key must fit 64 bits with a sign": all(
                -(1 << 63) <= n < 1 << 63 for n in (request.seed, request.key)
            ),
        }
        for layer in (*request.states, *(probe.layer for probe in request.probes)):
            runner.check_layer(layer)
    except UsageError as error:
        return error
    except Exception as error:  # whatever a value that is none raises: the engine is not to end with it
        return UsageError(f"a value of the request has the wrong type: {error}")
    return next((UsageError(rule) for rule, kept in rules.items() if not kept), None)


def score_refusal(job: ScoreJob, runner: ModelRunner) -> ReasonError | None:
    """Why a path cannot be scored, or None if it can."""
    path, vocab_size, max_positions = job.path, runner.vocab_size, runner.max_positions
    try:
        deque(map(operator.index, (*path, job.start)), maxlen=0)  # raises TypeError
        hash(job.owner)
        for layer in job.layers:
            runner.check_layer(layer)
    except UsageError as error:
        return error
    except Exception as error:  # as above
        return UsageError(f"a value of what is to be scored has the wrong type: {error}")
    if not 0 <= job.start < len(path):
        return UsageError(f"start must be in [0, {len(path)}), got {job.start}")
    if not _within(path, vocab_size):
        return UsageError(f"a token of the path is outside the vocabulary of {vocab_size}")
    if len(path) > max_positions:
        return OutOfKV(f"the path has {len(path)} tokens; this engine holds {max_positions}")
    return None


def _within(tokens: Path, vocab_size: int) -> bool:
    return len(tokens) == 0 or (min(tokens) >= 0 and max(tokens) < vocab_size)


def nodes_at(branch: Branch, first: int, last: int) -> list[tuple[Node, int]]:
    """(node, index) of the path positions ``first .. last - 1``."""
    places: list[tuple[Node, int]] = []
    for node, length in branch.runs():
        places.extend((node, p - node.start) for p in range(max(first, node.start), min(last, node.start + length)))
    return places
