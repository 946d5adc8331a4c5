"""What a benchmark worker is: a process that loads one engine and answers timed jobs over JSON lines.

Request: {"n": branches, "tokens": new tokens each, "prompt": text}
Reply:   {"seconds": ..., "tokens": ..., "detail": {...}}
Each engine runs under its own interpreter and environment, stays warm, and sleeps while another is measured.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any


def serve(run: Callable[[int, int, str], dict[str, Any]], **about: Any) -> None:
    """Answers jobs until standard input ends. ``about`` (versions, settings) is sent first."""
    out = sys.stdout
    sys.stdout = sys.stderr  # libraries print; the protocol line must stay clean
    print(json.dumps(about), file=out, flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        print(json.dumps(run(job["n"], job["tokens"], job["prompt"])), file=out, flush=True)
