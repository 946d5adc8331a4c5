"""The benchmark of the server under load, a short form of it: its promises hold."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_few_seconds_of_load(tiny_folder: Path, tmp_path: Path) -> None:
    report = tmp_path / "load.json"
    command = [sys.executable, "benchmarks/serve_load.py", "--model", str(tiny_folder), "--out", str(report)]
    command += ["--seconds", "10", "--clients", "16", "--max-running", "6", "--max-queued", "4", "--max-tokens", "48"]
    command += ["--kv-tokens", "4096", "--threads", "1", "--kills", "4", "--streams", "4", "--growth-mb", "150"]
    command += ["--freed-seconds", "10"]  # threads of a busy machine wait for cores
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(report.read_text(encoding="utf-8"))
    assert all(found["promises"].values())
    assert found["statuses"]["killed -"] > 0
    assert "was destroyed but it is pending" not in done.stderr
