"""Programs out of what models write: the last fenced block that defines the function, or text that goes on from the
prompt.

A program is whole: what the prompt begins with (imports, other functions) comes first, where a solution leaves it out.
What it only tries out (top-level asserts, calls, ``if __name__ == "__main__"``) is left out.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from reason.tasks.answers import after_thinking
from reason.tasks.syntax import parse

__all__ = ["ExtractProgram", "defines", "function_of", "parsed"]

_FENCE = re.compile(
    r"^[ \t]*(?P<fence>```+|~~~+)[ \t]*(?P<language>[\w+.-]*)[^\n]*\n(?P<code>.*?)(?:^[ \t]*(?P=fence)|\Z)",
    re.MULTILINE | re.DOTALL,
)
_LANGUAGES = ("", "python", "python3", "py", "py3")
_MOST_LINES = 1000
_TRIES = ("print", "input", "help", "main")
"""Whose calls at the top level are left out; those of the function itself are, too."""

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef


def parsed(code: str) -> ast.Module | None:
    """The syntax tree; None where it is not Python."""
    try:
        return parse(code)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None


def function_of(code: str, name: str) -> Function | None:
    """The last definition of a function at the top level of a program."""
    tree = parsed(code)
    found = [node for node in (tree.body if tree else ()) if isinstance(node, Function) and node.name == name]
    return found[-1] if found else None


def defines(code: str, name: str) -> bool:
    """Whether a program has a top-level function, class or variable of a name."""
    tree = parsed(code)
    return tree is not None and any(name in _names_of(node) for node in tree.body)


def _names_of(node: ast.stmt) -> set[str]:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return {node.name}
    if isinstance(node, ast.Assign):
        return {part.id for target in node.targets for part in ast.walk(target) if isinstance(part, ast.Name)}
    if isinstance(node, (ast.If, ast.Try)):
        return {name for part in node.body for name in _names_of(part)}
    return set()


@dataclass(frozen=True, slots=True)
class ExtractProgram:
    """Gets the program out of a solution's text; None where there is none. One that is no Python (for it was cut off,
    say) is given as it stands.

    Args:
        entry_point: the function that it has to define.
        prompt: the code that the problem begins with, up to the function's docstring; "" where there is none.
    """

    entry_point: str
    prompt: str = ""

    def __call__(self, text: str) -> str | None:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        for part in after_thinking(text):
            if (program := self._program(part)) is not None:
                return program
        return None

    def _program(self, text: str) -> str | None:
        blocks = [textwrap.dedent(block) for block in reversed(list(_blocks(text)))]
        for block in blocks:
            if defines(block, self.entry_point):
                return self._whole(block)
        continuations = (self._continued(block) for block in (blocks if blocks else [text]))
        if not blocks and (bare := self._bare(text)) is not None:
            return bare
        if (continued := next(filter(None, continuations), None)) is not None:
            return continued
        broken = rf"^(?:async\s+)?(?:def|class)\s+{re.escape(self.entry_point)}\b"
        for block in blocks or [_from_code(text)]:
            if re.search(broken, block, re.MULTILINE):
                return block.strip("\n") + "\n"
        return None

    def _whole(self, code: str) -> str:
        """A program that defines the function, after what the prompt defines before it."""
        code = without_trials(code, self.entry_point)
        before = self._before()
        if before and before.strip() not in code and "from __future__" not in code:
            code = f"{before.rstrip()}\n\n\n{code}"
        return code.strip("\n") + "\n"

    def _before(self) -> str:
        """What the prompt has before the function."""
        function = function_of(self.prompt, self.entry_point)
        if function is None:
            return ""
        first = min([function.lineno, *(each.lineno for each in function.decorator_list)])
        return "".join(_lines(self.prompt)[: first - 1]).strip("\n")

    def _bare(self, text: str) -> str | None:
        """A program without a fence: from its first line of code on, as far as it can be read."""
        code = _longest(_from_code(text))
        return self._whole(code) if code is not None and defines(code, self.entry_point) else None

    def _continued(self, body: str) -> str | None:
        """The prompt and a body that goes on from it."""
        if not self.prompt or not body.strip():
            return None
        lines = body.strip("\n").split("\n")
        if not lines[0].startswith((" ", "\t")):
            lines = [f"    {line}" if line.strip() else line for line in lines]
        code = _longest(
            self.prompt.rstrip("\n") + "\n" + "\n".join(lines), least=self.prompt.rstrip("\n").count("\n") + 2
        )
        function = function_of(code, self.entry_point) if code is not None else None
        if code is None or function is None:
            return None
        only_docstring = len(function.body) == 1 and ast.get_docstring(function) is not None
        return None if only_docstring else without_trials(code, self.entry_point).strip("\n") + "\n"


def without_trials(code: str, entry_point: str) -> str:
    """A program without the top-level statements that define nothing and only try it out, and comments before these."""
    tree = parsed(code)
    body = tree.body if tree else []
    lines = _lines(code)
    for place in range(len(body) - 1, -1, -1):
        node = body[place]
        first, last = node.lineno, node.end_lineno or node.lineno
        neighbours = body[max(place - 1, 0) : place] + body[place + 1 : place + 2]
        shares_a_line = any(other.lineno <= last and (other.end_lineno or 0) >= first for other in neighbours)
        if _is_trial(node, entry_point) and not shares_a_line:
            while first > 1 and (lines[first - 2].startswith("#") or not lines[first - 2].strip()):
                first -= 1
            del lines[first - 1 : last]
    return "".join(lines)


def _is_trial(node: ast.stmt, entry_point: str) -> bool:
    """Whether it only tries the program out; what sets something up (``sys.setrecursionlimit``) stays."""
    if isinstance(node, ast.Assert):
        return True
    if isinstance(node, ast.Expr):
        call = node.value.func if isinstance(node.value, ast.Call) else None
        return isinstance(call, ast.Name) and call.id in (*_TRIES, entry_point)
    return isinstance(node, ast.If) and any(
        isinstance(part, ast.Name) and part.id == "__name__" for part in ast.walk(node.test)
    )


def _blocks(text: str) -> Iterator[str]:
    for found in _FENCE.finditer(text):
        code = found["code"].rstrip()
        if found["language"].lower() in _LANGUAGES and code:
            yield code.removesuffix(found["fence"]) + "\n"


_CODE_LINE = re.compile(r"^(?:def |async def |class |import \w|from [\w.]+ import |@\w)", re.MULTILINE)


def _from_code(text: str) -> str:
    found = _CODE_LINE.search(text)
    return text[found.start() :] if found else ""


def _longest(code: str, least: int = 1) -> str | None:
    """The most first lines that are Python, at least ``least``."""
    lines = _lines(code)[:_MOST_LINES]
    count = len(lines)
    while count >= least:
        before = count - 1
        if lines[before].strip():
            try:
                parse(part := "".join(lines[:count]))
            except SyntaxError as error:  # whatever follows, it is there from this line on
                before = min(before, max((error.lineno or count) - 1, 0))
            except (ValueError, MemoryError, RecursionError):
                pass
            else:
                return part
        count = before
    return None


def _lines(code: str) -> list[str]:
    """As Python counts them, with their ends; ``str.splitlines`` also parts at form feeds and the like."""
    return re.findall(r"[^\n]*\n|[^\n]+", code)
