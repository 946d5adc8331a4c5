"""The vocabulary: what a problem, a request, a completion and a solution are, and the protocols between the layers.

Everything else imports from here; this module imports nothing of ours. Token ids are plain ``int``; a *path* is
the whole token sequence from the first prompt token on, so that a path names its KV by content.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeAlias, TypedDict, runtime_checkable

if TYPE_CHECKING:
    import torch

__all__ = [
    "CLOSING",
    "Answer",
    "Budget",
    "Candidate",
    "Capabilities",
    "Completion",
    "Embedder",
    "Engine",
    "Extract",
    "FinishReason",
    "LogitsProcessor",
    "Message",
    "Path",
    "Probe",
    "Problem",
    "Request",
    "Review",
    "Sampling",
    "Scored",
    "Solution",
    "Step",
    "StoppedBy",
    "TextCodec",
    "Thinking",
    "TokenLogprobs",
    "ToolMessage",
    "Trajectory",
    "Usage",
    "Verifier",
    "capabilities_of",
]


class Message(TypedDict):
    """One chat message, as every chat API has it."""

    role: str
    content: str


class ToolMessage(Message, total=False):
    """A message of a conversation with tools: the assistant's, that makes calls, or a tool's, that answers one.

    A call is {"id": ..., "type": "function", "function": {"name": ..., "arguments": ...}}, its arguments an object, as
    chat templates want them.
    """

    tool_calls: list[dict[str, Any]]
    tool_call_id: str
    name: str


Path: TypeAlias = tuple[int, ...]
Extract: TypeAlias = Callable[[str], "str | None"]

FinishReason: TypeAlias = Literal["eos", "stop", "length", "cancelled", "error"]
"""Why a completion ended: end-of-sequence token; a stop string or stop token; the token limit (or the context
length); the caller; a failure (then ``Completion.error`` holds it)."""

StoppedBy: TypeAlias = Literal["done", "policy_tokens", "seconds", "kv_tokens", "calls", "interrupt"]
"""Why a search ended: the strategy was done; the budget limit of that name; Ctrl-C or cancellation."""


class LogitsProcessor(Protocol):
    """Changes one row of logits before temperature and truncation.

    ``tokens`` is the path so far (prompt included), ``logits`` a float32 row of shape [vocab]; returns a row of the
    same shape. It must be a function of its arguments alone: with speculation it is called once per draft node.
    """

    def __call__(self, tokens: Sequence[int], logits: torch.Tensor, /) -> torch.Tensor: ...


class Probe(Protocol):
    """Reads one number off the model's hidden states: a value head, a router. It costs no forward of its own."""

    @property
    def name(self) -> str:
        """What its numbers are recorded under. Probes of one name are taken to be the same."""
        ...

    @property
    def layer(self) -> int:
        """Which states it reads: those that leave a layer, counted from 0; -1 is the last's, after the final norm."""
        ...

    def __call__(self, states: torch.Tensor, /) -> torch.Tensor:
        """States [rows, hidden_size] float32 on the CPU to numbers [rows]."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How a token is drawn from a row of logits.

    Applied in this order: penalties, ``processors``, grammar, ``temperature``, ``top_k``, ``top_p``, ``min_p``, draw.

    Args:
        temperature: 0 is greedy (ties go to the lowest token id).
        top_k: keep the k most likely tokens; 0 keeps all.
        top_p: keep the smallest set of most likely tokens whose mass reaches this; 1 keeps all.
        min_p: drop tokens less likely than this fraction of the most likely one.
        repetition_penalty: divide positive and multiply negative logits of tokens already in the path (CTRL).
        presence_penalty: subtracted once from tokens already generated.
        frequency_penalty: subtracted per occurrence of tokens already generated.
        logprobs: None computes none; 0 gives each drawn token's raw log-probability; k > 0 also each row's top k.
        statistics: also each row's entropy and self-certainty (then ``logprobs`` counts as at least 0).
        processors: user functions over a row, see ``LogitsProcessor``.
        json_schema: a JSON schema (text) that the completion must satisfy; needs the ``grammar`` extra.
        regex: a regular expression that the completion must match; needs the ``grammar`` extra.
        lark: a Lark grammar the completion must derive from; needs the ``grammar`` extra.
    """

    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logprobs: int | None = None
    statistics: bool = False
    processors: tuple[LogitsProcessor, ...] = ()
    json_schema: str | None = None
    regex: str | None = None
    lark: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Extend one path by sampling.

    Args:
        prefix: the path to extend, at least one token.
        seed: with ``key`` and the position decides the sampling noise, so equal (seed, key) on an equal prefix give
            equal tokens whatever else runs (fp32).
        key: which rollout this is; rollouts with different keys are independent.
        sampling: see ``Sampling``.
        max_tokens: at most so many new tokens.
        max_generated: at most so many tokens are generated for it, those that are thrown away included; None is no
            limit. It is for engines with an attribute ``generated_per_token``: how many tokens they may generate for
            one that they give, which is one elsewhere.
        stop: strings that end the completion; the text is cut before the string.
        stop_token_ids: tokens that end the completion; the token is kept in ``token_ids``, not in ``text``.
        ignore_eos: go on after an end-of-sequence token.
        hidden: the completion tells its mean hidden state. It costs no forward.
        states: layers (see ``Probe.layer``) of which the completion tells the states that its tokens were drawn from.
            It costs no forward, and memory for each token.
        probes: read the states that tokens are drawn from; their numbers are in the completion's ``logprobs``, which
            are recorded then.
        guess: tokens that somebody else takes for the next ones. Draft sources that learn from text are told them; they
            change how fast tokens come, not which.
        owner: the problem this work is accounted to.
    """

    prefix: Path
    seed: int = 0
    key: int = 0
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int = 512
    max_generated: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    hidden: bool = False
    states: tuple[int, ...] = ()
    probes: tuple[Probe, ...] = ()
    guess: Path = ()
    owner: str = ""


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """What is recorded of one generated position: raw log-probabilities (temperature 1, before penalties and
    truncation), and what was asked for beside them."""

    token: float
    top: tuple[tuple[int, float], ...] = ()  # (token id, log-probability), most likely first
    entropy: float | None = None  # of the row, in nats
    self_certainty: float | None = None  # KL(uniform || row) = -log V - mean log p, in nats; impossible tokens left out
    values: tuple[tuple[str, float], ...] = ()  # (probe, its number), in the order of the request's probes


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What a ``Request`` came to. ``index`` is the request's place in the list given to ``Engine.generate``.

    ``hidden`` [hidden_size] is the mean, over the generated tokens, of the last layer's states that they were drawn
    from, after the final norm, when asked for and where the engine has them; ``states`` has them token by token,
    [tokens, hidden_size] by layer, in the model's precision. ``proposers`` names, token by token, the
    draft source that had proposed it, "" for those that nobody had; it is empty where the engine does not draft.
    ``discarded`` counts tokens that were generated for it and are not in it: steps that another model wrote again.
    """

    index: int
    token_ids: Path
    text: str
    finish_reason: FinishReason
    stopped_on: str | int | None = None  # the stop string or stop/eos token id
    logprobs: tuple[TokenLogprobs, ...] = ()
    hidden: torch.Tensor | None = field(default=None, compare=False)  # float32, on the CPU
    states: Mapping[int, torch.Tensor] = field(default_factory=dict, compare=False)  # on the CPU
    proposers: tuple[str, ...] = field(default=(), compare=False)
    discarded: int = 0
    error: Exception | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """Rows ``start .. len(path)`` of one path.

    ``logprobs[i]`` is the raw log-probability of ``path[start + i]`` given what precedes it (the first token of a
    path has no row before it and gets 0); there are none where they were not asked for. ``hidden`` has the states
    *at* those tokens, [len(path) - start, hidden_size] float32 for each layer that was asked for.
    """

    logprobs: torch.Tensor  # [len(path) - start] float32
    hidden: Mapping[int, torch.Tensor] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class Usage:
    """The ledger row: what one problem (or a whole run) cost, in the same units for every strategy.

    ``unique_kv_tokens_*`` count tokens whose KV is committed and locked by the problem, shared prefixes once;
    ``mean`` is over engine iterations in which the problem held anything. The prompt is inside them and reported
    by itself as ``prompt_tokens`` (unique prompt tokens, prefilled once). Of the policy tokens ``draft_model_tokens``
    are the small model's of a routed engine (see ``reason.route``), of whose ``routed_steps`` the large one wrote
    ``escalated_steps``; ``short_cuts`` counts the problems that the small model answered by itself (``reason.plan``).
    """

    prompt_tokens: int = 0
    policy_tokens: int = 0
    verifier_tokens: int = 0
    calls: int = 0
    forwards: int = 0
    draft_forwards: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    draft_model_tokens: int = 0
    routed_steps: int = 0
    escalated_steps: int = 0
    short_cuts: int = 0
    unique_kv_tokens_peak: int = 0
    unique_kv_tokens_mean: float = 0.0
    solver_seconds: float = 0.0
    seconds: float = 0.0

    def as_dict(self) -> dict[str, int | float]:
        """Plain numbers by name, for JSON."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def plus(self, other: Usage) -> Usage:
        """This row and another's work on the same problem as one: sums, the higher peak, the mean KV weighed by
        forwards."""
        total = Usage(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})
        total.prompt_tokens = max(self.prompt_tokens, other.prompt_tokens)
        total.unique_kv_tokens_peak = max(self.unique_kv_tokens_peak, other.unique_kv_tokens_peak)
        held = self.unique_kv_tokens_mean * self.forwards + other.unique_kv_tokens_mean * other.forwards
        total.unique_kv_tokens_mean = held / total.forwards if total.forwards else 0.0
        return total


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Hard limits; None is no limit. Work is admitted only if it fits, so limits are not overshot."""

    policy_tokens: int | None = None
    seconds: float | None = None
    kv_tokens: int | None = None
    calls: int | None = None


CLOSING = "\n\nThe final answer is \\boxed{"
"""What makes an unfinished solution give its answer, where the answer belongs into a box."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing to solve.

    Args:
        content: the problem text, or a whole message list when the caller writes the prompt.
        id: names it in ledgers and traces.
        extract: gets the final answer out of a completion's text; None means the default (``\\boxed{}``, then
            "the answer is", then the last number).
        equivalent: whether two extracted answers are the same; None means the default (math-verify).
        step_delimiter: the text that ends a step of a solution.
        closing: appended to an unfinished solution to make it give its answer when the budget is spent; the answer
            is extracted from this text and what the model adds to it. "" never does that.
        question: the bare question, where ``content`` is a whole prompt around it.
        passages: texts that the answer may be found in, for strategies that choose among them; ``content`` need not
            have them all.
        tests: of a problem that asks for a program, those that a solver may run: texts of Python, "assert f(2) == 3".
        entry_point: the function that tests call.
        setup: Python that runs before each test.
    """

    content: str | tuple[Message, ...]
    id: str = "problem"
    extract: Extract | None = None
    equivalent: Callable[[str, str], bool] | None = None
    step_delimiter: str = "\n\n"
    closing: str = CLOSING
    question: str | None = None
    passages: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    entry_point: str | None = None
    setup: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a strategy concludes from its tree: the answer (None when no leaf gave one), the text it stands in, and
    how strongly it is held (for a vote: its share)."""

    answer: str | None
    text: str
    confidence: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One finished leaf of a search: a whole solution."""

    answer: str | None
    text: str
    num_tokens: int  # generated tokens on its path
    finish_reason: FinishReason
    score: float | None = None  # the strategy's own, None if it has none
    answer_class: int | None = None  # equal for equivalent answers


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """The result of ``solve``."""

    answer: str | None
    text: str
    confidence: float
    strategy: str
    model: str
    stopped_by: StoppedBy
    usage: Usage
    problem: str = "problem"
    candidates: tuple[Candidate, ...] = ()  # every finished leaf, in tree order
    chosen: str | None = None  # what a strategy that is to choose one ("auto") took, with its fields

    def as_dict(self) -> dict[str, Any]:
        """The object that ``reason solve --json`` prints."""
        return {
            "answer": self.answer,
            "text": self.text,
            "confidence": self.confidence,
            "strategy": self.strategy,
            "chosen": self.chosen,
            "model": self.model,
            "stopped_by": self.stopped_by,
            "usage": self.usage.as_dict(),
            "candidates": [asdict(candidate) for candidate in self.candidates],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Thinking:
    """How a model family marks the reasoning that precedes its answer."""

    start: str  # "<think>"
    end: str  # "</think>"
    end_token: int  # the token id of ``end``


class TextCodec(Protocol):
    """Text to tokens and back: what strategies and drivers need of a tokenizer."""

    def encode(self, text: str) -> Path: ...

    def encode_chat(
        self, messages: Sequence[Message], *, continue_final: bool = False, tools: Sequence[Mapping[str, Any]] = ()
    ) -> Path:
        """The chat template's tokens, ready for the assistant's turn (or inside its last message).

        Args:
            messages: those of a conversation with tools may be ``ToolMessage``.
            tools: the functions that the model may call, each {"type": "function", "function": {...}}.
        """
        ...

    def encode_turn(self, messages: Sequence[Message]) -> Path:
        """What to append to a path inside (or at the end of) the assistant's turn: the end of that turn, ``messages``,
        and the opening of the assistant's next turn. The path's KV stays valid."""
        ...

    def decode(self, tokens: Sequence[int]) -> str: ...

    @property
    def thinking(self) -> Thinking | None:
        """How this model marks its thinking; None if it does not."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What an engine can tell of its model beside the text.

    Args:
        logprobs: the log-probability of each token that it generates.
        top_logprobs: those of the likeliest tokens at its place, at most so many; None is any number.
        statistics: figures over whole rows: entropy, self-certainty.
        states: hidden states, for value heads, routers and embeddings.
        score: log-probabilities of a text that it did not generate.
    """

    logprobs: bool = True
    top_logprobs: int | None = None
    statistics: bool = True
    states: bool = True
    score: bool = True

    def both(self, other: Capabilities) -> Capabilities:
        """What two engines can."""
        tops = [each for each in (self.top_logprobs, other.top_logprobs) if each is not None]
        return Capabilities(
            logprobs=self.logprobs and other.logprobs,
            top_logprobs=min(tops, default=None),
            statistics=self.statistics and other.statistics,
            states=self.states and other.states,
            score=self.score and other.score,
        )


def capabilities_of(engine: Engine) -> Capabilities:
    """What an engine can; all of it, unless it says otherwise."""
    found: Capabilities = getattr(engine, "capabilities", Capabilities())
    return found


@runtime_checkable
class Engine(Protocol):
    """Extends and scores paths. ``LocalEngine`` runs a model, ``RemoteEngine`` asks a server, ``ScriptedEngine`` plays
    given text. One that cannot tell all that ``Capabilities`` names has an attribute ``capabilities``."""

    @property
    def name(self) -> str:
        """The model, as the user named it."""
        ...

    @property
    def codec(self) -> TextCodec: ...

    def generate(self, requests: Sequence[Request]) -> AsyncIterator[Completion]:
        """Yields each completion as it finishes, in any order. Closing the iterator cancels what is unfinished and
        frees everything it held. A request that fails yields a completion with ``finish_reason="error"``; the
        others go on."""
        ...

    async def score(
        self,
        paths: Sequence[Path],
        start: int,
        *,
        logprobs: bool = True,
        layers: Sequence[int] = (),
        owner: str = "",
    ) -> Sequence[Scored]:
        """Rows from ``start`` on of each path; KV that is cached is used, rows are recomputed where needed.

        Args:
            logprobs: tell them; without, there is no product with the vocabulary.
            layers: tell the hidden states that leave these, as ``Probe.layer`` counts them.
        """
        ...

    def usage(self, owner: str) -> Usage:
        """A copy of the ledger row of ``owner`` so far."""
        ...

    def forget(self, owner: str) -> None:
        """Drops the ledger row of an owner whose work is over."""
        ...

    def progress(self, owner: str) -> Mapping[int, str]:
        """Text generated so far by the unfinished requests of ``owner``, by ``Request.key``: for live views."""
        ...

    def close(self) -> None:
        """Cancels everything and frees the model. Idempotent."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One piece of a solution, as one expansion made it."""

    text: str
    tokens: Path  # this step's own
    logprobs: tuple[TokenLogprobs, ...] = ()  # one a token, where they were recorded
    hidden: torch.Tensor | None = field(default=None, compare=False)  # see ``Completion``, where it was recorded
    states: Mapping[int, torch.Tensor] = field(default_factory=dict, compare=False)  # the same


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """A path through a search tree, as verifiers see it. There is no reference answer in it."""

    problem: Problem
    prompt: Path  # the root's tokens
    steps: tuple[Step, ...]  # from the root down; together with the prompt the whole path
    finished: bool = False
    answer: str | None = None
    answer_class: int | None = None  # equal for equivalent answers

    @property
    def path(self) -> Path:
        return self.prompt + tuple(token for step in self.steps for token in step.tokens)

    @property
    def text(self) -> str:
        return "".join(step.text for step in self.steps)


class Review(NamedTuple):
    """A score, and what there is to say of it to who wrote the step: a failing test, a critique."""

    score: float
    feedback: str = ""


@runtime_checkable
class Verifier(Protocol):
    """Scores the last step of trajectories, higher is better. It may use the engine; what that costs is in the ledger.
    One with a model of its own has methods ``usage(owner)`` and ``forget(owner)`` as engines have: the verifier tokens
    there are added to the run's. One that can say why has a method ``review``, asked instead of ``score``: a ``Review``
    for each trajectory. One with an attribute ``hidden`` that is true gets the steps' hidden states, as embedders do;
    one with a tuple of layers ``states`` gets those token by token; one with a method ``probes(engine)`` finds what
    those say in the steps' ``logprobs``; one with an attribute ``uses_score`` that is true asks the engine's ``score``.

    ``statistics`` and ``top_logprobs`` say what must be recorded while the steps are generated (see ``Sampling``);
    ``probability`` whether scores lie in [0, 1], so that a product of them means something.
    """

    @property
    def name(self) -> str: ...

    @property
    def statistics(self) -> bool: ...

    @property
    def top_logprobs(self) -> int | None: ...

    @property
    def probability(self) -> bool: ...

    async def score(self, trajectories: Sequence[Trajectory], engine: Engine, owner: str) -> list[float]:
        """One finite score for each trajectory's last step. All are given at once: a score may be relative to them."""
        ...


@runtime_checkable
class Embedder(Protocol):
    """Maps the last step of trajectories to vectors whose cosines say how alike they are. It may use the engine; what
    that costs is in the ledger. One with an attribute ``hidden`` that is true gets steps with their hidden states,
    where the engine recorded them while it generated the steps."""

    @property
    def name(self) -> str: ...

    async def embed(self, trajectories: Sequence[Trajectory], engine: Engine, owner: str) -> Sequence[Sequence[float]]:
        """One finite vector for each trajectory, all of one size [trajectories, size]; their lengths do not matter."""
        ...
