"""What a benchmark worker is: a process that loads one engine and answers timed jobs over JSON lines.

Request: {"n": branches, "tokens": new tokens each, "prompt": text}
Reply:   {"seconds": ..., "tokens": ..., "detail": {...}}
Each engine runs under its own interpreter and environment, stays warm, and sleeps while another is measured.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

_out = os.fdopen(os.dup(1), "w")  # libraries print, from C too: only this line stays clean
os.dup2(2, 1)


def serve(run: Callable[[int, int, str], dict[str, Any]], **about: Any) -> None:
    """Answers jobs until standard input ends. ``about`` (versions, settings) is sent first."""
    print(json.dumps(about), file=_out, flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        print(json.dumps(run(job["n"], job["tokens"], job["prompt"])), file=_out, flush=True)
