"""Token streams and texts that other programs recorded, as recordings to replay: JSON lines, gzipped or not.

A line is a problem with a list of ``samples``, or one sample; lines with the same prompt are samples of one problem. A
sample's tokens are its ``token_ids``, else its text (a string; ``text``; or ``thinking`` and ``content``) in the
vocabulary of Qwen2.5, whose file ``tokenizer/qwen.tiktoken.gz`` lies beside the file or beside its folder. For models
of other families that is an approximation.

There are no rows in such files, so nothing is learnt but from the tokens themselves. Nor is the noise known that drew
them: they are replayed as greedy streams are, whose drafts are ranked by probability alone. For sampled text that is a
lower bound of what would have been accepted.
"""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from reason.errors import UsageError
from reason.speculate.recording import RecordedProblem, RecordedSample, Recording

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["VOCABULARY", "load_tokenizer", "load_traces"]

VOCABULARY = Path("tokenizer") / "qwen.tiktoken.gz"

_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_PROMPTS = ("prompt", "problem", "question")  # fields with the prompt's text, the first found

Encode = Callable[[str], Sequence[int]]


def load_traces(file: Path) -> Recording:
    """Reads a file of traces.

    Raises:
        UsageError: it cannot be read, a line of it has no samples (the message names it), or it has texts and there is
            no vocabulary for them.
    """
    texts = _Texts(file)
    problems: dict[tuple[int, ...] | int, _Problem] = {}  # by prompt, or by line where there is none
    models: dict[str, None] = {}
    for number, row in enumerate(_rows(file), start=1):
        where = f"{file}, line {number}"
        prompt = tuple(_tokens(row, texts.encode, where, ids="prompt_token_ids", fields=_PROMPTS) or ())
        name = str(row.get("id", row.get("task_id", number)))
        problem = problems.setdefault(prompt or number, _Problem(name, prompt, []))
        samples = [_sample(sample, texts.encode, where) for sample in row.get("samples", [row])]
        problem.samples.extend(sample for sample in samples if sample)
        models |= dict.fromkeys(str(sample["model"]) for sample in (row, *_dicts(row)) if "model" in sample)
    if not any(problem.samples for problem in problems.values()):
        raise UsageError(f"there is no token stream in {file}")
    return Recording(
        model=", ".join(models) or file.name,
        temperature=0.0,
        problems=tuple(
            RecordedProblem(
                id=problem.name,
                seed=seed,
                prompt=problem.prompt,
                samples=tuple(
                    RecordedSample(key=key, tokens=np.array(tokens, dtype=np.int64))
                    for key, tokens in enumerate(problem.samples)
                ),
            )
            for seed, problem in enumerate(problems.values())
            if problem.samples
        ),
    )


def load_tokenizer(vocabulary: Path) -> Tokenizer:
    """A byte-level BPE tokenizer from a file of "base64(token bytes) rank" lines, gzipped, split as Qwen2.5 splits.

    Raises:
        UsageError: the file cannot be read, or is none.
    """
    from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE

    try:
        with gzip.open(vocabulary) as lines:
            pairs = (line.split() for line in lines)
            ranks = {base64.b64decode(token): int(rank) for token, rank in pairs}
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise UsageError(f"{vocabulary} is not a gzipped file of token ranks: {error}") from error
    letters = _letters()

    def spell(token: bytes) -> str:
        return "".join([letters[byte] for byte in token])

    merges: list[tuple[str, str]] = []  # all ways to make a token of two, in the order of ranks
    for token in sorted(ranks, key=ranks.__getitem__):
        halves = [(token[:i], token[i:]) for i in range(1, len(token))]
        known = [(ranks[left], ranks[right], left, right) for left, right in halves if left in ranks and right in ranks]
        merges += [(spell(left), spell(right)) for _, _, left, right in sorted(known)]
    tokenizer = Tokenizer(BPE(vocab={spell(token): rank for token, rank in ranks.items()}, merges=merges))
    split: Any = pre_tokenizers.Split(Regex(_PATTERN), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


class _Problem(NamedTuple):
    name: str
    prompt: tuple[int, ...]
    samples: list[Sequence[int]]


class _Texts:
    """Makes tokens of a file's texts; the vocabulary is loaded at the first."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._tokenizer: Tokenizer | None = None

    def encode(self, text: str) -> Sequence[int]:
        if self._tokenizer is None:
            folders = self._file.absolute().parents[:2]
            found = next((folder / VOCABULARY for folder in folders if (folder / VOCABULARY).is_file()), None)
            if found is None:
                raise UsageError(
                    f"{self._file} has texts, and {VOCABULARY} to make tokens of them is neither in its folder nor in "
                    f"the folder above; put it there, or give traces with token_ids"
                )
            self._tokenizer = load_tokenizer(found)
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    opened: Any = gzip.open if file.suffix == ".gz" else open
    try:
        with opened(file, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                row = json.loads(line)
                if not isinstance(row, dict) or not isinstance(row.get("samples", []), list):
                    raise UsageError(f"{file}, line {number}: expected an object, its samples a list, got {line[:60]}")
                yield row
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise UsageError(f"{file} is not a file of JSON lines: {error}") from error


def _dicts(row: dict[str, Any]) -> list[dict[str, Any]]:
    return [sample for sample in row.get("samples", []) if isinstance(sample, dict)]


def _sample(sample: Any, encode: Encode, where: str) -> Sequence[int]:
    if isinstance(sample, str):
        return encode(sample)
    if not isinstance(sample, dict):
        raise UsageError(f"{where}: a sample is an object or a text, got {str(sample)[:60]}")
    if isinstance(sample.get("thinking"), str):
        answer = sample.get("content")
        sample = {"text": f"<think>\n{sample['thinking']}</think>\n\n{answer or ''}"} | sample
    tokens = _tokens(sample, encode, where, ids="token_ids", fields=("text",))
    if tokens is None:
        have = ", ".join(sample) or "nothing"
        raise UsageError(f"{where}: no sample with token_ids, text, or thinking and content; there is {have}")
    return tokens


def _tokens(
    row: dict[str, Any], encode: Encode, where: str, *, ids: str, fields: Sequence[str]
) -> Sequence[int] | None:
    """A field of ids, else the first of some fields of text; None if there is none of them."""
    tokens = row.get(ids)
    if tokens is None:
        text = next((row[field] for field in fields if isinstance(row.get(field), str)), None)
        return None if text is None else encode(text)
    if not isinstance(tokens, list) or not all(isinstance(token, int) and token >= 0 for token in tokens):
        raise UsageError(f"{where}: {ids} is not a list of token ids")
    return tokens


def _letters() -> list[str]:
    """The character that stands for each byte in byte-level BPE (GPT-2's): itself where it prints, else one of the
    characters from 256 on."""
    printing = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = iter(range(256, 512))
    return [chr(byte if byte in printing else next(others)) for byte in range(256)]
