"""Constrained generation through llguidance: JSON schema, regular expression or Lark grammar.

llguidance answers, per path, which tokens may follow; everything else about a constrained request is ordinary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from reason.errors import UsageError
from reason.types import Sampling

__all__ = ["Grammar", "GrammarCompiler"]


class Grammar:
    """The state of one constrained path."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    def allowed(self, vocab_size: int) -> torch.Tensor:
        """Which tokens may come next, [vocab_size] bool; end-of-sequence tokens where the grammar may end."""
        packed = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        bits = np.unpackbits(packed, bitorder="little")[:vocab_size].astype(bool)
        if len(bits) < vocab_size:
            bits = np.concatenate([bits, np.zeros(vocab_size - len(bits), dtype=bool)])
        return torch.from_numpy(bits)

    def advance(self, token: int) -> None:
        """The path grew by one token."""
        if not self._matcher.consume_token(token) and self._matcher.is_error():
            raise UsageError(f"the grammar does not allow token {token}: {self._matcher.get_error()}")

    def after(self, token: int) -> Grammar | None:
        """The state one token further on, this one unchanged; None where the token is not allowed."""
        if self._matcher.validate_tokens([token]) < 1:  # consuming it would tell standard error
            return None
        matcher = self._matcher.deep_copy()
        return Grammar(matcher) if matcher.consume_token(token) and not matcher.is_error() else None

    @property
    def finished(self) -> bool:
        """Whether nothing but the end can follow."""
        return bool(self._matcher.is_stopped())


class GrammarCompiler:
    """Makes grammars for one tokenizer; the tokenizer's tables are built at the first use (about a second)."""

    def __init__(self, tokenizer: Any, vocab_size: int, eos_token_ids: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._eos_token_ids = list(eos_token_ids)
        self._tables: Any = None

    def compile(self, sampling: Sampling) -> Grammar | None:
        """The grammar that ``sampling`` asks for, at its start; None if it asks for none.

        Raises:
            UsageError: more than one grammar, one that does not parse, or llguidance is not installed.
        """
        asked = [name for name in ("json_schema", "regex", "lark") if getattr(sampling, name) is not None]
        if not asked:
            return None
        if len(asked) > 1:
            raise UsageError(f"give one grammar, not {' and '.join(asked)}")
        try:
            import llguidance
            import llguidance.hf
        except ImportError as error:
            raise UsageError("grammars need llguidance: pip install 'reason-toolkit[grammar]'") from error
        if self._tables is None:
            self._tables = llguidance.hf.from_tokenizer(self._tokenizer, self._vocab_size, self._eos_token_ids)
        try:
            if sampling.json_schema is not None:
                text = llguidance.LLMatcher.grammar_from_json_schema(sampling.json_schema)
            elif sampling.regex is not None:
                text = llguidance.LLMatcher.grammar_from_regex(sampling.regex)
            else:
                text = llguidance.LLMatcher.grammar_from_lark(sampling.lark or "")
            matcher = llguidance.LLMatcher(self._tables, text)
        except Exception as error:  # llguidance raises ValueError and its own kinds for texts that do not parse
            raise UsageError(f"{asked[0]} is not a valid grammar: {error}") from error
        if matcher.is_error():
            raise UsageError(f"{asked[0]} is not a valid grammar: {matcher.get_error()}")
        return Grammar(matcher)
