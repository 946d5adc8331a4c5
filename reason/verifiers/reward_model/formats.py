"""What published process reward models read, and where they say their score. A format is a value; one of your own is an
entry in ``FORMATS``. Text as the model sees it, `|` where the score of the step before it is read:

    math-shepherd            BOS Q Step 1: STEP ки|\\nStep 2: STEP ки|     "+" against "-" of the language model
    rlhflow                  user: Q STEP  assistant:|+  user: STEP ...    "+" against "-" of the language model
    skywork-o1               BOS Q\\nLINE\\n|LINE\\n|                      sigmoid of v_head
    qwen2.5-math-prm         system, user: Q  assistant: STEP<extra_0>|…   the second of two classes, a two-layer head
    token-classification     BOS QSTEP\\n|STEP\\n|                        the checkpoint's head (TRL's PRM trainer)
    sequence-classification  user: Q  assistant: STEP\\n\\nSTEP  end|      the checkpoint's head

Sources: Math-Shepherd https://arxiv.org/abs/2312.08935 and peiyi9979/math-shepherd-mistral-7b-prm's card; RLHFlow
https://github.com/RLHFlow/RLHF-Reward-Modeling; https://github.com/SkyworkAI/skywork-o1-prm-inference;
Qwen/Qwen2.5-Math-PRM-7B's card (https://arxiv.org/abs/2501.07301); https://github.com/huggingface/trl (PRMTrainer).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from reason.errors import UnknownName, UsageError

__all__ = ["FORMATS", "PRMFormat", "find_format"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PRMFormat:
    """How a reward model is asked.

    Args:
        layout: "text" is plain text after the tokenizer's BOS token, if it has one; "chat" puts the question into a
            user's turn and the steps into one assistant's turn; "turns" makes every step a user's turn.
        head: "words" compares the language model's logits of ``words``, "weights" applies the checkpoint's own head.
        words: the answers for a good and for a bad step, of which the last token counts.
        system: the chat's system message; "" leaves it to the template.
        question_end: what follows the question.
        mark: what ends each step; the score is read at its last token.
        between: what separates a step from the next one.
        apart: question, steps and marks are tokenised each by itself.
        numbered: a step that does not say so begins with "Step k: ".
        lines: every line of a step that has text is a step; the step's score is its last line's.
        closes: the score is read where the assistant's turn has ended, and plain text serves models without a template.
        architectures: endings of the class names, in a checkpoint's config, that mean this format.
        names: parts of model names that mean it.
    """

    layout: Literal["text", "chat", "turns"]
    head: Literal["words", "weights"]
    words: tuple[str, str] | None = None
    system: str = ""
    question_end: str = ""
    mark: str = ""
    between: str = ""
    apart: bool = False
    numbered: bool = False
    lines: bool = False
    closes: bool = False
    architectures: tuple[str, ...] = ()
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.head == "words") != (self.words is not None):
            raise UsageError(f"words go with head='words' and only with it, got head={self.head!r}, words={self.words}")
        if self.layout == "turns" and self.words is None:
            raise UsageError("in layout 'turns' every step is answered by a word: give words")


FORMATS: dict[str, PRMFormat] = {
    "math-shepherd": PRMFormat(
        layout="text",
        head="words",
        words=(" +", " -"),
        question_end=" ",
        mark=" ки",
        between="\n",
        numbered=True,
        names=("math-shepherd",),
    ),
    "rlhflow": PRMFormat(
        layout="turns",
        head="words",
        words=("+", "-"),
        question_end=" ",
        names=("prm-mistral-data", "prm-deepseek-data"),
    ),
    "skywork-o1": PRMFormat(
        layout="text",
        head="weights",
        question_end="\n",
        mark="\n",
        apart=True,
        lines=True,
        architectures=("ForPrmModel",),
        names=("skywork-o1-open-prm",),
    ),
    "qwen2.5-math-prm": PRMFormat(
        layout="chat",
        head="weights",
        system="Please reason step by step, and put your final answer within \\boxed{}.",
        mark="<extra_0>",
        architectures=("ForProcessRewardModel",),
        names=("math-prm", "prm800k"),
    ),
    "token-classification": PRMFormat(
        layout="text",
        head="weights",
        mark="\n",
        apart=True,
        architectures=("ForTokenClassification",),
    ),
    "sequence-classification": PRMFormat(
        layout="chat",
        head="weights",
        between="\n\n",
        closes=True,
        architectures=("ForSequenceClassification", "ForRewardModel"),
    ),
}


def find_format(name: str, model: str, config: Mapping[str, Any]) -> PRMFormat:
    """The format called ``name``; with "auto", that of a model by its checkpoint's class, else by its name.

    Raises:
        UnknownName: there is no such format.
        UsageError: nothing says what the model's format is.
    """
    if name != "auto":
        if name not in FORMATS:
            raise UnknownName("reward model format", name, ["auto", *FORMATS])
        return FORMATS[name]
    classes = [str(each) for each in config.get("architectures") or ()]
    for form in FORMATS.values():
        if form.architectures and any(each.endswith(form.architectures) for each in classes):
            return form
    lowered = f"{model} {config.get('_name_or_path', '')}".lower()
    for form in FORMATS.values():
        if any(part in lowered for part in form.names):
            return form
    raise UsageError(
        f"nothing says how {model} is to be asked ({', '.join(classes) or 'its config names no class'}); "
        f"pass format=NAME, one of {', '.join(FORMATS)}"
    )
