"""`reason train router` from problems to a router that solves with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

Reason = Callable[..., Any]


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    file = tmp_path / "problems.jsonl"
    rows = [{"id": f"p{i}", "problem": f"What is {i} + {i + 1}?", "answer": str(2 * i + 1)} for i in range(30)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.fixture
def other_model(tiny_model: Path, tmp_path: Path) -> Path:
    """The same tokenizer, other weights."""
    import shutil

    from safetensors.torch import load_file, save_file

    folder = tmp_path / "other"
    shutil.copytree(tiny_model, folder)
    generator = torch.Generator().manual_seed(5)
    weights = load_file(folder / "model.safetensors")
    changed = {
        name: w if "norm" in name else (w + 0.1 * torch.randn(w.shape, generator=generator)).to(w.dtype)
        for name, w in weights.items()
    }
    save_file(changed, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_from_problems_to_a_route(
    reason: Reason, tiny_model: Path, other_model: Path, problems: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    machine = ["--threads", "1", "--dtype", "float32", "--kv-tokens", "4096"]
    models = ["-m", str(tiny_model), "--small-model", str(other_model)]
    command = ["train", "router", str(problems), *models, *machine, "--out", str(out), "--max-tokens", "12"]
    command += ["--verifier", "judge", "--layers", "0,-1", "--samples", "2"]
    first = reason(*command, "--json")
    assert first.exit_code == 0, first.output
    said = json.loads(first.stdout)
    assert said["layer"] in (0, -1)
    assert len(said["thresholds"]) == 101
    assert (out / "card.md").read_text(encoding="utf-8").startswith("# Router for ")
    steps = {file.name for file in (out / "steps").iterdir()}
    again = reason(*command)
    assert again.exit_code == 0, again.output
    assert {file.name for file in (out / "steps").iterdir()} == steps
    assert "use it: --route arbitrage:" in again.stdout
    solved = reason(
        "solve", "What is 1 + 1?", *models, *machine, "-S", "max_tokens=24", "-S", "num_samples=2",
        "--route", f"arbitrage:{out / 'router.safetensors'},escalate=1", "--json",
    )  # fmt: skip
    assert solved.exit_code == 0, solved.output
    usage = json.loads(solved.stdout)["usage"]
    assert usage["routed_steps"] >= 2
    assert usage["escalated_steps"] > 0
    refused = reason(
        "solve", "?", "-m", str(other_model), "--small-model", str(tiny_model), *machine,
        "--route", f"arbitrage:{out / 'router.safetensors'}",
    )  # fmt: skip
    assert refused.exit_code == 2
    assert "reads states of" in " ".join(refused.stderr.split())
