"""Runs a program's text as Python would, and ends the process as Python would."""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import sys
import threading
import traceback
import types
from typing import Any, NoReturn

__all__ = ["PROGRAM_FILE", "end", "load", "print_exception", "run"]

PROGRAM_FILE = "program.py"
_TEXT = 16_000  # characters of a traceback that are printed: its beginning and its end


def load(source: str, name: str) -> dict[str, Any]:
    """Executes ``source`` as the module ``name`` and gives its globals. Raises what it raises."""
    module = types.ModuleType(name)
    module.__file__ = PROGRAM_FILE
    sys.modules[name] = sys.modules["__main__"] = module
    sys.argv[:] = [PROGRAM_FILE]
    gc.enable()
    exec(compile(source, PROGRAM_FILE, "exec", dont_inherit=True), module.__dict__)
    return module.__dict__


def run(source: str) -> NoReturn:
    """Executes a main program."""
    code = 0
    try:
        load(source, "__main__")
    except SystemExit as error:
        code = _exit_code(error)
    except BaseException as error:
        print_exception(error)
        code = 1
    end(code)


def end(code: int) -> NoReturn:
    """Waits for threads, runs what is registered for the exit, flushes, ends."""
    with contextlib.suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BaseException):
            stream.flush()
    os._exit(code)


def print_exception(error: BaseException) -> None:
    """The traceback on standard error, from the program's first frame on, a long one without its middle."""
    with contextlib.suppress(BaseException):
        tb = error.__traceback__
        while tb is not None and tb.tb_frame.f_code.co_filename != PROGRAM_FILE:
            tb = tb.tb_next
        text = "".join(traceback.format_exception(type(error), error, tb))
        if len(text) > _TEXT:
            text = f"{text[: _TEXT // 2]}\n[...]\n{text[-_TEXT // 2 :]}"
        sys.stderr.write(text)


def _exit_code(error: SystemExit) -> int:
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code & 0xFF
    with contextlib.suppress(BaseException):
        sys.stderr.write(f"{error.code}\n")
    return 1
