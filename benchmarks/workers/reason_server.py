"""`reason serve` with one verifier more, "checksum"; arguments are those of `reason serve`."""

from __future__ import annotations

import sys

from checksum import Checksum

from reason.cli.main import app
from reason.verifiers import VERIFIERS

if __name__ == "__main__":
    VERIFIERS["checksum"] = Checksum
    app(["serve", *sys.argv[1:]])
