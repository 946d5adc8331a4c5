"""Questions over passages, answered in a few words: MuSiQue (Trivedi et al., https://arxiv.org/abs/2108.00573) and
2WikiMultihopQA (Ho et al., https://arxiv.org/abs/2011.01060).

    right(a) = max over references r of [n(a) = n(r)]                  exact match
    f1(a)    = max over references r of 2 |a ∩ r| / (|a| + |r|)        over the words of n(a) and n(r), with repetition

n is SQuAD's normalisation (Rajpurkar et al., https://arxiv.org/abs/1606.05250): lower case, without ASCII punctuation
and articles. MuSiQue has aliases for some references. The prompt has the passages in it that BM25 finds best for the
question, as far as they fit.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterator, Sequence

from reason.tasks.answer_kinds import AnswerKind, BadRow, Fields, Question, Row, value_of
from reason.tasks.answers import MAX_ANSWER, after_thinking, boxed
from reason.tasks.bm25 import BM25
from reason.tasks.prompts import QA as QA_PROMPT
from reason.tasks.task import Example

__all__ = [
    "PASSAGE_CHARACTERS",
    "QA",
    "extract_short_answer",
    "f1",
    "fitting",
    "is_unknown",
    "normalized",
    "numbered",
    "same_short_answer",
    "stated_answer",
]

PASSAGE_CHARACTERS = 12_000
"""So much of the passages goes into the prompt: all of most problems' (98% of MuSiQue's supporting passages, all of
2WikiMultihopQA's), in about 3000 tokens."""

# --- comparing ------------------------------------------------------------------------------------------------------

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLE = re.compile(r"\b(?:a|an|the)\b")


def normalized(answer: str) -> str:
    """An answer as SQuAD compares it. Of nothing but articles and punctuation it is empty."""
    return " ".join(_ARTICLE.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


def same_short_answer(a: str, b: str) -> bool:
    """Whether two short answers are the same words."""
    return normalized(a) == normalized(b) and (bool(normalized(a)) or a == b)


def f1(answer: str, reference: str) -> float:
    """The overlap of two short answers' words: the harmonic mean of precision and recall, from 0 to 1."""
    given, wanted = normalized(answer).split(), normalized(reference).split()
    if not given or not wanted:
        return float(same_short_answer(answer, reference))
    common = (Counter(given) & Counter(wanted)).total()
    return 2 * common / (len(given) + len(wanted))


def _references(example: Example) -> list[str]:
    return [example.reference, *(example.row.get("answer_aliases") or ())]


def _check(example: Example, answer: str) -> bool:
    return any(same_short_answer(answer, reference) for reference in _references(example))


def _f1(example: Example, answer: str) -> float:
    return max(f1(answer, reference) for reference in _references(example))


# --- reading answers ------------------------------------------------------------------------------------------------

_STATED = re.compile(r"(?<!to )\banswers?(?:\b[^.\n:]{0,80}?\b(?:is|are)\b\s*:?|[\s*_]{0,4}:)[\s*]*", re.IGNORECASE)
_UNKNOWN = re.compile(
    r"(?:unknown|unsure|uncertain|undetermined|i do not know|i don't know|no (?:answer|information)"
    r"|(?:is |are )?not (?:\w+ )?(?:known|mentioned|specified|provided|stated|given|available|clear|found|sure)"
    r"|cannot be (?:determined|answered))"
    r"(?=\W*$|\s*[,.;:!?()\[/—–]|\s+-|\s+(?-i:"  # names begin like that, Unknown Pleasures: no clause follows there
    r"about|according|among|as|at|available|based|because|but|by|due|for|found|from|given|here|how|if|in|is|mentioned|on|or"
    r"|provided|regarding|since|so|stated|that|the|to|was|were|what|when|where|whether|which|who|whom|whose|why|with"
    r"|within|without)\b)",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"(?<=\w{4})[.!?]\s+(?=[A-Z])")  # names have full stops behind initials and the like
_LATEX_WORDS = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf)\s*\{([^{}]*)\}")
_LATEX_ESCAPE = re.compile(r"\\([$%&#_{} ])")
_WRAPPED = re.compile(r"""(?:"([^"]*)"|'([^']*)'|“([^”]*)”|`([^`]*)`|\$([^$]*)\$)""")
_FULL_STOP = re.compile(r"(?<!\b[A-Z])\.$")
_BARE_WORDS = 5


def extract_short_answer(text: str) -> str | None:
    """The answer a text gives in a few words, or None if there is none, or it says that it does not know."""
    answer = stated_answer(text)
    return None if answer is None or is_unknown(answer) else answer


def stated_answer(text: str) -> str | None:
    """What a text says its answer is, "unknown" too. In this order: the last box, the last "the answer is ..." or
    "Answer: ...", the whole of a text that is one short line."""
    for part in after_thinking(text):
        for candidate in _candidates(part):
            if (answer := _plain(candidate)) and len(answer) <= MAX_ANSWER:
                return answer
    return None


def is_unknown(answer: str) -> bool:
    """Whether an answer says that it does not know."""
    return _UNKNOWN.match(answer) is not None


def _candidates(text: str) -> Iterator[str]:
    yield from boxed(text)
    for marker in reversed(list(_STATED.finditer(text))):
        line = text[marker.end() :].split("\n", 1)[0]
        yield _SENTENCE_END.split(line, maxsplit=1)[0]
    if "\n" not in (line := text.strip()) and len(line.split()) <= _BARE_WORDS:
        yield line


def _plain(answer: str) -> str:
    """Without LaTeX, quotes, emphasis and the full stop of its sentence."""
    answer = " ".join(_LATEX_ESCAPE.sub(r"\1", _LATEX_WORDS.sub(r"\1", answer)).split())
    previous = None
    while previous != answer:
        previous, answer = answer, _FULL_STOP.sub("", answer.strip(" *"))
        if whole := _WRAPPED.fullmatch(answer):
            answer = next(group for group in whole.groups() if group is not None)
    return answer


# --- asking ---------------------------------------------------------------------------------------------------------


def numbered(passages: Sequence[str]) -> str:
    """Passages as prompts show them."""
    return "\n\n".join(f"[{number}] {passage}" for number, passage in enumerate(passages, start=1))


def fitting(passages: Sequence[str], characters: int) -> tuple[str, ...]:
    """The first passages, as far as they fit; what fits of the first if it alone does not."""
    kept = list(passages[:1])
    if kept and len(kept[0]) > characters:
        return (kept[0][:characters],)
    left = characters - sum(map(len, kept))
    for passage in passages[1:]:
        left -= len(passage)
        if left < 0:
            break
        kept.append(passage)
    return tuple(kept)


def _read(row: Row, fields: Fields) -> Question:
    question, answer = (value_of(row, names) for names in fields)
    for name, value in zip(("question", "answer"), (question, answer), strict=True):
        if not isinstance(value, str) or not value.strip():
            raise BadRow(f"the {name} has to be text and not empty, it is {value!r:.60}")
    question = " ".join(question.split())
    passages = tuple(_passages(row))
    best = [passages[place] for place in BM25(passages).best(question)]
    text = f"{numbered(fitting(best, PASSAGE_CHARACTERS))}\n\nQuestion: {question}"
    return Question(text, answer.strip(), extract_short_answer, same_short_answer, question, passages)


def _passages(row: Row) -> Iterator[str]:
    """Each with its title, in the row's order."""
    given = value_of(row, ("paragraphs", "context"))
    if isinstance(given, dict):  # the hub has columns of titles and of sentences
        columns = zip(given.get("title", ()), given.get("sentences", ()), strict=False)
        given = [{"title": title, "sentences": sentences} for title, sentences in columns]
    if not isinstance(given, list) or not given or not all(isinstance(one, dict) for one in given):
        raise BadRow(f"the passages have to be a list of objects and not empty, they are {given!r:.60}")
    for one in given:
        text = one.get("paragraph_text") or " ".join(one.get("sentences") or ())
        yield f"{one.get('title', '')}: {text}"


def _answerable(row: Row) -> bool:
    return row.get("answerable") is not False


QA = AnswerKind(name="a few words", prompt=QA_PROMPT, read=_read, check=_check, keep=_answerable, marks={"f1": _f1})
