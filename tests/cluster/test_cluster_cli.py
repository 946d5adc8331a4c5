"""`reason eval --workers`: the options, and the same results as one process in float32."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from reason.cli.crew import crew_of
from tests.cli.conftest import reason
from tests.report.conftest import lines

__all__ = ["reason"]  # a fixture

pytestmark = pytest.mark.timeout(300)  # processes start and load a model: slow on a busy machine

Reason = Callable[..., Result]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--workers", "0"), "--workers must be at least 1, got 0"),
        (("--worker-cpus", "2"), "give --workers or --ray-address, too"),
        (("--workers", "2", "--device", "cuda:1"), "give --device cuda, not cuda:1"),
        (("--workers", "2", "--worker-cpus", "1.5"), "a whole number of cpus or a fraction of one, got 1.5"),
        (("--workers", "2", "--worker-cpus", "0"), "a worker needs a share"),
        (("--ray-address", "ray://head:10001"), "run this on one of its machines"),
        (("--workers", "2", "--verifier", "logprob"), "it takes no workers"),
    ],
)
def test_what_is_refused(
    cluster: Any, reason: Reason, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    file = tmp_path / "sums.jsonl"
    file.write_text('{"question": "1 + 1 ?", "answer": "2"}\n', encoding="utf-8")
    result = reason("eval", str(file), "--out", str(tmp_path / "out"), *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert not (tmp_path / "out" / "config.json").exists()


def test_without_ray_it_says_what_to_install(reason: Reason, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    file = tmp_path / "sums.jsonl"
    file.write_text('{"question": "1 + 1 ?", "answer": "2"}\n', encoding="utf-8")
    result = reason("eval", str(file), "--out", str(tmp_path / "out"), "--workers", "2")
    assert result.exit_code == 2
    assert "pip install 'reason-toolkit[cluster]'" in result.stderr


def test_nobody_asks_for_workers() -> None:
    assert crew_of(None, None, None, None, device="cuda:1") is None


def test_the_results_are_those_of_one_process(cluster: Any, reason: Reason, tiny_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "sums.jsonl"
    rows = [{"question": f"{i} + {i} ?", "answer": str(2 * i)} for i in range(6)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    fixed: tuple[str, ...] = (
        "eval",
        str(file),
        "-m",
        str(tiny_model),
        "--dtype",
        "float32",
        "--kv-tokens",
        "4096",
        "--json",
    )
    fixed += ("-S", "num_samples=3", "-S", "max_tokens=24", "--seed", "7", "--threads", "1", "--log-samples")
    one = reason(*fixed, "--out", str(tmp_path / "one"))
    many = reason(*fixed, "--out", str(tmp_path / "many"), "--workers", "2", "--worker-cpus", "1")
    assert (one.exit_code, many.exit_code) == (0, 0), one.stderr + many.stderr

    def texts(out: str) -> dict[str, Any]:
        return {line["id"]: line for line in lines(tmp_path / out / "samples.jsonl")}

    assert texts("many") == texts("one")
    assert len(lines(tmp_path / "many" / "results.jsonl")) == 6
    there, here = (json.loads((tmp_path / out / "config.json").read_text()) for out in ("many", "one"))
    assert there["environment"].pop("workers") == 2
    assert there == here  # so either goes on where the other ended
