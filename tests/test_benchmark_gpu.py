"""Every part of the GPU benchmark runs, on tiny shapes, in Triton's interpreter where there is no GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_gpu_benchmark_runs_on_tiny_shapes(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    result = subprocess.run(
        [sys.executable, "benchmarks/gpu.py", "--quick", "--out", str(tmp_path / "results")],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=880,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    tables = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["tables"]
    assert list(tables) == ["kernels", "decode", "host", "tables", "sharing", "speculation", "exactness"]
    assert all(row["kernels"] and row["error"] < 1e-4 for row in tables["kernels"])
    assert {row["branches"] for row in tables["decode"]} == {1, 4}
    assert all(0.0 < row["exposed ms"] < row["ms"] for row in tables["host"])
    exact = tables["exactness"][0]
    assert exact["dtype"] == "float32"
    assert exact["largest gap of logits"] < 1e-3
    text = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "## Attention of one layer" in text
    assert "failed" not in text
