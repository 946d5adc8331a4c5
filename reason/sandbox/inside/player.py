"""The side of a test that has the program: executes it, then calls its functions as the judge asks, and sends results.

Nothing here can be trusted once the program runs: it shares the process. It knows the arguments of the calls and no
more; the test's text and the values it expects are in the judge's process.
"""

from __future__ import annotations

import contextlib
import io
from typing import Any, NoReturn

from reason.sandbox.inside import frames, plain, program

__all__ = ["serve"]

_LIMIT = 64 << 20  # bytes of a call


def serve(source: str, fd: int) -> NoReturn:
    """Executes the program as a module, then answers calls until the judge closes."""
    try:
        names = program.load(source, "program")
    except BaseException as error:
        program.print_exception(error)
        program.end(1)
    frames.send(fd, {"ready": True})
    objects: list[Any] = []

    def handle(value: Any) -> Any:
        objects.append(value)
        return ["o", len(objects) - 1, type(value).__name__[:100]]

    def decode(data: Any) -> Any:
        return plain.decode(data, lambda rest: objects[rest[0]])

    while (call := frames.receive(fd, limit=_LIMIT)) is not None:
        try:
            target = objects[call["on"]] if call["on"] is not None else None
            name = call["name"]
            if target is None:
                target = names[name] if name in names else _missing(name)
            elif name is not None:
                target = getattr(target, name)
            reply: dict[str, Any]
            if call["args"] is None:
                reply = {"value": plain.encode(target, handle)}
            else:
                args, kwargs = decode(call["args"]), decode(call["kwargs"])
                value = target(*args, **kwargs)
                reply = {"value": plain.encode(value, handle)}
                after = plain.encode(args, handle)  # a test may look at what a function did to its arguments
                if after != call["args"]:
                    reply["args"] = after
        except Exception as error:
            errors = io.StringIO()
            with contextlib.redirect_stderr(errors):
                program.print_exception(error)
            kinds = [kind.__name__ for kind in type(error).__mro__]
            reply = {"error": kinds, "message": _text(error)[:2000], "traceback": errors.getvalue()}
        except BaseException as error:
            program.print_exception(error)
            program.end(1)
        frames.send(fd, reply)
    program.end(0)


def _missing(name: str) -> NoReturn:
    raise NameError(f"name {name!r} is not defined")


def _text(error: Exception) -> str:
    try:
        return str(error)
    except Exception:
        return ""
