r"""One spelling for answers that differ only in spelling, and the exact value of those that are plain numbers.

``normal_form`` removes what cannot change the value (``\left``, spacing, ``\text``, units, ``\%``, ``^\circ``) in the
way of the MATH graders (Hendrycks et al., https://arxiv.org/abs/2103.03874; Lewkowycz et al.,
https://arxiv.org/abs/2206.14858). Like them it drops percent signs, so 50\% is 50 and not 0.5: that keeps
sameness transitive, which voting needs.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Literal, NamedTuple

from reason.tasks.answers import MAX_ANSWER, clean_answer

__all__ = ["THOUSANDS", "Key", "exact_key", "normal_form", "number"]

_UNICODE = str.maketrans(
    {
        "\u2212": "-", "\u2013": "-", "\u00a0": " ", "\u2019": "'", "\u03c0": r"\pi ", "\u221e": r"\infty ",
        "\u00d7": r"\times ", "\u00f7": "/", "\u22c5": r"\cdot ", "\u00b7": r"\cdot ", "\u00b0": "", "\u00b2": "^2",
        "\u00b3": "^3", "\u2264": r"\leq ", "\u2265": r"\geq ", "\u2260": r"\neq ", "\u222a": r"\cup ",
        "\u2229": r"\cap ", "\u00b1": r"\pm ", "\u03b8": r"\theta ", "\u00bd": r"\frac{1}{2}", "\u00bc": r"\frac{1}{4}",
        "\u00be": r"\frac{3}{4}",
    }
)  # fmt: skip

_REWRITES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\\$|\$|[€£¥]", ""),
        (r"\\left\s*\.|\\right\s*\.", ""),
        (r"\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|limits)(?![A-Za-z])", ""),
        (r"(?<=\d)\s?(?:\{,\}|,\\!|\\!,|\\,)\s?(?=\d{3}(?!\d))", ""),  # thousands set in LaTeX
        (r"(?<!\\)\\!", ""),
        (r"(?<!\\)\\[,;: >]|~|\\q?quad(?![A-Za-z])", " "),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mbox|operatorname)\s*\{([^{}]*)\}", r" \1 "),
        (r"\s*\\?%|\bpercent\b", ""),
        (r"\^\s*(?:\\circ|\{\s*\\circ\s*\}|\\degree)|\\degrees?(?![A-Za-z])|(?<=[\d}])\s*degrees?\b", ""),
        (r"\\le(?![A-Za-z])", r"\\leq "),
        (r"\\ge(?![A-Za-z])", r"\\geq "),
        (r"\\ne(?![A-Za-z])", r"\\neq "),
        (r"\\(?:varnothing|O)(?![A-Za-z])", r"\\emptyset "),
        (r"\*\*", "^"),
        (r"(?<![A-Za-z\\])(?:infinity|inf|oo)(?![A-Za-z])", r"\\infty "),
        (r"(?<![A-Za-z\\])(pi|sqrt)(?![A-Za-z])", r"\\\1 "),
        (r"\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"\\frac\s*(\d|\\pi)\s*(\d)", r"\\frac{\1}{\2}"),
        (r"\\frac\s*(\d|\\pi)\s*\{", r"\\frac{\1}{"),
        (r"\\frac\s*(\{[^{}]*\})\s*([A-Za-z\d])", r"\\frac\1{\2}"),
        (r"\\sqrt\s*(\d)", r"\\sqrt{\1}"),
        (r"(?<=[\w})\]])\s+(?:and|or)\s+(?=[\w\\({\[-])", ", "),
        (r",\s*(?:and|or)\s+", ", "),
        (r"^[A-Za-z]\s*\\in(?![A-Za-z])\s*", ""),
        (r"^\(\s*([A-Za-z])\s*\)$", r"\1"),
    )
)


def normal_form(answer: str) -> str:
    """The answer in the spelling that answers are compared in. Never raises."""
    if len(answer) > MAX_ANSWER:
        return " ".join(answer.split())
    form = clean_answer(answer).translate(_UNICODE)
    previous = None
    for _ in range(8):  # macros nest a few deep at most; the bound is for hostile inputs
        if form == previous:
            break
        previous = form
        for pattern, replacement in _REWRITES:
            form = pattern.sub(replacement, form)
        form = clean_answer(form)
    return form


# --- plain numbers --------------------------------------------------------------------------------------------------

_INTEGER = r"[+-]?\d{1,400}"
_DECIMAL = r"[+-]?(?:\d{1,400}\.?\d{0,400}|\.\d{1,400})"
_NUMBERS = re.compile(
    rf"(?P<decimal>{_DECIMAL})"
    rf"(?:(?:[eE]|(?:\*|\\times|\\cdot)10\^)\{{?(?P<exponent>[+-]?\d{{1,3}})\}}?)?"
    rf"|(?P<sign>[+-]?)(?:(?P<whole>\d{{1,400}})(?P<gap>\s+|(?=\\frac)))?"
    rf"(?:\\frac\{{(?P<top>{_DECIMAL})\}}\{{(?P<bottom>{_DECIMAL})\}}|(?P<left>{_DECIMAL})/(?P<right>{_DECIMAL}))"
)
_REPEATING = re.compile(r"([+-]?)(\d{0,100})\.(\d{0,100})\\overline\{(\d{1,100})\}")
THOUSANDS = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_AROUND_SYMBOLS = re.compile(r"\s*([{}/^*]|\\times(?![A-Za-z])|\\cdot(?![A-Za-z]))\s*")


def number(form: str) -> Fraction | None:
    r"""The exact value of an integer, decimal (``0.\overline{3}`` too), fraction, mixed number (``3 1/2``,
    ``3\frac{1}{2}``) or power of ten (``1.2e5``, ``1.2\times10^{5}``), else None. ``form`` is a normal form."""
    if len(form) > MAX_ANSWER:
        return None
    if repeating := _REPEATING.fullmatch(form):
        sign, whole, fixed, period = repeating.groups()
        tail = Fraction(int(period), 10 ** len(fixed) * (10 ** len(period) - 1))
        return (Fraction(int(whole + fixed or "0"), 10 ** len(fixed)) + tail) * (-1 if sign == "-" else 1)
    if THOUSANDS.fullmatch(form):
        form = form.replace(",", "")
    found = _NUMBERS.fullmatch(_AROUND_SYMBOLS.sub(r"\1", re.sub(r"^([+-])\s+", r"\1", form)))
    if found is None:
        return None
    if found["decimal"] is not None:
        return _decimal(found["decimal"]) * Fraction(10) ** int(found["exponent"] or 0)
    top, bottom = found["top"] or found["left"], found["bottom"] or found["right"]
    if (denominator := _decimal(bottom)) == 0:
        return None
    part = _decimal(top) / denominator
    if found["whole"] is not None:
        if not (top.isdigit() and bottom.isdigit()):
            return None
        part += int(found["whole"])
    return -part if found["sign"] == "-" else part


def _decimal(text: str) -> Fraction:
    return Fraction(text.rstrip(".") if text.endswith(".") else text)


# --- keys -----------------------------------------------------------------------------------------------------------


class Key(NamedTuple):
    """Equal keys mean the same answer; so do unequal ones only if at least one is a formula."""

    kind: Literal["number", "words", "formula"]
    value: Fraction | str


_WORDS = re.compile(r"[A-Za-z][A-Za-z' -]*")
_WORD = re.compile(r"[A-Za-z]{3,}")
_FUNCTIONS = frozenset({"sin", "cos", "tan", "cot", "sec", "csc", "log", "exp", "sqrt", "max", "min", "gcd", "lcm"})


def exact_key(form: str) -> Key:
    """The key of a normal form: its value for plain numbers, the folded words for prose, else the formula unspaced."""
    value = number(form)
    if value is not None:
        return Key("number", value)
    if _WORDS.fullmatch(form):
        words = _WORD.findall(form)
        if words and not _FUNCTIONS.intersection(words):
            return Key("words", form.casefold())
    return Key("formula", re.sub(r"\s+", "", form))
