"""The token path at whose end a reward model scores a step.

Paths are put together step by step: a step's tokens depend on it, on the marks around it and, the first one's, on the
question, never on what follows it. So a longer path begins with the shorter one's tokens (what only ends the shorter
one aside: a closing turn, a full stop that merges with the line break after it), and its KV is found.

Where a step meets what precedes it they are tokenised together and cut apart, so that the tokens are those of the whole
text: also for tokenizers that put a space before every text. Only where one token would lie across the border (which
the steps' own white space, cut off, mostly rules out) does the border stand, and the text's own tokens differ.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from reason.errors import UsageError
from reason.types import Message, Path, Trajectory
from reason.verifiers.reward_model.formats import PRMFormat

if TYPE_CHECKING:
    from reason.engine.codec import HubCodec

__all__ = ["StepTokens", "steps_of"]

_REPLY = "(the reply)"  # stands for the assistant's turn in a rendered chat
_NUMBERED = re.compile(r"step\s*\d", re.IGNORECASE)


def steps_of(form: PRMFormat, trajectory: Trajectory) -> list[str]:
    """The texts of a trajectory's steps as the format has them, none of them blank. A node of several steps is cut at
    the problem's delimiter; where a node ends, a step ends."""
    delimiter = trajectory.problem.step_delimiter
    texts = [part for step in trajectory.steps for part in (step.text.split(delimiter) if delimiter else [step.text])]
    if form.lines:
        texts = [line for text in texts for line in text.strip().split("\n")]
        return [line.rstrip("\r") for line in texts if line.strip()]
    return [text.strip() for text in texts if text.strip()]


class StepTokens:
    """Makes the paths of one format for one tokenizer.

    Args:
        name: what the user calls the model.
        pad: the checkpoint's padding token; transformers' sequence classifiers read the last token that is another.

    Raises:
        UsageError: the tokenizer has not what the format needs: a chat template, the mark as one token.
    """

    def __init__(self, form: PRMFormat, codec: HubCodec, name: str, pad: int | None = None) -> None:
        self._form = form
        self._pad = pad if form.closes else None
        self._codec = codec
        template = bool(codec.tokenizer.chat_template)
        if form.layout != "text" and not template and not form.closes:
            raise UsageError(f"{name} has no chat template, which its format needs")
        self._chat = form.layout == "chat" and template
        if form.mark and self._chat and len(codec.encode(form.mark)) != 1:
            raise UsageError(f"{name} has no token {form.mark!r}, by which its format marks steps; pass another format")
        bos = codec.tokenizer.bos_token_id
        self._bos: Path = () if bos is None else (int(bos),)
        self.words: Path = tuple(codec.encode(word)[-1] for word in form.words or ())
        if form.words and len(set(self.words)) != 2:
            raise UsageError(
                f"{name} has no two tokens for {form.words[0]!r} and {form.words[1]!r}; pass another format"
            )

    def path(self, question: str, steps: Sequence[str]) -> Path:
        """The tokens up to where the last of ``steps`` (at least one) is scored."""
        assert steps, "a path without steps has no score"
        if self._form.layout == "turns":
            return self._turns(question, steps)
        start, end = self._around(question)
        if self._form.apart:
            mark = self._codec.encode(self._form.mark)
            parts = [self._codec.encode(self._numbered(i, step)) + mark for i, step in enumerate(steps)]
            return self._bos + self._codec.encode(start) + _joined(parts)
        tokens = self._codec.encode(start) if self._chat else self._bos + self._codec.encode(start.rstrip(" "))
        before = start
        for i, step in enumerate(steps):
            follows = self._form.between if i + 1 < len(steps) else ""
            tokens += self._after(before, self._numbered(i, step) + self._form.mark + follows)
            before = (self._form.mark + follows) or step
        tokens += self._codec.encode(end)
        while len(tokens) > 1 and tokens[-1] == self._pad:
            tokens = tokens[:-1]
        return tokens

    def _turns(self, question: str, steps: Sequence[str]) -> Path:
        first = Message(role="user", content=question + self._form.question_end + self._numbered(0, steps[0]))
        tokens = self._codec.encode_chat([first])
        for i, step in enumerate(steps[1:], 1):
            turn = Message(role="user", content=self._numbered(i, step))
            tokens += self.words[:1] + self._codec.encode_turn([turn])
        return tokens

    def _numbered(self, index: int, step: str) -> str:
        return f"Step {index + 1}: {step}" if self._form.numbered and not _NUMBERED.match(step) else step

    def _around(self, question: str) -> tuple[str, str]:
        """What precedes the steps and what follows them."""
        asked = question + self._form.question_end
        if not self._chat:
            return asked + ("\n\n" if self._form.closes else ""), ""
        messages = [Message(role="system", content=self._form.system)] if self._form.system else []
        messages += [Message(role="user", content=asked), Message(role="assistant", content=_REPLY)]
        try:
            text: str = self._codec.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=False)
        except Exception as error:  # templates raise their own jinja errors on roles they do not know
            raise UsageError(f"the reward model's chat template refused the question: {error}") from error
        start, _, end = text.rpartition(_REPLY)
        return start, end if self._form.closes else ""

    def _after(self, before: str, text: str) -> Path:
        """The tokens of ``text``, and of the spaces before it, where it follows ``before``."""
        stem = before.rstrip(" ")
        first, both = self._codec.encode(stem), self._codec.encode(before + text)
        return both[len(first) :] if both[: len(first)] == first else self._codec.encode(before[len(stem) :] + text)


def _joined(parts: Sequence[Path]) -> Path:
    return tuple(token for part in parts for token in part)
