"""Gets the final answer out of a model's text.

In this order: the last ``\\boxed{...}``; the last "the answer is ...", "Answer: ..." or "#### ..."; the last number.
Text after ``</think>`` is looked at first. Every scan is linear in the text, and nothing here raises on any string.

The order and the wrappers removed follow the graders of MATH (Hendrycks et al., https://arxiv.org/abs/2103.03874),
GSM8K (https://arxiv.org/abs/2110.14168) and Qwen2.5-Math (https://arxiv.org/abs/2409.12122). We depart from them in
keeping the answer readable: ``\\frac34`` stays as written, and only ``reason.tasks.equivalence`` judges sameness.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator

__all__ = ["after_thinking", "boxed", "clean_answer", "extract_answer", "extract_choice"]

MAX_ANSWER = 1000
"""Characters. What is longer is a solution, not an answer."""

_TRIES = 20  # candidates looked at, from the end of the text on: keeps hostile inputs linear

_TEXT_MACRO = r"\\(?:text|textbf|textit|textrm|textsf|texttt|mathrm|mathbf|mathsf|mbox|hbox)"
_FRACTION = r"\\[dtc]?frac\s{0,3}\{\s{0,3}-?[\d.,]{1,40}\s{0,3}\}\s{0,3}\{\s{0,3}-?[\d.,]{1,40}\s{0,3}\}"
_VULGAR = r"\d{0,40}[\u00bc-\u00be]"
_MIXED = rf"(?:\d{{1,4}} \d{{1,3}}/\d{{1,3}}|{_VULGAR})"
_PLAIN = r"(?:\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)"

# --- boxes ----------------------------------------------------------------------------------------------------------

_BRACE = re.compile(r"\\(?P<box>boxed|fbox)(?![A-Za-z])\s*(?P<open>\{)?|\\.|[{}]", re.DOTALL)
_BARE = re.compile(r"-?\\?[^\s$\\{},;]{1,100}")
_LINE_END = re.compile(r"\n|\$|\\\)|\\\]")


def _boxes(text: str, *, cut: bool = False) -> tuple[list[str], list[str]]:
    """The contents of every box in order of their end: the closed ones, and those whose brace never closes.

    Args:
        cut: the text goes on, so that a box it ends in has said only part of what it holds.
    """
    closed: list[str] = []
    stack: list[int | None] = []  # where the box's content starts; None for a brace that opens no box
    for token in _BRACE.finditer(text):
        if token["box"]:
            if token["open"]:
                stack.append(token.end())
            elif bare := _BARE.match(text, token.end()):
                closed.append(bare[0])
        elif token[0] == "{":
            stack.append(None)
        elif token[0] == "}" and stack:
            start = stack.pop()
            if start is not None and token.start() - start <= MAX_ANSWER:
                closed.append(text[start : token.start()])
    lines = [
        _LINE_END.split(text[start : start + MAX_ANSWER], maxsplit=1) for start in stack[-_TRIES:] if start is not None
    ]
    return closed, [line[0] for line in lines if len(line) > 1 or not cut]


def boxed(text: str, *, cut: bool = False) -> Iterator[str]:
    """What the last few boxes hold, as written: the last first, those whose brace never closes after the others; but
    not what a text ends in that was ``cut`` off."""
    closed, unclosed = _boxes(text, cut=cut)
    yield from reversed(closed[-_TRIES:])
    yield from reversed(unclosed)


def _boxed(text: str, *, cut: bool) -> str | None:
    return next((answer for content in boxed(text, cut=cut) if (answer := clean_answer(content))), None)


# --- stated answers -------------------------------------------------------------------------------------------------

_MARKER = re.compile(
    r"####"
    r"|\banswers?\b[^.\n:=$\d]{0,60}?(?:\bis\b|\bare\b|:|=)"
    r"|^[#*_ \t]{0,10}(?:final )?answer[#*_ \t]{0,10}$",
    re.IGNORECASE | re.MULTILINE,
)
_MATH = re.compile(
    r"\$\$(.{1,1000}?)\$\$|\$(?=[^\s$])([^$\n]{1,1000})(?<!\s)\$(?!\d)|\\\((.{1,1000}?)\\\)|\\\[(.{1,1000}?)\\\]",
    re.DOTALL,
)
_GAP = re.compile(r"[\s:#]*(?:\*\*(?=\s))?[\s:#]*")  # a bold marker closes after it
_FULL_STOP = re.compile(r"[.?!](?=\s|$)")
_CLAUSE_END = re.compile(r";|\s\(|,\s+(?!and\b|or\b)(?=[a-z]{2})", re.IGNORECASE)
_REASON = re.compile(r"\s(?:because|since|as|which|so|when|where|after|before)\s", re.IGNORECASE)
_BOLD = re.compile(r"(?<![\w)\]}*])\*\*(?=\S)([^*\n]{1,1000})\*\*")
_IS = re.compile(r"\b(?:is|are|equals|be)\s+(?=[^\s])", re.IGNORECASE)
_UNREAD_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])")  # one that holds something was read before
_NO_ANSWER = re.compile(
    r"(?:not|correct|right|wrong|as|the|that|this|it|we|given|found|obtained|in|to|of|at|on|by|for|and|but|then|also"
    r"|thus|therefore|clear|clearly|simply|indeed|without)\b",
    re.IGNORECASE,
)


def _content(formula: re.Match[str]) -> str:
    return next(group for group in formula.groups() if group is not None)


def _stated(text: str) -> str | None:
    markers = list(_MARKER.finditer(text))
    for marker in reversed(markers[-_TRIES:]):
        rest = _GAP.sub("", text[marker.end() : marker.end() + 2 * MAX_ANSWER], count=1)
        if answer := _statement(rest):
            return answer
    return None


def _statement(rest: str) -> str | None:
    """The answer at the start of what follows "the answer is"; None if that is ordinary prose."""
    if rest.startswith(("$", "\\(", "\\[")) and (math := _MATH.match(rest)):
        return clean_answer(_content(math)) or None
    sentence = _FULL_STOP.split(_BOLD.sub(r"\1", rest.split("\n", 1)[0]), maxsplit=1)[0]
    answer = clean_answer(_REASON.split(_CLAUSE_END.split(sentence, maxsplit=1)[0], maxsplit=1)[0])
    if len(words := answer.split()) > 3 and words[0].isalpha():
        return _in_prose(sentence) or (answer if len(words) <= 5 and not _NO_ANSWER.match(answer) else None)
    if not any(character.isalnum() for character in answer) or _UNREAD_BOX.search(answer):
        return None
    return None if len(answer) > MAX_ANSWER or _NO_ANSWER.match(answer) else answer


def _in_prose(sentence: str) -> str | None:
    """The last formula, or else number, of what stands after the last "is"; of the whole sentence if there is none."""
    *_, end = (0, *(found.end() for found in _IS.finditer(sentence)))
    for part in (sentence[end:], sentence):
        formulas = [_content(formula) for formula in _MATH.finditer(part)]
        if found := clean_answer(formulas[-1]) if formulas else _last_number(part):
            return found
    return None


# --- numbers --------------------------------------------------------------------------------------------------------

_NUMBER = re.compile(
    rf"(?P<sign>(?<![\w)}}\].])[-\u2212])?\\?\$?(?P<body>(?:\d{{1,40}}\s?)?{_FRACTION}"
    r"|(?<![\d.,/])(?P<whole>\d{1,3}) (?P<part>(?P<top>\d{1,3})/(?P<bottom>\d{1,3}))(?!\.?\d|/)"
    rf"|{_VULGAR}"
    rf"|{_PLAIN}(?:\s?/\s?\d+(?!\.?\d)|:\d+)?)(?P<percent>\s?\\?%)?"
)
_LABEL = re.compile(r"(?:\b(?:in|step|day|week|year|page|part|problem|question|item|no)\.?|#)\s*$", re.IGNORECASE)
_NEAR = 300  # characters around a number in which the formula it stands in must begin and end
_EQUALS = re.compile(r"(?<![<>!\\])=|\\approx(?![A-Za-z])")


def _last_number(text: str) -> str | None:
    found = deque(_NUMBER.finditer(text), maxlen=1)
    if not found:
        return None
    last = found[0]
    offset = max(0, last.start() - _NEAR)
    for formula in _MATH.finditer(text[offset : last.end() + _NEAR]):
        # The number ends a formula: take the formula's right-hand side, 4\pi and not 4.
        if offset + formula.start() <= last.start() and last.end() <= offset + formula.end():
            return clean_answer(_EQUALS.split(_content(formula))[-1]) or None
    body = last["body"]
    if last["whole"] is not None:
        labelled = _LABEL.search(text[max(0, last.start() - 20) : last.start()])  # "Step 2 3/4 is left"
        if labelled or not 0 < int(last["top"]) < int(last["bottom"]):
            body = last["part"]
    return clean_answer(("-" if last["sign"] else "") + body + ("%" if last["percent"] else ""))


# --- cleaning -------------------------------------------------------------------------------------------------------

_WRAPPERS = tuple(
    re.compile(pattern, re.DOTALL)
    for pattern in (
        r"\$\$([^$]*)\$\$",
        r"\$([^$]*)(?<!\\)\$",
        r"\\\(((?:[^\\]|\\[^()])*)\\\)",
        r"\\\[((?:[^\\]|\\[^\[\]])*)\\\]",
        r"\*\*([^*]*)\*\*",
        r"\*([^*]*)\*",
        r"`([^`]*)`",
        r"\{([^{}]*)\}",
        r"\\(?:boxed|fbox)\s*\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}",
        _TEXT_MACRO + r"\s*\{([^{}]*)\}",
    )
)
_LEADING = re.compile(r"(?:[:=]|\*\*|\\displaystyle\b)\s*")
_TRAILING = re.compile(r"(?:(?<!\.)(?<!\b[ap]\.m)\.|[,;:?]|\*\*|(?<!\\)\\)$")
_CURRENCY = re.compile(r"(-?)\s*(?:\\?\$|[€£¥₹]|\\(?:euro|pounds)\b)\s*(?=-?[\d.])")
_CURRENCY_AFTER = re.compile(r"(-?[\d.,]+)\s*(?:\\?\$|[€£¥₹])")
_KEPT_WORDS = re.compile(  # after a number these words change the value, or join it with another one
    r"\b(?:and|or|to|than|if|when|where|for|mod|modulo|base|plus|minus|times|over|pi|sqrt|million|billion|trillion"
    r"|thousand|hundred|dozen|half|third|quarter|infinity|am|pm)\b|\b[ap]\.m",
    re.IGNORECASE,
)
_UNIT_TEXT = re.compile(rf"(.*\S)\s*{_TEXT_MACRO}\s*\{{([^{{}}\d]*)\}}\s*(?:\^\{{?[23]\}}?)?", re.DOTALL)
_UNIT_WORDS = re.compile(
    rf"([-\u2212]?(?:{_MIXED}|{_PLAIN}(?:/\d+)?|{_FRACTION}))"
    r"(?:[ ~]+|\\[ ,;])\s*([A-Za-z]{2}[A-Za-z .'/-]*?)(?:\^\{?[23]\}?|[²³])?"
)
_UNIT_ATTACHED = re.compile(rf"(-?{_PLAIN})(?:[cmk]m|[km]?g|m[lL]|lbs?|ft|mph|km/h|hrs?|mins?|secs?)(?:\^?[23]|[²³])?")
_PERCENT_WORD = re.compile(rf"(-?{_PLAIN})\s*percent", re.IGNORECASE)
_THOUSANDS = re.compile(r"-?\d{1,3}(?:(?:,|(?:\{,\}|,\\!)\s?)\d{3})+(?:\.\d+)?%?")
_ARITHMETIC = re.compile(r"[\d\s.,+\-*/×÷^()$%\u2212]{1,200}=\s*([-\u2212]?\\?\$?[\d.,]+%?)")


def clean_answer(answer: str) -> str:
    """An answer without its wrappers: math delimiters, ``\\text``, bold, currency, units, trailing punctuation.

    Percent signs, degrees and everything inside a formula stay. Cleaning a clean answer changes nothing.
    """
    if len(answer) > MAX_ANSWER:
        return answer.strip()
    previous = None
    while previous != answer:
        previous, answer = answer, _clean_once(answer)
        assert len(answer) <= len(previous), "every rule shortens, so this ends"
    return answer


def _clean_once(answer: str) -> str:
    answer = " ".join(answer.split())
    for wrapper in _WRAPPERS:
        if whole := wrapper.fullmatch(answer):
            return whole[1]
    answer = _LEADING.sub("", answer, count=1) if _LEADING.match(answer) else answer
    if not answer.endswith("..."):
        answer = _TRAILING.sub("", answer)
    if money := _CURRENCY.match(answer):
        answer = money[1] + answer[money.end() :]
    if (money := _CURRENCY_AFTER.fullmatch(answer)) or (money := _ARITHMETIC.fullmatch(answer)):
        return money[1]
    return _without_units(answer)


def _without_units(answer: str) -> str:
    if _THOUSANDS.fullmatch(answer):
        return re.sub(r"[,{}!\\\s]", "", answer)
    if percent := _PERCENT_WORD.fullmatch(answer):
        return percent[1] + "%"
    if attached := _UNIT_ATTACHED.fullmatch(answer):
        return attached[1]
    unit = _UNIT_WORDS.fullmatch(answer) or _UNIT_TEXT.fullmatch(answer)
    if unit and any(character.isdigit() for character in unit[1]) and not _KEPT_WORDS.search(unit[2]):
        return unit[1]
    return answer


# --- the public functions -------------------------------------------------------------------------------------------


def after_thinking(text: str) -> Iterator[str]:
    """The parts to look for an answer in: what follows the thinking, if anything does; then all of it."""
    _, closed, tail = text.rpartition("</think>")
    if closed and tail.strip():
        yield tail
    yield text


def extract_answer(text: str, *, explicit_only: bool = False) -> str | None:
    """The final answer a text gives, or None if there is none. Never raises; linear in ``len(text)``.

    Args:
        text: a model's whole text.
        explicit_only: only a box or a stated answer counts, neither the last number nor a box in whose middle the text
            ends: for text that was cut off, where the last number is one on the way.
    """
    for part in after_thinking(text):
        if (
            answer := _boxed(part, cut=explicit_only)
            or _stated(part)
            or (None if explicit_only else _last_number(part))
        ):
            return answer
    return None


def _listed(letter: str, letters: str) -> str:
    """As it is among the letters."""
    return letter.upper() if letter.upper() in letters else letter


def extract_choice(text: str, letters: str = "ABCD") -> str | None:
    """The letter a text chooses in a multiple-choice question, or None.

    In this order: the last box that holds a letter, the last "answer is B" or "Answer: (B)", the last "(B)", the last
    line that starts with "B." or "B)" or is "B", the last "B" by itself. Letters are upper case unless boxed, or stated
    and followed by a mark or the line's end ("answer: b)", but not "the answer is a bit").
    """
    allowed = "".join(re.escape(letter) for letter in letters)
    one = re.compile(rf"[\s(\[*$]*([{allowed}])(?![A-Za-z0-9'’])", re.IGNORECASE)
    stated = re.compile(
        rf"\b(?i:answers?)\b[^.\n]{{0,60}}?(?:\bis\b|:)[\s(\[*$\\a-z{{]{{0,20}}?\b([{allowed}])(?![\w'’])"
    )
    lower = re.compile(
        r"\b(?i:answer)\*{0,2}[ \t]*(?:is\b|:)[ \t(\[*${]{0,10}(?:(?:option|choice)[ \t(\[*$]{1,5})?"
        rf"([{allowed.lower()}])(?=[.)\]}}]|\*\*|[ \t]*$)",
        re.MULTILINE,
    )
    written = (
        re.compile(rf"\(([{allowed}])\)"),
        re.compile(rf"^[ \t*#]{{0,10}}([{allowed}])(?:[.):*\s]|$)", re.MULTILINE),
        re.compile(rf"(?<![\w'’])([{allowed}])(?![\w'’])"),
    )
    for part in after_thinking(text):
        for content in boxed(part):
            if letter := one.match(clean_answer(content)):
                return _listed(letter[1], letters)
        for pattern in (stated, lower, *written):
            if found := pattern.findall(part):
                return _listed(str(found[-1]), letters)
    return None
