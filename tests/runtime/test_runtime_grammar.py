"""Grammars over a byte-level tokenizer made here: whatever is drawn from what they allow satisfies them."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from reason.errors import UsageError
from reason.runtime.grammar import Grammar, GrammarCompiler
from reason.runtime.processors import process_row
from reason.types import Sampling

pytest.importorskip("llguidance")

MERGES = [("t", "r"), ("u", "e"), ("tr", "ue"), ("{", '"'), ("1", "2"), ('"', ":"), ("a", "b"), ("ab", "ab")]
SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}, "n": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["ok", "n"],
    "additionalProperties": False,
}
LARK = 'start: pair ("," pair)*\npair: NAME "=" NUMBER\nNAME: /[a-c]{1,3}/\nNUMBER: /[0-9]{1,2}/'


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    spelling: Any = bytes_to_unicode  # untyped
    words = [*spelling().values(), *(a + b for a, b in MERGES)]
    model = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=MERGES))
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    model.add_special_tokens(["<eos>"])
    wrap: Any = PreTrainedTokenizerFast  # untyped
    return wrap(tokenizer_object=model, eos_token="<eos>")


@pytest.fixture(scope="module")
def vocab_size(tokenizer: Any) -> int:
    """As models have it: rows of logits are longer than the tokenizer."""
    return len(tokenizer) + 9


@pytest.fixture(scope="module")
def compiler(tokenizer: Any, vocab_size: int) -> GrammarCompiler:
    return GrammarCompiler(tokenizer, vocab_size, [tokenizer.eos_token_id])


def compiled(compiler: GrammarCompiler, sampling: Sampling) -> Grammar:
    grammar = compiler.compile(sampling)
    assert grammar is not None
    return grammar


def generate(compiler: GrammarCompiler, tokenizer: Any, vocab_size: int, sampling: Sampling, seed: int) -> str:
    """A random walk through what the grammar allows, by way of ``process_row``."""
    grammar = compiled(compiler, sampling)
    choose = random.Random(seed)
    generated: list[int] = []
    for _ in range(60):
        row = process_row(torch.zeros(vocab_size), [0], generated, sampling, grammar)
        allowed = row.isfinite().nonzero()[:, 0].tolist()
        token = choose.choice(allowed)
        generated.append(token)
        grammar.advance(token)
        if token == tokenizer.eos_token_id:
            return str(tokenizer.decode(generated[:-1]))
        if grammar.finished:
            return str(tokenizer.decode(generated))
    pytest.fail("the walk did not end")


@pytest.mark.parametrize("pattern", ["(true|12)x?", "[ab]{2,6}", "a*b", "é+!"])
def test_a_regex_is_matched(pattern: str, compiler: GrammarCompiler, tokenizer: Any, vocab_size: int) -> None:
    texts = {generate(compiler, tokenizer, vocab_size, Sampling(regex=pattern), seed) for seed in range(15)}
    assert len(texts) > 1
    for text in texts:
        assert re.fullmatch(pattern, text), text


def test_a_json_schema_is_satisfied(compiler: GrammarCompiler, tokenizer: Any, vocab_size: int) -> None:
    schema = dict(SCHEMA, **{"x-guidance": {"whitespace_flexible": False}})
    for seed in range(10):
        value = json.loads(generate(compiler, tokenizer, vocab_size, Sampling(json_schema=json.dumps(schema)), seed))
        assert set(value) == {"ok", "n"}
        assert value["ok"] in (True, False)
        assert 0 <= value["n"] <= 99


def test_a_lark_grammar_is_derived(compiler: GrammarCompiler, tokenizer: Any, vocab_size: int) -> None:
    for seed in range(10):
        text = generate(compiler, tokenizer, vocab_size, Sampling(lark=LARK), seed)
        assert re.fullmatch(r"[a-c]{1,3}=[0-9]{1,2}(,[a-c]{1,3}=[0-9]{1,2})*", text), text


def test_every_tokenisation_of_what_is_allowed_is_allowed(
    compiler: GrammarCompiler, tokenizer: Any, vocab_size: int
) -> None:
    """ "t", "tr" and "true" all begin "true"; the end comes where the grammar may end, and only there."""
    grammar = compiled(compiler, Sampling(regex="(true|12)x?"))
    names = ["t", "tr", "true", "1", "12"]
    expected = set(tokenizer.convert_tokens_to_ids(names))
    assert set(grammar.allowed(vocab_size).nonzero()[:, 0].tolist()) == expected
    grammar.advance(tokenizer.convert_tokens_to_ids("true"))
    end = {tokenizer.convert_tokens_to_ids("x"), tokenizer.eos_token_id}
    assert set(grammar.allowed(vocab_size).nonzero()[:, 0].tolist()) == end
    assert not grammar.finished
    grammar.advance(tokenizer.convert_tokens_to_ids("x"))
    assert grammar.finished


def test_the_end_token_finishes(compiler: GrammarCompiler, tokenizer: Any, vocab_size: int) -> None:
    grammar = compiled(compiler, Sampling(regex="a*"))
    grammar.advance(tokenizer.eos_token_id)
    assert grammar.finished
    assert set(grammar.allowed(vocab_size).nonzero()[:, 0].tolist()) <= {tokenizer.eos_token_id}


def test_the_mask_has_the_length_of_the_row(compiler: GrammarCompiler, tokenizer: Any, vocab_size: int) -> None:
    """Also where the row is longer than what the matcher knows: what it does not know is not allowed."""
    grammar = compiled(compiler, Sampling(regex="[^b]*"))
    for size in (100, len(tokenizer), vocab_size, vocab_size + 1000):
        allowed = grammar.allowed(size)
        assert allowed.shape == (size,)
        assert allowed.dtype == torch.bool
        assert not allowed[len(tokenizer) :].any()
        assert bool(allowed[tokenizer.convert_tokens_to_ids("a")])


def test_grammars_of_one_compiler_do_not_share_a_place(compiler: GrammarCompiler, tokenizer: Any) -> None:
    first, second = (compiled(compiler, Sampling(regex="ab")) for _ in range(2))
    first.advance(tokenizer.convert_tokens_to_ids("ab"))
    assert first.finished
    assert not second.finished


def test_what_may_not_follow_is_told_nobody_but_the_caller(
    compiler: GrammarCompiler, tokenizer: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    grammar = compiled(compiler, Sampling(regex="[ab]{2}"))
    a, c = (tokenizer.encode(letter, add_special_tokens=False)[0] for letter in "ac")
    after = grammar.after(a)
    assert after is not None
    assert (grammar.after(c), after.after(c)) == (None, None)
    assert capfd.readouterr() == ("", "")


def test_no_grammar_asked_is_none(compiler: GrammarCompiler) -> None:
    assert compiler.compile(Sampling(temperature=0.3)) is None


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(regex="("),
        Sampling(regex="[z-a]"),
        Sampling(json_schema="{"),
        Sampling(json_schema='{"type": 3}'),
        Sampling(json_schema='{"$ref": "#/nowhere"}'),
        Sampling(lark="start: nowhere"),
        Sampling(lark="))"),
        Sampling(lark=""),
    ],
)
def test_what_does_not_parse_is_the_callers_mistake(sampling: Sampling, compiler: GrammarCompiler) -> None:
    with pytest.raises(UsageError, match="is not a valid grammar"):
        compiler.compile(sampling)


def test_one_grammar_at_a_time(compiler: GrammarCompiler) -> None:
    with pytest.raises(UsageError, match="one grammar, not regex and lark"):
        compiler.compile(Sampling(regex="a", lark='start: "a"'))


def test_advancing_by_what_is_not_allowed_is_an_error(compiler: GrammarCompiler, tokenizer: Any) -> None:
    grammar = compiled(compiler, Sampling(regex="ab"))
    with pytest.raises(UsageError, match="does not allow"):
        grammar.advance(tokenizer.convert_tokens_to_ids("z"))


def test_a_grammar_and_a_processor_that_exclude_each_other(
    compiler: GrammarCompiler, tokenizer: Any, vocab_size: int
) -> None:
    def never_a(tokens: Sequence[int], logits: torch.Tensor) -> torch.Tensor:
        logits[tokenizer.convert_tokens_to_ids("a")] = -torch.inf
        return logits

    sampling = Sampling(regex="ac", processors=(never_a,))
    with pytest.raises(UsageError, match="no token possible"):
        process_row(torch.zeros(vocab_size), [0], [], sampling, compiled(compiler, sampling))
