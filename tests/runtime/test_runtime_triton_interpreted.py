"""Runs ``test_runtime_triton`` in Triton's interpreter, in a process of its own: Triton must be imported with
``TRITON_INTERPRET`` set, and no other test may meet interpreted kernels. And compiles the kernels for a GPU that
need not be there."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from reason.runtime.gpu.kernels import AttentionShape, GpuKernels

ROOT = Path(__file__).parents[2]
HOPPER_SHARED_BYTES = 227 * 1024


@pytest.mark.timeout(900)
def test_the_kernels_in_the_interpreter() -> None:
    pytest.importorskip("triton")
    tests = Path(__file__).with_name("test_runtime_triton.py")
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout=800", "-m", "not gpu", str(tests)],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=880,
    )
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    assert "skipped" not in result.stdout.splitlines()[-1]


ROWS = {"SIZE": 1536, "BLOCK": 2048}
TABLES = {"CONTEXT": 4, "LONGEST": 4, "ORDERS": 3, "WAYS": 8, "TOP": 10, "BLOCK": 16, "LEVELS": 6, "WIDTH": 4}
ROTATING = {"DIM": 128, "BLOCK_HALF": 64, "BLOCK_H": 8, "NORMED": True}
SMALL_KERNELS = {
    "attention_kernels.merge_parts": (
        {"part_out": "*fp32", "part_lse": "*fp32", "part_begins": "*i32", "parts": "*i32", "out": "*bf16"},
        {"kv_heads": "i32"},
        {"GROUPS": 7, "BLOCK_G": 8, "DIM": 128, "BLOCK_D": 128},
    ),
    "rotate_kernels.rotate_and_write": (
        dict.fromkeys(("qkv", "cos", "sin", "q_norm", "k_norm", "query", "keys", "values"), "*bf16")
        | {"positions": "*i32", "write_slots": "*i32"},
        {"eps": "fp32", "heads": "i32", "kv_heads": "i32"},
        ROTATING,
    ),
    "row_kernels.rms_norm": ({"x": "*bf16", "weight": "*bf16", "out": "*bf16"}, {"eps": "fp32"}, ROWS),
    "row_kernels.silu_mul": ({"x": "*bf16", "out": "*bf16"}, {}, ROWS),
    "table_kernels.look_ahead": (
        dict.fromkeys(("contexts", "factors", "keys"), "*i64")
        | dict.fromkeys(("tokens", "said", "chosen"), "*i32")
        | dict.fromkeys(("probabilities", "likely"), "*fp32"),
        {"buckets": "i32"},
        TABLES | {"HASHED": True},
    ),
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", SMALL_KERNELS)
def test_the_other_kernels_compile_for_hopper(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    triton = pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")
    from triton.backends.compiler import GPUTarget

    pointers, numbers, constants = SMALL_KERNELS[name]
    module, _, function = name.partition(".")
    kernel = getattr(importlib.import_module(f"reason.runtime.gpu.{module}"), function)
    names = kernel.arg_names
    types = pointers | numbers
    source = triton.compiler.ASTSource(
        fn=kernel,
        signature={argument: types.get(argument, "constexpr") for argument in names},
        constexprs={(names.index(constant),): value for constant, value in constants.items()},
        attrs={(names.index(pointer),): [["tt.divisibility", 16]] for pointer in pointers},
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4})
    assert compiled.asm["cubin"]
    assert compiled.metadata.shared <= HOPPER_SHARED_BYTES


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("head_dim", "dtype"), [(128, torch.bfloat16), pytest.param(256, torch.float32, marks=pytest.mark.slow)]
)
def test_the_kernels_compile_for_hopper(
    head_dim: int, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To machine code, by the assembler that comes with Triton, within a multiprocessor's shared memory."""
    triton = pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")  # Triton 3.9 warns where it is not chosen
    from triton.backends.compiler import GPUTarget

    from reason.runtime.gpu.attention_kernels import attend_items

    kernels = GpuKernels.choose(AttentionShape(32, 8, head_dim, dtype), torch.device("cpu"))
    of_model = {torch.bfloat16: "*bf16", torch.float32: "*fp32"}[dtype]
    pointers = dict.fromkeys(("query", "keys", "values"), of_model)
    pointers |= dict.fromkeys(("items", "slots", "key_positions", "row_positions"), "*i32")
    pointers |= {"out": "*fp32", "lse": "*fp32"}
    types = pointers | {"first_item": "i32", "scale": "fp32", "window": "i32", "kv_heads": "i32"}
    constants = {"GROUPS": 4, "DIM": head_dim, "BLOCK_D": head_dim, "PRECISION": "ieee", "WIDEN": False}
    for tile, windowed in ((kernels.narrow, False), (kernels.wide, True)):
        chosen = constants | {"BLOCK_M": tile.lanes, "BLOCK_N": tile.keys, "WINDOWED": windowed}
        names = attend_items.arg_names
        source = triton.compiler.ASTSource(
            fn=attend_items,
            signature={name: types.get(name, "constexpr") for name in names},
            constexprs={(names.index(name),): value for name, value in chosen.items()},
            attrs={(names.index(name),): [["tt.divisibility", 16]] for name in pointers},
        )
        options = {"num_warps": tile.warps, "num_stages": tile.stages}
        compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
        assert compiled.asm["cubin"]
        assert 0 < compiled.metadata.shared <= HOPPER_SHARED_BYTES
