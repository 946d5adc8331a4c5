"""How completions end: stop strings and tokens, end of sequence, limits."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from reason.engine.codec import HubCodec
from reason.types import Completion, Path, Request, Sampling

if TYPE_CHECKING:
    from tests.engine.conftest import Finish, MakeEngine, MakePrompts

PROMPT: Path = (300, 301, 302)


def forced(tokens: Sequence[int], **changes: Any) -> Request:
    """A request whose completion is ``tokens``, then token 40 for ever."""

    script = tuple(tokens)

    def only_the_next(tokens: Sequence[int], logits: torch.Tensor) -> torch.Tensor:
        place = len(tokens) - len(PROMPT)
        row = torch.full_like(logits, -torch.inf)
        row[script[place] if place < len(script) else 40] = 0.0
        return row

    sampling = Sampling(temperature=1.0, processors=(only_the_next,))
    return replace(Request(prefix=PROMPT, sampling=sampling, max_tokens=len(tokens)), **changes)


@pytest.fixture
def play(make_engine: MakeEngine, finish: Finish) -> Callable[..., Any]:
    """The completion of one forced request."""
    engine = make_engine()

    async def run(tokens: Sequence[int], **changes: Any) -> Completion:
        (completion,) = await finish(engine, [forced(tokens, **changes)])
        assert completion.error is None
        assert completion.token_ids[: len(tokens)] == tuple(tokens[: len(completion.token_ids)])
        return completion

    return run


def bytewise(codec: HubCodec, text: str) -> Path:
    """The text with every byte a token of its own."""
    tokens = tuple(
        token for byte in text.encode() for token in codec.tokenizer.convert_tokens_to_ids([_SPELLING[byte]])
    )
    assert codec.decode(tokens) == text
    return tokens


def _byte_spelling() -> dict[int, str]:
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    make: Any = bytes_to_unicode  # untyped
    return dict(make())


_SPELLING = _byte_spelling()

TEXT = "first add, then 数学 is fun 🙂🙃 and the answer is 42. Done"


@pytest.mark.parametrize("split", ["tokens", "bytes"])
@pytest.mark.parametrize(
    ("stop", "before", "on"),
    [
        (("answer is",), "first add, then 数学 is fun 🙂🙃 and the ", "answer is"),
        (("nswer i",), "first add, then 数学 is fun 🙂🙃 and the a", "nswer i"),
        (("42", "add, t", "then"), "first ", "add, t"),
        (("first",), "", "first"),
        (("学",), "first add, then 数", "学"),
        (("数学 i",), "first add, then ", "数学 i"),
        (("🙃",), "first add, then 数学 is fun 🙂", "🙃"),
        (("🙂🙃 a", "42"), "first add, then 数学 is fun ", "🙂🙃 a"),
        (("nowhere", "Done"), "first add, then 数学 is fun 🙂🙃 and the answer is 42. ", "Done"),
        (("d",), "first a", "d"),
        (("dd", "d"), "first a", "d"),
    ],
)
async def test_stop_strings(
    play: Callable[..., Any], codec: HubCodec, split: str, stop: tuple[str, ...], before: str, on: str
) -> None:
    tokens = codec.encode(TEXT) if split == "tokens" else bytewise(codec, TEXT)
    done = await play(tokens, stop=stop)
    if split == "tokens" and stop == ("dd", "d"):
        on = done.stopped_on if "dd" in codec.decode(done.token_ids) else on  # one token may bring both
    assert (done.finish_reason, done.stopped_on, done.text) == ("stop", on, before)
    # not a token more than the stop string needs
    assert on in codec.decode(done.token_ids)
    assert not any(s in codec.decode(done.token_ids[:-1]) for s in stop)


async def test_no_stop_string(play: Callable[..., Any], codec: HubCodec) -> None:
    done = await play(bytewise(codec, TEXT), stop=("first ad!", "数🙂", "Done."))
    assert (done.finish_reason, done.stopped_on, done.text) == ("length", None, TEXT)


async def test_stop_strings_do_not_see_the_prompt(play: Callable[..., Any], codec: HubCodec) -> None:
    last = codec.decode(PROMPT)[-1]
    done = await play(codec.encode("wer"), stop=(last + "w",))
    assert (done.finish_reason, done.text) == ("length", "wer")


async def test_a_stop_string_with_bytes_that_are_no_text_before_it(play: Callable[..., Any], codec: HubCodec) -> None:
    broken = bytewise(codec, "数")[:2]
    done = await play((*bytewise(codec, "a"), *broken, *codec.encode("b STOP c")), stop=("STOP",))
    assert done.finish_reason == "stop"
    assert done.text == codec.decode((*bytewise(codec, "a"), *broken, *codec.encode("b ")))


async def test_half_a_character_at_the_end(play: Callable[..., Any], codec: HubCodec) -> None:
    done = await play(bytewise(codec, "a数")[:3])
    assert (done.finish_reason, done.text) == ("length", "a\ufffd")


async def test_a_stop_string_beats_the_token_limit(play: Callable[..., Any], codec: HubCodec) -> None:
    tokens = codec.encode("one two")
    assert (await play(tokens, stop=("two",))).finish_reason == "stop"
    assert (await play(tokens, stop=("two",), max_tokens=len(tokens) - 1)).finish_reason == "length"


async def test_stop_tokens(play: Callable[..., Any], codec: HubCodec) -> None:
    tokens = (*codec.encode("the answer"), 77, *codec.encode(" is"))
    done = await play(tokens, stop_token_ids=(5, 77))
    assert (done.finish_reason, done.stopped_on, done.text) == ("stop", 77, "the answer")
    assert done.token_ids == tokens[:-1]
    assert tokens[-2] == 77
    assert (await play(tokens, stop_token_ids=(5,))).finish_reason == "length"


async def test_end_of_sequence(play: Callable[..., Any], codec: HubCodec) -> None:
    (eos,) = codec.eos_token_ids
    tokens = (*codec.encode("the end"), eos, *codec.encode(" or not"))
    done = await play(tokens)
    assert (done.finish_reason, done.stopped_on, done.text) == ("eos", eos, "the end")
    assert done.token_ids[-1] == eos
    done = await play(tokens, ignore_eos=True)
    assert (done.finish_reason, done.token_ids) == ("length", tokens)
    assert done.text == "the end or not"  # special tokens are no text
    done = await play(tokens, ignore_eos=True, stop_token_ids=(eos,))
    assert (done.finish_reason, done.text) == ("stop", "the end")


async def test_several_end_tokens(make_engine: MakeEngine, finish: Finish) -> None:
    engine = make_engine(eos=(60, 61))
    done = await finish(engine, [forced((50, 61, 60)), forced((50, 60, 61)), forced((50, 62, 63))])
    assert [c.stopped_on for c in done] == [61, 60, None]
    assert [c.finish_reason for c in done] == ["eos", "eos", "length"]


@pytest.mark.parametrize("length", [1, 20, 31, 32])
async def test_the_context_limit(
    make_engine: MakeEngine, prompts: MakePrompts, finish: Finish, greedy: Callable[..., Path], length: int
) -> None:
    engine = make_engine(max_positions=32)
    assert engine.max_positions == 32
    (prompt,) = prompts(1, length)
    (done,) = await finish(
        engine, [Request(prefix=prompt, sampling=Sampling(temperature=0.0), max_tokens=99, ignore_eos=True)]
    )
    assert done.finish_reason == "length"
    assert done.token_ids == greedy(prompt, 33 - length)


async def test_stop_strings_in_what_the_model_says(
    make_engine: MakeEngine, prompts: MakePrompts, finish: Finish, codec: HubCodec
) -> None:
    """Substrings of a known output, across its token boundaries, in one batch and preempted."""

    readable = torch.tensor([codec.decode((t,)).isascii() and codec.decode((t,)) != "" for t in range(400)])

    def in_ascii(tokens: Sequence[int], logits: torch.Tensor) -> torch.Tensor:
        return logits.masked_fill(~readable.to(logits.device), -torch.inf)

    (prompt,) = prompts(1)
    plain = Request(prefix=prompt, sampling=Sampling(processors=(in_ascii,)), max_tokens=40, ignore_eos=True)
    (known,) = await finish(make_engine(), [plain])
    ends = [len(codec.decode(known.token_ids[:n])) for n in range(1, 41)]  # of each token in the text
    assert len(known.text) == ends[-1] > 40
    rng = random.Random(0)
    requests, expected = [], []
    for _ in range(30):
        boundary = rng.choice(ends[1:-1])
        stop = known.text[max(0, boundary - rng.randint(1, 3)) : boundary + rng.randint(1, 4)]
        place = known.text.find(stop)
        count = next(n for n, end in enumerate(ends, 1) if end >= place + len(stop))
        requests.append(replace(plain, stop=("\0", stop)))
        expected.append((known.text[:place], known.token_ids[:count], stop))
    for engine in (make_engine(), make_engine(kv_tokens=70, max_rows=6)):
        done = await finish(engine, requests)
        assert [(c.text, c.token_ids, c.stopped_on) for c in done] == expected
        assert {c.finish_reason for c in done} == {"stop"}
