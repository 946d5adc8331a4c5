"""The side of a test that decides: runs the test's text in a process that the program cannot reach.

The names that the test uses and nobody here defines stand for the program's: calling one sends the arguments to the
player and gives back what it answers, as values of built-in types. The verdict goes to the keeper over a pipe that
only this process has.
"""

from __future__ import annotations

import ast
import builtins
import collections
import contextlib
import reprlib
import traceback
from typing import Any

from reason.sandbox.inside import frames, plain

__all__ = ["decide", "free_names"]

_TEST_FILE = "<test>"
_LIMIT = 32 << 20  # bytes of an answer
_KEPT_CALLS = 8


class Ended(BaseException):
    """The player has ended, or answers what is no answer. Not for a test's ``except Exception``."""


class ProgramError(Exception):
    """The program raised an exception of its own."""


class Opaque:
    """An object in the player. It equals nothing but itself; its attributes and methods are the player's."""

    def __init__(self, line: Line, number: int, kind: str) -> None:
        self._line, self._number, self._kind = line, number, kind

    def __repr__(self) -> str:
        return f"<{self._kind} of the program>"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._line.ask(self._number, None, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._line.ask(self._number, name, None, None)


class Remote:
    """A function or class of the program, by name."""

    def __init__(self, line: Line, name: str) -> None:
        self._line = line
        self.__name__ = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._line.ask(None, self.__name__, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._line.ask(None, self.__name__, None, None), name)


class _Repr(reprlib.Repr):
    def repr_int(self, x: int, level: int) -> str:
        try:
            return super().repr_int(x, level)
        except ValueError:  # Python writes no more than 4,300 digits
            return f"<an integer of {x.bit_length()} bits>"


class Line:
    """The connection to the player.

    Args:
        fd: a socket.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.ended = False
        self.calls: collections.deque[str] = collections.deque(maxlen=_KEPT_CALLS)
        self.traceback = ""
        self._repr = _Repr()
        self._repr.maxlist = self._repr.maxtuple = self._repr.maxdict = self._repr.maxset = 20
        self._repr.maxstring = self._repr.maxother = self._repr.maxlong = 200

    def receive(self) -> dict[str, Any]:
        """The next message.

        Raises:
            Ended: there is none. Then no verdict of this test is a pass any more.
        """
        if not self.ended:
            try:
                message = frames.receive(self._fd, limit=_LIMIT)
                if isinstance(message, dict):
                    return message
            except (frames.FrameError, OSError):
                pass
        self.ended = True
        raise Ended("the program ended")

    def ask(self, on: int | None, name: str | None, args: Any, kwargs: Any) -> Any:
        """Calls (with ``args``) or reads (without) a name, or an attribute of the object ``on``."""
        shown = f"{name or 'it'}({', '.join(self._repr.repr(arg) for arg in args)})" if args is not None else name
        call = {"on": on, "name": name, "args": self._encode(args), "kwargs": self._encode(kwargs)}
        self.calls.append(f"{shown} did not return")
        if self.ended:
            raise Ended("the program ended")
        with contextlib.suppress(OSError):  # what it said last may explain it
            frames.send(self._fd, call)
        reply = self.receive()
        if "error" in reply:
            kinds, message = [str(kind) for kind in reply["error"]], str(reply.get("message", ""))
            self.traceback = str(reply.get("traceback", ""))
            self.calls[-1] = f"{shown} raised {kinds[0]}: {message:.200}"
            raise _exception(kinds, message)
        try:
            value = plain.decode(reply.get("value"), self._opaque)
            if args is not None and "args" in reply:
                _take_over(args, plain.decode(reply["args"], self._opaque))
        except plain.NotPlain:
            self.ended = True
            raise Ended("the program's answer is no data") from None
        self.calls[-1] = f"{shown} returned {self._repr.repr(value)}"
        return value

    def _opaque(self, rest: list[Any]) -> Opaque:
        return Opaque(self, int(rest[0]), str(rest[1])[:100])

    def _encode(self, value: Any) -> Any:
        if value is None:
            return None
        return plain.encode(value, self._handle)

    def _handle(self, value: Any) -> Any:
        if isinstance(value, Opaque):
            return ["o", value._number]
        raise plain.NotPlain(f"a test can pass data to the program, but not a {type(value).__name__}")


def decide(setup: str, test: str, entry_point: str | None, player: int, verdict: int) -> None:
    """Runs the test and writes one message to ``verdict``: {passed, ended, message, calls, traceback}."""
    line = Line(player)
    passed, message = False, ""
    try:
        line.receive()  # the player is ready
        names: dict[str, Any] = {"__name__": "tests"}
        exec(compile(setup, "<setup>", "exec", dont_inherit=True), names)
        if entry_point is not None:
            names[entry_point] = names["candidate"] = Remote(line, entry_point)
        for name in free_names(test):
            if name not in names:
                names[name] = Remote(line, name)
        exec(compile(test, _TEST_FILE, "exec", dont_inherit=True), names)
        passed = not line.ended
    except BaseException as error:
        message = _describe(error, test)
    # Together less than a pipe holds, however it is escaped: the keeper reads it only when this process has ended.
    report = {"passed": passed, "ended": line.ended, "message": message[:2000], "traceback": line.traceback[-4000:]}
    frames.send(verdict, {**report, "calls": [call[:400] for call in line.calls]})


def free_names(source: str) -> list[str]:
    """The names that a text reads and neither it nor Python defines.

    Raises:
        SyntaxError: it is not Python.
    """
    read: set[str] = set()
    defined: set[str] = set(dir(builtins))
    for node in ast.walk(ast.parse(source, _TEST_FILE)):
        if isinstance(node, ast.Name):
            (read if isinstance(node.ctx, ast.Load) else defined).add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            defined.add(node.name)
        elif isinstance(node, ast.arg):
            defined.add(node.arg)
        elif isinstance(node, ast.alias):
            defined.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.ExceptHandler) and node.name:
            defined.add(node.name)
    return sorted(read - defined)


def _take_over(arguments: Any, after: Any) -> None:
    """Does to the test's lists, dictionaries and sets what the program did to its copies of them."""
    for before, now in zip(arguments, after, strict=True):
        if type(before) is not type(now) or before == now:
            continue
        if isinstance(before, list):
            before[:] = now
        elif isinstance(before, (dict, set)):
            before.clear()
            before.update(now)
        elif isinstance(before, collections.deque):
            before.clear()
            before.extend(now)


def _exception(kinds: list[str], message: str) -> Exception:
    for name in kinds:
        kind = getattr(builtins, name, None)
        if isinstance(kind, type) and issubclass(kind, Exception) and kind is not Exception:
            try:
                return kind(message)
            except TypeError:  # UnicodeDecodeError and its like take more than a text
                continue
    return ProgramError(f"{kinds[0]}: {message}")


def _describe(error: BaseException, test: str) -> str:
    text = f"{type(error).__name__}: {error}".removesuffix(": ")
    lines = test.splitlines()
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename == _TEST_FILE and frame.lineno is not None and frame.lineno <= len(lines):
            return f"{text}\n    {lines[frame.lineno - 1].strip()}"
    return text
