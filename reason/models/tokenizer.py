"""The tokenizer that a GGUF file describes, as transformers' tokenizer files.

GGUF stores the vocabulary and merges but only a *name* (``tokenizer.ggml.pre``) for how text is normalised and split
before merging. transformers' own reader takes 7 s for Qwen's vocabulary and, depending on its version, leaves out
Qwen's normalisation and SmolLM's splitting of digits, which changes token ids. So the families we know are built here,
as their publishers' tokenizer.json has them; the others go through transformers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reason.errors import ModelError, UnsupportedModel
from reason.models.gguf_file import GGUFFile

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["eos_token_ids", "write_tokenizer"]

_CONTROL, _USER_DEFINED, _UNUSED = 3, 4, 5  # token types
_TURN_ENDS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<end_of_turn>")


@dataclass(frozen=True)
class _Family:
    """What happens before the merges: normalisation, splitting; and whether whole-word tokens skip the merges."""

    split: str | None = None  # regular expression; None is GPT-2's own
    digits: bool = False  # every digit by itself, before everything else
    nfc: bool = False
    ignore_merges: bool = False
    add_bos: bool = False  # unless the file says otherwise


_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = _Family(split=_WORDS + r"\p{N}{1,3}" + _REST, ignore_merges=True, add_bos=True)
_FAMILIES = {
    "gpt-2": _Family(),
    "qwen2": _Family(split=_WORDS + r"\p{N}" + _REST, nfc=True),
    "smollm": _Family(digits=True),
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
}


def write_tokenizer(gguf: GGUFFile, folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and the chat template to ``folder``."""
    family = _FAMILIES.get(gguf.get("tokenizer.ggml.pre", ""))
    if gguf.get("tokenizer.ggml.model") == "gpt2" and family is not None:
        _wrap(gguf, _byte_level_bpe(gguf, family)).save_pretrained(folder)
    else:
        _through_transformers(gguf, folder)


def eos_token_ids(gguf: GGUFFile) -> list[int]:
    """Every token that ends a turn or the text, the file's main one first.

    A GGUF names one, while chat models end turns with one token and texts with another; like llama.cpp, we also
    take the control tokens with the usual names.
    """
    named = [gguf.get(f"tokenizer.ggml.{kind}_token_id") for kind in ("eos", "eot", "eom")]
    types, tokens = gguf.get("tokenizer.ggml.token_type", []), gguf.get("tokenizer.ggml.tokens", [])
    control = {token: index for index, (token, kind) in enumerate(zip(tokens, types, strict=False)) if kind == _CONTROL}
    ends = [control.get(token) for token in _TURN_ENDS]
    return list(dict.fromkeys(token_id for token_id in [*named, *ends] if token_id is not None))


def _byte_level_bpe(gguf: GGUFFile, family: _Family) -> Tokenizer:
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
    from tokenizers.models import BPE

    tokens: list[str] = gguf.require("tokenizer.ggml.tokens")
    types: list[int] = gguf.get("tokenizer.ggml.token_type", [1] * len(tokens))
    while types and types[-1] == _UNUSED:  # padding of the embedding matrix, no tokens
        tokens, types = tokens[: len(types) - 1], types[:-1]
    merges = [tuple(merge.split(" ", 1)) for merge in gguf.require("tokenizer.ggml.merges")]
    vocab = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(BPE(vocab=vocab, merges=merges, ignore_merges=family.ignore_merges))
    if family.nfc:
        tokenizer.normalizer = normalizers.NFC()
    steps: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if family.digits else []
    if family.split is not None:
        steps.append(pre_tokenizers.Split(Regex(family.split), behavior="isolated"))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=family.split is None))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    if gguf.get("tokenizer.ggml.add_bos_token", family.add_bos):
        bos_id = int(gguf.require("tokenizer.ggml.bos_token_id"))
        if not 0 <= bos_id < len(tokens):
            raise ModelError(f"{gguf.path} begins texts with token {bos_id}, and has {len(tokens)}")
        bos = tokens[bos_id]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, bos_id)]
        )
    for kind, add in ((_CONTROL, tokenizer.add_special_tokens), (_USER_DEFINED, tokenizer.add_tokens)):
        add(
            [
                AddedToken(token, normalized=False, special=kind == _CONTROL)
                for token, its_kind in zip(tokens, types, strict=True)
                if its_kind == kind
            ]
        )
    return tokenizer


def _wrap(gguf: GGUFFile, tokenizer: Tokenizer) -> Any:
    """The tokenizer with names for its special tokens, the chat template and the context length."""
    import transformers

    make: Any = transformers.PreTrainedTokenizerFast  # untyped
    tokens: list[str] = gguf.require("tokenizer.ggml.tokens")
    special = {}
    for name, key in (("bos_token", "bos"), ("eos_token", "eos"), ("pad_token", "padding"), ("unk_token", "unknown")):
        if 0 <= (token_id := gguf.number(f"tokenizer.ggml.{key}_token_id", -1)) < len(tokens):  # 2^32 - 1 is none
            special[name] = tokens[token_id]
    wrapped = make(
        tokenizer_object=tokenizer,
        model_max_length=int(gguf.get(".context_length", 0)) or None,
        clean_up_tokenization_spaces=False,
        **special,
    )
    if template := gguf.get("tokenizer.chat_template"):
        wrapped.chat_template = template
    return wrapped


def _through_transformers(gguf: GGUFFile, folder: Path) -> None:
    from transformers import AutoTokenizer

    path = gguf.path.absolute()
    try:
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True)
    except Exception as error:  # each tokenizer class fails in its own way
        kind = f"{gguf.get('tokenizer.ggml.model')}/{gguf.get('tokenizer.ggml.pre', '-')}"
        raise UnsupportedModel(f"{path} has a tokenizer ({kind}) that cannot be converted: {error}") from error
    tokenizer.save_pretrained(folder)
