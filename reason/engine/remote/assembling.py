"""From what a server said to a ``Completion``: tokens with their figures, the text, and how it ended.

A completion's tokens include what ended it, as a local engine's do: the stop string's, and the end of the turn where
the server tells it. Where a server tells no token ids the text is encoded again, which may cut it elsewhere than the
model did; the figures of a token are then those of the model's token that it begins in.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING

from reason.engine.remote.pieces import END_OF_TURN, PieceCodec, piece, split_evenly
from reason.engine.remote.reply import Reply, Told
from reason.types import Completion, FinishReason, Path, Request, TokenLogprobs

if TYPE_CHECKING:
    from reason.engine.codec import HubCodec

__all__ = ["assemble", "find_stop"]


def find_stop(text: str, stop: Sequence[str]) -> str | None:
    """The stop string that comes first in a text."""
    found = [(text.find(each), each) for each in stop if each in text]
    return min(found)[1] if found else None


def assemble(reply: Reply, request: Request, index: int, codec: HubCodec | PieceCodec) -> Completion:
    """The completion of a request whose reply has ended.

    Args:
        reply: with ``stopped_on`` set where a stop string or a stop token of the request ended it.
    """
    stop = reply.stopped_on if reply.stopped_on in (*request.stop, *request.stop_token_ids) else None
    text = reply.text
    if isinstance(stop, str) and stop in text:
        text = text[: text.find(stop)]
    said = text + (stop if isinstance(stop, str) else "")
    reason: FinishReason = "eos"
    if stop is not None:
        reason = "stop"
    elif reply.finish_reason == "length":
        reason = "length"
    if isinstance(codec, PieceCodec):
        tokens, told = _pieces(reply, said, ended=reason == "eos")
    else:
        tokens, told, text = _tokens(reply, text, stop, codec)
    stopped_on = stop
    if reason == "eos" and tokens[-1:] and tokens[-1] in codec.eos_token_ids:
        stopped_on = tokens[-1]
    return Completion(
        index=index,
        token_ids=tokens,
        text=text,
        finish_reason=reason,
        stopped_on=stopped_on,
        logprobs=_rows(told, request.sampling.logprobs, codec),
    )


def _tokens(reply: Reply, text: str, stop: str | int | None, codec: HubCodec) -> tuple[Path, Sequence[Told], str]:
    """A model's own tokens, what is told of each, and the text."""
    said = text + (stop if isinstance(stop, str) else "")
    tokens = list(reply.token_ids or (each.id for each in reply.told if each.id is not None))
    if not tokens or (not reply.token_ids and len(tokens) < len(reply.told)):
        again = codec.encode(said)
        return again, _by_place(again, reply.told, codec), text
    if isinstance(stop, str):
        while stop in codec.decode(tokens[:-1]):  # what came after it is not wanted
            tokens.pop()
        decoded = codec.decode(tokens)
        if stop not in decoded:  # the server took it out
            tokens += codec.encode(said[len(decoded) :] if said.startswith(decoded) else stop)
        decoded = codec.decode(tokens)
        text = decoded[: decoded.find(stop)] if stop in decoded else text
    else:
        text = codec.decode(tokens[:-1] if isinstance(stop, int) else tokens)
    return tuple(tokens), _fitted(reply.told, len(tokens)), text


def _pieces(reply: Reply, said: str, *, ended: bool) -> tuple[Path, Sequence[Told]]:
    """As many pieces as the model generated tokens, which together spell what it said. Those that spell nothing were
    kept from us: thinking, and what ended the turn."""
    data = said.encode("utf-8", "surrogatepass")
    parts = _cut([each.text for each in reply.told], data)
    told: Sequence[Told] = reply.told
    if parts is None:
        count = max(reply.count - ended, 1) if data else max(reply.count - ended, 0)
        parts, told = split_evenly(data, count), ()
    tokens = [piece(part) for part in parts]
    if ended:
        if len(tokens) >= max(reply.count, 1) and tokens[-1] == piece(b""):
            tokens.pop()
        tokens.append(END_OF_TURN)
    return tuple(tokens), _fitted(told, len(tokens))


def _cut(parts: Sequence[bytes], data: bytes) -> list[bytes] | None:
    """Parts cut where ``data`` ends, and what lacks at their end added; None if they do not spell it."""
    joined = b"".join(parts)
    if not parts or not (joined.startswith(data) or data.startswith(joined)):
        return None
    kept: list[bytes] = []
    left = len(data)
    for part in parts:
        kept.append(part[:left])
        left -= len(kept[-1])
    if left:
        kept.append(data[-left:])
    return kept


def _fitted(told: Sequence[Told], count: int) -> Sequence[Told]:
    """Rows for so many tokens; what is not told counts as if it were like its neighbour."""
    if not told:
        return ()
    return [*told[:count], *[told[-1]] * (count - len(told))]


def _by_place(tokens: Path, told: Sequence[Told], codec: HubCodec) -> Sequence[Told]:
    """For each token the row of the model's token that it begins in."""
    if len(told) == len(tokens) or not told:
        return told
    begins, place = [], 0
    for each in told:
        begins.append(place)
        place += len(each.text.decode("utf-8", "replace"))
    rows, place = [], 0
    for token in tokens:
        rows.append(told[bisect_right(begins, place) - 1])
        place += len(codec.decode((token,)))
    return rows


def _rows(told: Sequence[Told], wanted: int | None, codec: HubCodec | PieceCodec) -> tuple[TokenLogprobs, ...]:
    if wanted is None or not told:
        return ()
    width = min(wanted, *(len(each.top) for each in told))  # one for all, though servers tell of equal texts once
    return tuple(
        TokenLogprobs(each.logprob, tuple((_number(text, n, codec), value) for text, n, value in each.top[:width]))
        for each in told
    )


def _number(text: bytes, number: int | None, codec: HubCodec | PieceCodec) -> int:
    """What a likely token is in a record: without a tokenizer a piece that spells it; else the model's number of it, or
    that of its first token where the text is all there is. One that says nothing ends the turn."""
    if isinstance(codec, PieceCodec):
        return piece(text)
    if number is not None:
        return number
    tokens = codec.encode(text.decode("utf-8", "replace"))
    return tokens[0] if tokens else min(codec.eos_token_ids, default=0)
