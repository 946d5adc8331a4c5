"""Whether two programs are the same: whether they do the same with some inputs (their functional signature).

    same(a, b)  =  signature(a) == signature(b),   signature(p) = what p returns or raises for each input

The inputs are those of the public tests, and others made from them. Each program runs once, whatever it is compared
with, so a vote over n programs costs n runs. A program that works on no input (no Python, an exception each time, no
end) is the same as nothing but itself: failing alike is no agreement. Without inputs, syntax trees are compared.

AlphaCode (https://arxiv.org/abs/2203.07814) clusters its samples so, with inputs that a model makes.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import re
from dataclasses import dataclass

from reason.tasks.code.inputs import given_inputs, made_inputs
from reason.tasks.code.programs import parsed
from reason.tasks.code.running import TEST_SECONDS, run

__all__ = ["SameBehaviour", "signature"]

_MADE = 24  # inputs made from those of the tests
_FOUND = re.compile(r"AssertionError: behaviour (\w+) (\d+)")

# Equal values look the same, whatever their type: 1, 1.0 and True; sets and dictionaries in any order. What cannot be
# looked into (an iterator, an object) is as good as nothing returned, for it would be like any other.
_SETUP = """
import hashlib as _hashlib

def _shown(value):
    if isinstance(value, (bool, int)):
        return hex(int(value))  # Python writes no more than 4,300 decimal digits
    if isinstance(value, float):
        return hex(int(value)) if value.is_integer() and abs(value) < 1e15 else format(value, ".10g")
    if isinstance(value, list):
        return "[" + ",".join(map(_shown, value)) + "]"
    if isinstance(value, tuple):
        return "(" + ",".join(map(_shown, value)) + ")"
    if isinstance(value, (set, frozenset)):
        return "{" + ",".join(sorted(map(_shown, value))) + "}"
    if isinstance(value, dict):
        return "{" + ",".join(sorted(_shown(key) + ":" + _shown(held) for key, held in value.items())) + "}"
    if value is None or isinstance(value, (str, bytes, complex)):
        return repr(value)
    raise TypeError("it cannot be looked into")
"""

_TEST = """
_outcomes, _returned = [], 0
for _ask in [{asks}]:
    try:
        _value = _ask()
        _outcomes.append(_shown(_value))
        _returned += _value is not None
    except Exception as _error:
        _outcomes.append("raises " + type(_error).__name__)
_digest = _hashlib.sha256("\\n".join(_outcomes).encode("utf-8", "surrogatepass")).hexdigest()
assert False, "behaviour " + _digest + " " + str(_returned)
"""


@dataclass(frozen=True, slots=True)
class SameBehaviour:
    """The comparison for votes on one problem. Blocks while a program that is new runs.

    Args:
        tests: the public tests.
        entry_point: the function that they call.
        setup: what runs before them.

    Raises:
        SandboxUnavailable: programs cannot be run here.
    """

    tests: tuple[str, ...]
    entry_point: str
    setup: str = ""

    def __call__(self, a: str, b: str) -> bool:
        return a == b or self.signature(a) == self.signature(b)

    def signature(self, program: str) -> str:
        """Equal for programs that do the same."""
        return signature(program, given_inputs(self.tests, self.entry_point), self.entry_point, self.setup)


@functools.lru_cache(maxsize=20_000)
def signature(program: str, inputs: tuple[str, ...], entry_point: str, setup: str = "") -> str:
    """What a program does with inputs and with others made from them, as a digest; if it works on none, its text.

    Raises:
        SandboxUnavailable: programs cannot be run here.
    """
    tree = parsed(program)
    if tree is None or not inputs:
        return _text(program, tree)
    more = made_inputs(inputs, _MADE)
    for chosen in ((*inputs, *more), inputs):  # what is made may be too much for a program
        asks = ", ".join(f"lambda: {entry_point}({arguments})" for arguments in chosen)
        test = _TEST.replace("{asks}", asks)
        (verdict,) = run(program, (test,), entry_point=entry_point, setup=f"{setup}\n{_SETUP}", seconds=TEST_SECONDS)
        if found := _FOUND.match(verdict.message):
            return f"{len(chosen)} inputs {found[1]}" if int(found[2]) else _text(program, tree)
    return _text(program, tree)


def _text(program: str, tree: ast.Module | None) -> str:
    """A program without comments, docstrings and spacing, as a digest."""
    if tree is not None:
        for node in ast.walk(tree):
            if (
                isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
                and ast.get_docstring(node) is not None
            ):
                node.body = node.body[1:] or [ast.Pass()]
        with contextlib.suppress(RecursionError, ValueError):  # too deep, or a number too long: as it was written
            program = ast.dump(tree)
    return "text " + hashlib.sha256(program.encode("utf-8", "surrogatepass")).hexdigest()
