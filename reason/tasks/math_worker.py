"""The process that runs math-verify, so that a hang, a crash or a memory blow-up in it costs one answer and no more.

Started as ``python -m reason.tasks.math_worker`` by ``reason.tasks.math_process``, never imported elsewhere. Speaks
JSON lines: first ``{"ready": true}``, then for each ``{"id", "a", "b", "limit"}`` on standard input one
``{"id", "equal"}`` on standard output. Ends when standard input closes.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import math
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

_GRACE = 5  # seconds after the caller's limit at which the system ends this process, should the caller be gone


def limit_memory(megabytes: int) -> None:
    """Caps the address space where the system can (Linux); elsewhere only the time limit holds."""
    if sys.platform == "linux":
        import resource

        with contextlib.suppress(ValueError, OSError):  # a lower limit is in force already
            resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, megabytes << 20))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def make_comparison() -> Callable[[str, str], bool]:
    """Imports math-verify and gives the comparison of two answers, tried with either as the reference."""
    logging.disable(logging.CRITICAL)
    from math_verify import LatexExtractionConfig, parse, verify

    extraction = [LatexExtractionConfig()]

    @functools.lru_cache(maxsize=4096)
    def parsed(answer: str) -> tuple[Any, ...]:
        return tuple(parse(f"${answer}$", extraction, parsing_timeout=None))

    def equal(a: str, b: str) -> bool:
        left, right = list(parsed(a)), list(parsed(b))
        return bool(verify(left, right, timeout_seconds=None) or verify(right, left, timeout_seconds=None))

    return equal


def main() -> None:
    """Answers until standard input closes. Arguments: the memory limit in MiB."""
    replies = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # whatever the libraries print must not reach the pipe of replies
    limit_memory(int(sys.argv[1]))

    def reply(**message: Any) -> None:
        replies.write(json.dumps(message) + "\n")
        replies.flush()

    equal = make_comparison()
    equal("x + 1", "1 + x")  # loads what is loaded lazily, so that no request's limit pays for it
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    reply(ready=True)
    for line in sys.stdin:
        request = json.loads(line)
        if hasattr(signal, "alarm"):
            signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process even inside a long C call
            signal.alarm(math.ceil(request["limit"]) + _GRACE)
        try:
            same = equal(request["a"], request["b"])
        except Exception:  # parsers fail in any way they like; a failure to compare is "not equivalent"
            same = False
        reply(id=request["id"], equal=same)
        if hasattr(signal, "alarm"):
            signal.alarm(0)


if __name__ == "__main__":
    main()
