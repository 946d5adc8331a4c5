"""What RethinkMCTS asks (Li et al., https://arxiv.org/abs/2409.09584). All wordings are ours; so are the worked
examples, which are in no data set. They come first where thoughts are asked for, so that all problems share their KV;
without them small models write the form of an answer, and with one alone they copy it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from reason.search.strategies.refining import say
from reason.tasks.prompts import Prompt, Worked, problem_messages, problem_text
from reason.types import Message, Problem

__all__ = ["EXAMPLES", "ask_evaluation", "ask_more_thoughts", "ask_program", "ask_rethought", "ask_thoughts"]

_FORM = (
    " Write each on a line of its own, in one or two sentences, and end the line with how promising the thought is, "
    "from 0 to 1, in brackets."
)
_FIRST = (
    "Do not write code yet. Give {count} different thoughts on how to write the program: methods, or cases that are "
    "easily forgotten." + _FORM
)
_MORE = (
    "Do not write code now. Give {count} different thoughts on what else the program must do to come out right: "
    "mistakes to avoid, other methods, cases that were forgotten." + _FORM
)
_RETHINK = (
    "Do not write code now. Give one new thought to take the place of the last one, by which the mistake is avoided, "
    "in one or two sentences."
)
_EVALUATE = (
    "This program passes the tests that are known. Is it right in all cases that the problem allows, also in rare "
    'ones? Check briefly. Then end with the line "Score: N", where N is a number from -1 (surely wrong somewhere) to 1 '
    "(surely right everywhere)."
)
_PASSES = "This program passes the tests that are known. It may still be wrong in other cases."
_FAILS = "This program does not pass its tests."
_ANSWER = re.compile(r"^\d\. | \[[\d.]+\]$")


class _Example(NamedTuple):
    """What is asked about, and what is thought of it: as many lines as are asked for."""

    text: str
    answers: tuple[str, ...]


def ask_thoughts(problem: Problem, count: int) -> tuple[Message, ...]:
    """For thoughts on a problem."""
    return _asked(_FIRST, count, _FIRST_WORKED, _question(problem))


def ask_more_thoughts(
    problem: Problem, thoughts: Sequence[str], program: str, *, passes: bool, feedback: str, count: int
) -> tuple[Message, ...]:
    """For thoughts to add to those by which a program was written, which were not enough."""
    seen = _seen(_question(problem), thoughts, program, passes=passes, feedback=feedback)
    return _asked(_MORE, count, _MORE_WORKED, seen)


def ask_rethought(problem: Problem, thoughts: Sequence[str], program: str, *, feedback: str) -> tuple[Message, ...]:
    """For another thought in the place of the last, whose program fails."""
    seen = _seen(_question(problem), thoughts, program, passes=False, feedback=feedback)
    return _asked(_RETHINK, 1, _RETHINK_WORKED, seen)


def ask_program(problem: Problem, thoughts: Sequence[str]) -> tuple[Message, ...]:
    """For the program that thoughts amount to, in the problem's own words."""
    *before, last = problem_messages(problem)
    if not (listed := _listed(thoughts)):
        return (*before, last)
    text = f"{last['content']}\n\nFollow these thoughts:\n{listed}"
    return (*before, Message(role=last["role"], content=text))


def ask_evaluation() -> tuple[Message, ...]:
    """How right a program is; said after it."""
    return say(_EVALUATE)


def _asked(request: str, count: int, examples: Sequence[_Example], text: str) -> tuple[Message, ...]:
    template = "Problem:\n{problem}\n\n" + request.replace("{count}", str(count))
    worked = tuple(Worked(example.text, "\n".join(example.answers[:count])) for example in examples)
    return Prompt(template=template, worked=worked).messages(text, few_shot=len(worked))


def _question(problem: Problem) -> str:
    return (problem.question or problem_text(problem)).strip()


def _seen(question: str, thoughts: Sequence[str], program: str, *, passes: bool, feedback: str) -> str:
    """A problem with what was thought, what program came of it, and what became of that."""
    verdict = _PASSES if passes else f"{_FAILS} {feedback.strip()}".rstrip()
    parts = (question, f"Thoughts so far:\n{_listed(thoughts) or 'none'}", program.strip(), verdict)
    return "\n\n".join(part for part in parts if part)


def _listed(thoughts: Sequence[str]) -> str:
    given = [thought for thought in thoughts if thought]
    return "\n".join(f"{place}. {thought}" for place, thought in enumerate(given, start=1))


# -- the worked examples ---------------------------------------------------------------------------------------------

_INITIALS = '''\
def initials(name: str) -> str:
    """The first letters of a name's words, in capitals.
    >>> initials("ada  king")
    'AK'
    """'''
_INITIALS_SEEN = _seen(
    _INITIALS,
    ["Split the name at blanks and join the first letters of the words in capitals."],
    """```python
def initials(name: str) -> str:
    return "".join(word[0].upper() for word in name.split(" "))
```""",
    passes=False,
    feedback="""0 of 1 tests passed.

Test: assert initials("ada  king") == 'AK'
IndexError: string index out of range
Calls: initials('ada  king') raised IndexError: string index out of range""",
)

_PARCELS = '''\
def parcels(weights: list, limit: int) -> int:
    """How many parcels it takes to pack things in their order, none of them heavier than the limit.
    >>> parcels([3, 4, 2, 5], 7)
    2
    """'''
_PARCELS_PROGRAM = """```python
def parcels(weights: list, limit: int) -> int:
    count, total = 1, 0
    for weight in weights:
        if total + weight > limit:
            count, total = count + 1, 0
        total += weight
    return count
```"""

_FIRST_WORKED = (
    _Example(
        _INITIALS,
        (
            "1. Split the name into words and join their first letters in capitals. [0.5]",
            "2. Go over the letters and keep each that begins the name or follows a blank. [0.4]",
            "3. Two blanks in a row make an empty word, which has no first letter. [0.3]",
            "4. Replace with a regular expression all letters but those at the beginning of a word. [0.2]",
            "5. An empty name has no initials: return an empty text. [0.1]",
        ),
    ),
    _Example(
        _PARCELS,
        (
            "1. Add up weights as long as they fit, and begin a new parcel where one does not. [0.6]",
            "2. Without weights there is no parcel, so the count must begin at 0. [0.3]",
            "3. Keep the room that is left in the last parcel, and count each time it is too small. [0.2]",
            "4. Build the parcels as lists and return how many there are. [0.2]",
            "5. Call the function itself on what is left after the first parcel. [0.1]",
        ),
    ),
)
_MORE_WORKED = (
    _Example(
        _INITIALS_SEEN,
        (
            "1. Call split without an argument, so that a run of blanks counts as one. [0.6]",
            "2. Leave out the empty words before taking first letters. [0.4]",
            "3. Do not split: keep each letter that begins the name or follows a blank. [0.2]",
            "4. Strip the name first, as blanks may stand at its ends. [0.1]",
            "5. Take the first letters as slices, which may be empty, not by index. [0.1]",
        ),
    ),
    _Example(
        _seen(
            _PARCELS,
            ["Add up weights as long as they fit, and begin a new parcel where one does not."],
            _PARCELS_PROGRAM,
            passes=True,
            feedback="",
        ),
        (
            "1. An empty list takes no parcel, but the count begins at 1. [0.7]",
            "2. A thing that is heavier than the limit fits in no parcel. [0.3]",
            "3. Count a parcel when the first thing is put into it, not when it is full. [0.3]",
            "4. The weights may be given as a generator, which can be gone over only once. [0.1]",
            "5. Sums of fractions are rounded, so compare them with a tolerance. [0.1]",
        ),
    ),
)
_RETHINK_WORKED = (
    _Example(
        _INITIALS_SEEN,
        (
            "Split the name at any run of blanks, by split without an argument, so that no word is empty; then join "
            "the first letters in capitals.",
        ),
    ),
    _Example(
        _seen(
            _PARCELS,
            ["Add up the weights in a loop.", "Begin a new parcel as soon as the limit is reached."],
            _PARCELS_PROGRAM.replace(" > ", " >= "),
            passes=False,
            feedback="""0 of 1 tests passed.

Test: assert parcels([3, 4, 2, 5], 7) == 2
AssertionError
Calls: parcels([3, 4, 2, 5], 7) returned 3""",
        ),
        ("Begin a new parcel only where a weight would go beyond the limit: a parcel may be filled up to it exactly.",),
    ),
)

EXAMPLES = tuple(
    _ANSWER.sub("", line)
    for worked in (_FIRST_WORKED, _MORE_WORKED, _RETHINK_WORKED)
    for example in worked
    for line in example.answers
)
"""The thoughts in the worked examples, which are none on any other problem."""
