"""What is recorded while steps are generated, so that verifiers find what they read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from reason.types import Capabilities, Embedder, Engine, Probe, Request, Verifier
from reason.verifiers.probes import probes_of

__all__ = ["Recording", "recording_for"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """Args:
    statistics, logprobs: of the tokens' rows, see ``Sampling``.
    hidden, states, probes: of the hidden states, see ``Request``.
    """

    statistics: bool = False
    logprobs: int | None = None
    hidden: bool = False
    states: tuple[int, ...] = ()
    probes: tuple[Probe, ...] = ()

    @property
    def rows_asked(self) -> bool:
        """Whether the tokens' rows are part of it."""
        return self.statistics or self.logprobs is not None

    @property
    def reads_states(self) -> bool:
        """Whether it is about the hidden states of one model."""
        return self.hidden or bool(self.states) or bool(self.probes)

    @property
    def rows(self) -> Recording:
        """The part of it that any model's steps can have."""
        return Recording(statistics=self.statistics, logprobs=self.logprobs)

    def of(self, request: Request) -> Request:
        """The request, which has this recorded beside what it asked for itself."""
        sampling = request.sampling
        if self.rows_asked:
            logprobs = max(self.logprobs or 0, sampling.logprobs or 0)
            sampling = replace(sampling, statistics=self.statistics or sampling.statistics, logprobs=logprobs)
        return replace(
            request,
            sampling=sampling,
            hidden=request.hidden or self.hidden,
            states=tuple(dict.fromkeys((*request.states, *self.states))),
            probes=tuple({probe.name: probe for probe in (*request.probes, *self.probes)}.values()),
        )

    def told_by(self, can: Capabilities) -> bool:
        """Whether an engine that can so much tells the rows' part."""
        return (can.statistics or not self.statistics) and (can.logprobs or self.logprobs is None)


def recording_for(measures: Iterable[Verifier | Embedder], engine: Engine) -> Recording:
    """What some verifiers and embedders need of what an engine generates.

    Raises:
        UsageError: one of them has no head for the engine's model.
    """
    measures = tuple(measures)
    judges = [measure for measure in measures if isinstance(measure, Verifier)]
    return Recording(
        statistics=any(judge.statistics for judge in judges),
        logprobs=max((judge.top_logprobs for judge in judges if judge.top_logprobs is not None), default=None),
        hidden=any(getattr(measure, "hidden", False) for measure in measures),
        states=tuple(dict.fromkeys(layer for judge in judges for layer in getattr(judge, "states", ()))),
        probes=probes_of(judges, engine),
    )
