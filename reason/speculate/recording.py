"""Recorded token streams: what a model generated, and where they were kept, the likeliest tokens of each row.

Replaying them through a source and a policy needs no model, so drafting can be compared and tuned in seconds.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from reason.errors import UsageError

__all__ = ["RecordedProblem", "RecordedSample", "Recording"]

_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedSample:
    """One generated stream.

    Args:
        key: of its sampling noise, the seed being the problem's.
        tokens: [length], the prompt not included.
        top_tokens: [length, k], the likeliest tokens of the row that each token was drawn from; None if not recorded.
        top_logprobs: [length, k], their log-probabilities at temperature 1.
    """

    key: int
    tokens: npt.NDArray[np.int64]
    top_tokens: npt.NDArray[np.int32] | None = None
    top_logprobs: npt.NDArray[np.float16] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedProblem:
    """A prompt and what was sampled from it."""

    id: str
    seed: int
    prompt: tuple[int, ...]
    samples: tuple[RecordedSample, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """Problems with their samples, from one model at one temperature."""

    model: str
    temperature: float
    problems: tuple[RecordedProblem, ...]

    @property
    def has_rows(self) -> bool:
        """Whether rows were kept, which sources that learn from them need."""
        return all(sample.top_tokens is not None for _, sample in self.samples())

    def samples(self) -> Iterator[tuple[RecordedProblem, RecordedSample]]:
        """Every sample with its problem."""
        return ((problem, sample) for problem in self.problems for sample in problem.samples)

    def save(self, file: Path) -> None:
        """Writes an .npz file, whole or not at all."""
        samples = [sample for _, sample in self.samples()]
        about = {
            "format": _FORMAT,
            "model": self.model,
            "temperature": self.temperature,
            "problems": [
                {"id": p.id, "seed": p.seed, "prompt": list(p.prompt), "keys": [s.key for s in p.samples]}
                for p in self.problems
            ],
            "lengths": [len(sample.tokens) for sample in samples],
        }
        arrays: dict[str, npt.NDArray[np.generic]] = {"tokens": _joined([s.tokens.astype(np.int32) for s in samples])}
        if self.has_rows:
            arrays["top_tokens"] = _joined([s.top_tokens for s in samples if s.top_tokens is not None])
            arrays["top_logprobs"] = _joined([s.top_logprobs for s in samples if s.top_logprobs is not None])
        partial = file.with_name(file.name + ".partial")
        with partial.open("wb") as out:
            np.savez(out, about=np.array(json.dumps(about)), **arrays)  # type: ignore[arg-type]
        partial.replace(file)

    @classmethod
    def load(cls, file: Path) -> Recording:
        """Reads what ``save`` wrote.

        Raises:
            UsageError: the file cannot be read, or is no recording.
        """
        try:
            with np.load(file) as data:
                about = json.loads(str(data["about"]))
                tokens = data["tokens"].astype(np.int64)
                tops = data.get("top_tokens")
                logprobs = data.get("top_logprobs")
            ends = np.cumsum(about["lengths"]).tolist()
            problems: list[RecordedProblem] = []
            begin, number = 0, 0
            for problem in about["problems"]:
                samples: list[RecordedSample] = []
                for key in problem["keys"]:
                    span = slice(begin, ends[number])
                    samples.append(
                        RecordedSample(
                            key=key,
                            tokens=tokens[span],
                            top_tokens=None if tops is None else tops[span],
                            top_logprobs=None if logprobs is None else logprobs[span],
                        )
                    )
                    begin, number = ends[number], number + 1
                problems.append(
                    RecordedProblem(
                        id=problem["id"], seed=problem["seed"], prompt=tuple(problem["prompt"]), samples=tuple(samples)
                    )
                )
            return cls(model=about["model"], temperature=about["temperature"], problems=tuple(problems))
        except (OSError, ValueError, KeyError, IndexError, TypeError, zipfile.BadZipFile) as error:
            raise UsageError(f"{file} is not a recording made by `reason bench record`: {error}") from error


def _joined(parts: Sequence[npt.NDArray[np.generic]]) -> npt.NDArray[np.generic]:
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int32)
