"""The pretended CUDA device keeps to a device's rules, and what runs on a GPU runs on it: in processes of their own,
because a process that has it keeps it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import pretended_cuda

ROOT = Path(__file__).parents[1]

elsewhere = torch.version.cuda is not None or pretended_cuda.installed() or shutil.which("g++") is None
pretends = pytest.mark.skipif(elsewhere, reason="CUDA is here, or no compiler")
inside = pytest.mark.skipif(not pretended_cuda.installed(), reason="for a process that pretends")


def run(*arguments: str, **environment: str) -> tuple[str, str]:
    """What a Python process says and complains of; it must succeed."""
    result = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=880,
    )
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-4000:]
    return result.stdout, result.stderr


PYTEST = ("pytest", "-q", "-p", "tests.pretended_cuda", "-p", "no:cacheprovider", "--timeout=600")


@pretends
@pytest.mark.timeout(300)
def test_it_keeps_to_the_rules() -> None:
    pytest.importorskip("triton")
    said, _ = run(*PYTEST, __file__, TRITON_INTERPRET="1")
    assert "11 passed, 3 skipped" in said.splitlines()[-1]  # all but those that begin processes


@pretends
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_engine_on_it() -> None:
    """Whole requests, by torch's operations: tokens and drafts, log-probabilities, states, scores."""
    tests = (
        "hidden.py",
        "score.py",
        "on_device.py::test_all_kinds_of_requests_beside_each_other",
        "on_device.py::test_every_rule_gives_the_hosts_tokens",
    )
    paths = [f"tests/engine/test_engine_{test}" for test in tests]
    said, _ = run(*PYTEST, *paths, REASON_TEST_DEVICE="cuda", REASON_TRITON="0")
    assert "passed" in said.splitlines()[-1]
    assert "skipped" not in said.splitlines()[-1]


@pretends
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kernels_and_recorded_forwards_on_it(tmp_path: Path) -> None:
    """The GPU benchmark: interpreted kernels, graphs, draws on the device."""
    pytest.importorskip("triton")
    out = tmp_path / "results"
    parts = ("decode", "host", "exactness")
    command = ("tests.pretended_cuda", "benchmarks/gpu.py", "--quick", "--out", str(out), "--parts", *parts)
    _, complaints = run(*command, TRITON_INTERPRET="1")
    assert "cannot be recorded" not in complaints
    assert "going on with torch" not in complaints
    tables = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))["tables"]
    assert all(row["replays"] > 0 for row in tables["decode"])
    assert all(0.0 < row["exposed ms"] < row["ms"] for row in tables["host"])
    for row in tables["exactness"]:
        assert row["paths equal alone and together"] == "3/3"
        assert row["tokens not transformers' first"] == 0


# -- in the process that pretends ----------------------------------------------------------------------------------


@inside
def test_tensors_say_where_they_are() -> None:
    there = torch.arange(4, device="cuda")
    assert there.device == torch.device("cuda:0")
    assert (there * 2).tolist() == [0, 2, 4, 6]
    assert there.cpu().device.type == "cpu"
    assert (there + torch.tensor(1)).sum().item() == 10  # a number may come from the host
    with pytest.raises(TypeError, match="numpy"):
        there.numpy()


@inside
def test_tensors_have_their_shapes() -> None:
    made = (torch.arange(4, device="cuda"), torch.eye(2, device="cuda"), torch.full((2, 3), 1.0, device="cuda"))
    assert [tensor.shape for tensor in made] == [(4,), (2, 2), (2, 3)]
    assert torch.cat([made[0], made[0][1:]]).shape == (7,)
    with pytest.raises(NotImplementedError):
        made[0].unsqueeze_(0)


@inside
def test_devices_do_not_mix() -> None:
    there = torch.ones(4, device="cuda")
    with pytest.raises(RuntimeError, match="same device"):
        there + torch.ones(4)
    with pytest.raises(RuntimeError, match="same device"):  # CUDA copies such an index
        there[torch.tensor([0, 1])]
    with pytest.raises(RuntimeError, match="same device"):
        torch.stack([there[0], torch.tensor(1.0)])


@inside
def test_kernels_take_the_device_s_memory() -> None:
    from reason.runtime.gpu.kernels import launch
    from reason.runtime.gpu.row_kernels import silu_mul

    options = {"SIZE": 16, "BLOCK": 16, "num_warps": 1}
    there, here = torch.randn(1, 32, device="cuda"), torch.empty(1, 16)
    with pytest.raises(ValueError, match="cannot be accessed from Triton"):
        launch(silu_mul, (1, 1), (there, here), (), options)
    out = torch.empty(1, 16, device="cuda")
    launch(silu_mul, (1, 1), (there, out), (), options)
    gate, up = there.cpu().chunk(2, dim=1)
    assert torch.allclose(out.cpu(), torch.nn.functional.silu(gate) * up)


@inside
def test_fresh_memory_is_of_no_use() -> None:
    assert torch.empty(3, device="cuda").isnan().all()
    assert torch.empty(3, dtype=torch.int32, device="cuda").min().item() > 1 << 30


@inside
def test_what_a_copy_brings_is_there_once_it_was_awaited() -> None:
    there = torch.arange(6, device="cuda")
    here = torch.empty(6, dtype=torch.int64, pin_memory=True)
    make_event: Any = torch.cuda.Event
    early, arrived = make_event(), make_event()
    early.record()
    here.copy_(there, non_blocking=True)
    arrived.record()
    there.fill_(0)
    assert here.tolist() != list(range(6))
    early.synchronize()  # recorded before the copy
    assert here.tolist() != list(range(6))
    arrived.synchronize()
    assert here.tolist() == list(range(6))


@inside
def test_what_a_copy_reads_stays_as_it_is() -> None:
    numbers = np.arange(3)
    here = torch.from_numpy(numbers).pin_memory()
    there = here.to("cuda", non_blocking=True)
    here[0] = 7
    with pytest.raises(RuntimeError, match="pinned memory was written to"):
        torch.cuda.synchronize()
    torch.cuda.synchronize()
    assert there.tolist() == [0, 1, 2]


@inside
def test_a_graph_does_again_what_was_recorded() -> None:
    given, total = torch.arange(3.0, device="cuda"), torch.zeros(3, device="cuda")
    pool = torch.cuda.graph_pool_handle()
    first, second = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
    with torch.cuda.graph(first, pool=pool):
        doubled = torch.empty_like(given).copy_(given) * 2
        total += doubled
    with torch.cuda.graph(second, pool=pool):
        halved = given / 2
    assert total.tolist() == [0, 0, 0]  # recording is not doing
    assert doubled.isnan().all()
    given.copy_(torch.full((3,), 5.0))
    first.replay()
    first.replay()
    assert doubled.tolist() == [10, 10, 10]
    assert total.tolist() == [20, 20, 20]
    second.replay()
    assert halved.tolist() == [2.5, 2.5, 2.5]
    assert doubled.isnan().all()  # its memory was the other's


@inside
@pytest.mark.parametrize(
    "waits",
    [
        lambda there: there.sum().item(),
        lambda there: there[there > 0],
        lambda there: there.copy_(torch.ones(4)),
    ],
    ids=["item", "mask", "copy"],
)
def test_waits_are_noticed(waits: Callable[[torch.Tensor], object]) -> None:
    there = torch.ones(4, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        with pytest.raises(RuntimeError, match="synchronizing"):
            waits(there)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    with pytest.raises(RuntimeError, match="capturing"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        waits(there)
