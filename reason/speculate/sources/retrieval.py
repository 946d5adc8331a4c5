"""Retrieval: what followed the longest suffix match in a datastore (REST, He et al., https://arxiv.org/abs/2311.08252;
RASD, Quan et al., https://arxiv.org/abs/2503.03434).

    p(token) = acceptance(match) * count(token) / count(all),   over at most max_hits occurrences of the match

The datastore has two parts: the user's texts, sorted once (``Archive``), and the outputs of this run as they grow
(``Occurrences``). The longer match speaks, or both at equal length. A copied token that does not agree with the draft
ends its occurrence; there is no second search along the draft.

Departures: match lengths are told apart by the steps of a ladder, not one by one. Probabilities are counts shrunk by
how often any continuation of such a match (by its length and number of occurrences) came lately. RASD's pruning of
continuations that the drafter's own distribution does not support is left to whoever mixes sources.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from reason.errors import UsageError
from reason.speculate.archive import Archive
from reason.speculate.draft import Distribution, Source, State, Stream
from reason.speculate.estimates import MATCH_PRIORS, Acceptance, match_bucket
from reason.speculate.occurrences import NONE, Occurrences, ladder, shares
from reason.types import TextCodec

__all__ = ["Retrieval"]


class _Hits(NamedTuple):
    """The occurrences that still agree: positions of the next tokens in both parts."""

    texts: tuple[int, ...]
    outputs: tuple[int, ...]
    length: int  # tokens that agree


class Retrieval(Source):
    """See the module's docstring.

    Args:
        texts: the user's texts as token ids.
        learn: whether outputs of this run join the datastore.
        max_match: the longest match that is told from shorter ones.
        min_match: the shortest match that counts.
        max_hits: occurrences that are counted; outputs, latest first, before texts.
        max_tokens: bound of the outputs that are kept, the latest ones.
        max_text_tokens: bound of ``texts``.

    Raises:
        UsageError: the texts are longer than that.
    """

    name = "retrieval"
    reads_rows = False

    def __init__(
        self,
        *,
        texts: Sequence[Sequence[int]] = (),
        learn: bool = True,
        max_match: int = 16,
        min_match: int = 2,
        max_hits: int = 64,
        max_tokens: int = 1_000_000,
        max_text_tokens: int = 50_000_000,
    ) -> None:
        if (total := sum(map(len, texts))) > max_text_tokens:
            raise UsageError(f"the texts have {total} tokens; give fewer, or raise max_text_tokens={max_text_tokens}")
        self._lengths = ladder(min_match, max_match)
        self._learn = learn
        self._max_hits = max_hits
        self._max_tokens = max_tokens
        self._texts = Archive(texts, lengths=self._lengths, max_hits=max_hits)
        self._last: dict[Stream, int] = {}  # streams under way: their last positions among the outputs
        self._acceptance = Acceptance(MATCH_PRIORS)
        self.reset()

    @classmethod
    def from_files(cls, paths: Sequence[str | os.PathLike[str]], codec: TextCodec, **fields: Any) -> Retrieval:
        """A datastore of files (UTF-8): a .jsonl file has one JSON object with a "text" a line, others are one text.

        Args:
            paths: the files.
            codec: the model's tokenizer.
            **fields: the other arguments of the class.

        Raises:
            UsageError: a file cannot be read, or is not what its name says.
        """
        return cls(texts=[codec.encode(text) for path in paths for text in _read(Path(path))], **fields)

    def reset(self) -> None:
        """Forgets the outputs; the user's texts stay."""
        self._outputs = Occurrences(self._lengths, max_tokens=self._max_tokens, max_hits=self._max_hits)
        self._last = dict.fromkeys(self._last, NONE)
        self._acceptance.reset()

    def begin(self, stream: Stream) -> None:
        self._last[stream] = NONE

    def extend(self, stream: Stream, count: int) -> None:
        if self._learn:
            self._last[stream] = self._outputs.extend(stream.tokens, count, self._last[stream])

    def end(self, stream: Stream) -> None:
        del self._last[stream]

    def state(self, stream: Stream) -> State:
        texts, outputs = self._texts.find(stream.tokens), self._outputs.find(stream.tokens)
        length = max(texts.length if texts else 0, outputs.length if outputs else 0)
        if not length:
            return None
        recent = outputs.positions if outputs and outputs.length == length else ()
        given = texts.positions if texts and texts.length == length else ()
        return _Hits(given[: self._max_hits - len(recent)], recent, length)

    def step(self, state: State, token: int) -> State:
        texts = self._texts.step(state.texts, token)
        outputs = self._outputs.step(state.outputs, token)
        return _Hits(texts, outputs, state.length + 1) if texts or outputs else None

    def distribution(self, state: State) -> Distribution:
        tokens, ratios = shares(self._next(state))
        rate = self._acceptance.rate(_bucket(state))
        return Distribution(tokens, [rate * ratio for ratio in ratios])

    def settle(self, state: State, token: int) -> None:
        self._acceptance.update(_bucket(state), token in self._next(state))

    def _next(self, state: _Hits) -> list[int]:
        return self._outputs.tokens(state.outputs) + self._texts.tokens(state.texts)


def _bucket(state: _Hits) -> int:
    return match_bucket(state.length, len(state.texts) + len(state.outputs))


def _read(path: Path) -> Iterator[str]:
    """The texts of a file."""
    try:
        content = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text; give plain text, or JSON lines in a .jsonl file") from error
    if path.suffix != ".jsonl":
        yield content
        return
    for number, line in enumerate(content.split("\n"), start=1):
        if line.strip():
            yield _text_of(line, f"{path}, line {number}")


def _text_of(line: str, where: str) -> str:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise UsageError(f'{where}: not JSON ({error}); a .jsonl file has one object with a "text" a line') from error
    text = record.get("text") if isinstance(record, dict) else None
    if not isinstance(text, str):
        raise UsageError(f'{where}: expected an object with a "text", got {line[:80]}')
    return text
