"""The Triton kernels against torch: compiled where there is CUDA, elsewhere in Triton's interpreter, where
``test_runtime_triton_interpreted`` runs this file in a process of its own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from reason.runtime import backbone
from reason.runtime.attention.forest import forest_attention
from reason.runtime.attention.plan import Row, plan_rows
from reason.runtime.captured import CapturedForwards
from reason.runtime.forest import KVForest
from reason.runtime.gpu import GpuKernels, gpu_kernels_for
from reason.runtime.gpu.kernels import interpreting
from reason.runtime.gpu.work import upload
from reason.runtime.runner import ModelRunner
from reason.speculate import tables
from reason.speculate.draft import CONTEXT, TOP
from reason.speculate.sources.token_recycling import TokenRecycling
from tests.runtime.forests import SLOTS, Pool, compute, random_rows

pytest.importorskip("triton")

MakeModel = Callable[..., Any]
TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
SHAPES = [
    # query heads to a key head, head size, dtype
    (1, 64, torch.float32),
    (1, 256, torch.float16),
    (2, 80, torch.bfloat16),
    (6, 96, torch.float32),
    (7, 64, torch.bfloat16),
    (7, 128, torch.float32),
    (8, 128, torch.bfloat16),
    (8, 192, torch.float16),
    (16, 64, torch.float32),
]


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    if request.param == "cuda" and interpreting() and torch.version.cuda is not None:
        pytest.skip("this process interprets kernels")
    if request.param == "cpu" and not interpreting():
        pytest.skip("TRITON_INTERPRET is not set")
    return torch.device(request.param)


@pytest.fixture(autouse=True)
def _exact_products() -> Iterator[None]:
    """What is compared with does not round to TF32."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


def few_rows(seed: int, *, most: int = 16) -> list[Row]:
    """Some rows of a random forest: the interpreter takes milliseconds for each of them."""
    return random_rows(seed, prefix=40)[:most]


def kernels_of(pool: Pool, split_keys: int | None = None) -> GpuKernels:
    _, kv_heads, head_dim = pool.keys.shape
    kernels = gpu_kernels_for(pool.keys.device, pool.keys.dtype, kv_heads * pool.groups, kv_heads, head_dim)
    assert kernels is not None, "no kernels where there should be some"
    return replace(kernels, split_keys=split_keys)


@pytest.mark.parametrize(("groups", "head_dim", "dtype"), SHAPES)
def test_every_shape_is_dense_attention(groups: int, head_dim: int, dtype: torch.dtype, device: torch.device) -> None:
    pool = Pool.random(groups, groups=groups, kv_heads=1 + groups % 2, head_dim=head_dim, dtype=dtype, device=device)
    for seed, window in ((1, None), (2, 17)):
        batch = plan_rows(few_rows(seed), min_saved_tokens=30)
        attend = kernels_of(pool, split_keys=24).attend
        assert pool.error(batch, window, attend=attend) < TOLERANCE[dtype], f"seed {seed}, window {window}"


@pytest.mark.parametrize(("min_saved_tokens", "split_keys"), [(0, 3), (0, None), (5, 8), (1000, 5)])
@pytest.mark.parametrize("window", [None, 3])
def test_every_way_of_cutting_is_dense_attention(
    window: int | None, min_saved_tokens: int, split_keys: int | None, device: torch.device
) -> None:
    pool = Pool.random(0, groups=3, device=device)
    batch = plan_rows(few_rows(3, most=8), min_saved_tokens=min_saved_tokens)
    assert pool.error(batch, window, attend=kernels_of(pool, split_keys).attend) < 1e-4


def test_forest_attention_takes_the_kernels_by_itself(device: torch.device) -> None:
    pool = Pool.random(0, device=device)
    batch = plan_rows(few_rows(4), device)
    assert pool.error(batch, attend=forest_attention) < 1e-4
    assert batch.plan.kernels is not None
    assert batch.plan.on_device is not None


def test_a_group_that_the_window_hides_counts_for_nothing(device: torch.device) -> None:
    forest = KVForest(SLOTS)
    shared = forest.open(list(range(60)))
    compute(forest)
    branches = [forest.fork(shared) for _ in range(3)]
    for i, branch in enumerate(branches):
        for _ in range(9):
            forest.append(branch, 200 + i)
    compute(forest)
    batch = plan_rows([Row(branch.node, branch.offset - 1) for branch in branches], min_saved_tokens=0)
    pool = Pool.random(0, device=device)
    assert pool.error(batch, window=5, attend=kernels_of(pool).attend) < 1e-4


def test_draft_trees_beneath_several_branches(device: torch.device) -> None:
    """Each branch has a tree of claims of its own; rows see the claims above them and none beside."""
    forest = KVForest(SLOTS)
    cursors = []
    for i in range(3):
        branch = forest.open([*range(20), 50 + i])
        compute(forest)
        first, second = forest.claim(branch, 60), forest.claim(branch, 61)
        deep = [forest.claim(first, 70), forest.claim(first, 71), forest.claim(second, 72)]
        cursors += [branch, first, second, *deep]
    batch = plan_rows([Row(cursor.node, cursor.offset - 1) for cursor in cursors], min_saved_tokens=8)
    pool = Pool.random(0, groups=7, device=device)
    assert pool.error(batch, attend=kernels_of(pool).attend) < 1e-4


def test_padding_changes_no_bit(device: torch.device) -> None:
    pool = Pool.random(0, device=device)
    kernels = kernels_of(pool)
    batch = plan_rows(few_rows(5), min_saved_tokens=20)
    rows, work = len(batch.rows), kernels.work(batch.plan)
    query = pool.query(rows + 3)
    exact = kernels.attend_work(query[:rows], pool.keys, pool.values, upload(batch, work, device), 0.3)
    capacity = type(work.size)(*(n + 3 for n in work.size))
    padded = kernels.attend_work(query, pool.keys, pool.values, upload(batch, work, device, capacity), 0.3)
    assert torch.equal(padded[:rows], exact)
    assert not padded[rows:].any()


@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "dtype"),
    [(4, 2, 8, torch.float32), (7, 1, 80, torch.float32), (14, 2, 64, torch.bfloat16), (4, 4, 128, torch.float16)],
)
def test_rotating_and_writing(
    heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype, normed: bool, device: torch.device
) -> None:
    """Against the same in float32: rows out of order, one that goes to the scratch slot; other slots stay."""
    kernels = gpu_kernels_for(device, dtype, heads, kv_heads, head_dim)
    assert kernels is not None
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(device=device, dtype=dtype)

    rows, all_heads = 5, heads + 2 * kv_heads
    qkv, cos, sin = random(rows, all_heads * head_dim), random(9, 1, head_dim), random(9, 1, head_dim)
    norms = (random(head_dim), random(head_dim)) if normed else None
    keys, values = random(12, kv_heads, head_dim), random(12, kv_heads, head_dim)
    old_keys, old_values = keys.clone(), values.clone()
    positions = torch.tensor([8, 0, 3, 3, 5], device=device, dtype=torch.int32)
    slots = torch.tensor([7, 2, 0, 11, 1], device=device, dtype=torch.int32)
    query = kernels.rotate_and_write(qkv, cos, sin, positions, slots, keys, values, norms, 1e-6)

    parts = qkv.view(rows, all_heads, head_dim).float()
    rotating, value = parts[:, : heads + kv_heads], parts[:, heads + kv_heads :]
    if norms is not None:
        weights = [norms[0].float()] * heads + [norms[1].float()] * kv_heads
        rotating = F.rms_norm(rotating, (head_dim,), eps=1e-6) * torch.stack(weights)
    at, to = positions.long(), slots.long()
    turned = rotating * cos.float()[at] + rotating.roll(head_dim // 2, -1) * sin.float()[at]
    near = TOLERANCE[dtype]
    torch.testing.assert_close(query.float(), turned[:, :heads], atol=near, rtol=near)
    torch.testing.assert_close(keys[to].float(), turned[:, heads:], atol=near, rtol=near)
    assert torch.equal(values[to].float(), value)
    others = [slot for slot in range(12) if slot not in slots.tolist()]
    assert torch.equal(keys[others], old_keys[others])
    assert torch.equal(values[others], old_values[others])


@pytest.mark.parametrize("kind", ["stand", "token-recycling"])
def test_tables_are_read_as_torch_reads_them(kind: str, device: torch.device) -> None:
    """Full and empty ones, contexts that are young, places that are none."""
    assert tables._trusted(device)
    generator = torch.Generator().manual_seed(1)

    def random(low: int, high: int, *shape: int) -> torch.Tensor:
        return torch.randint(low, high, shape, generator=generator).to(device)

    table: tables.Table = tables.StandTable(device, (4, 3, 2), 400)
    if kind == "token-recycling":
        table = tables.RecyclingTable(device, 30, TokenRecycling.ranks)
    said = 0
    for _ in range(4):
        ends = random(-1, 6, 9, CONTEXT)
        got, wanted = tables._launched(table.arrays(), ends), tables._looked_up(table, ends)
        assert torch.equal(got[0], wanted[0])
        assert torch.equal(got[2], wanted[2])
        there = got[0] >= 0
        torch.testing.assert_close(got[1][there], wanted[1][there])
        said = int(there[:, 1:].sum())
        tokens = torch.stack([torch.randperm(12, generator=generator)[:TOP] for _ in range(40)]).to(device)
        probabilities = torch.rand((40, TOP), generator=generator).to(device)
        probabilities[::3, 4:] = 0.0
        table.observe(random(-1, 6, 40, CONTEXT), tokens, probabilities, random(0, 2, 40) > 0)
    assert said > 200


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [1, 48, 896, 1100])
def test_norms_and_gates(size: int, dtype: torch.dtype, device: torch.device) -> None:
    """Against float32; a row of zeros stays one, and large values are no infinity."""
    kernels = gpu_kernels_for(device, dtype, 4, 2, 8)
    assert kernels is not None
    generator = torch.Generator().manual_seed(size)
    x, weight = (torch.randn(s, generator=generator).to(device, dtype) for s in ((5, 2 * size), (2 * size,)))
    x[1], x[2] = 0.0, x[2] * 20.0
    near = TOLERANCE[dtype]
    normed = F.rms_norm(x.float(), (2 * size,), weight.float(), 1e-6)
    torch.testing.assert_close(kernels.rms_norm(x, weight, 1e-6).float(), normed, atol=near, rtol=near)
    gate, up = x.float().chunk(2, dim=1)
    torch.testing.assert_close(kernels.silu_mul(x).float(), F.silu(gate) * up, atol=near, rtol=near)


@pytest.mark.parametrize(
    ("model_type", "kind", "changes"),
    [
        ("llama", "fused", {}),
        ("mistral", "fused", {"sliding_window": 5}),
        ("qwen3", "fused", {"head_dim": 16}),
        ("qwen2", "hub", {}),
    ],
)
def test_a_model_equals_its_eager_forward(
    model_type: str,
    kind: str,
    changes: dict[str, Any],
    make_model: MakeModel,
    device: torch.device,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Prefill, then branches that part; on CUDA the later steps are replays of graphs."""
    if kind == "hub":
        monkeypatch.setattr(backbone, "_LLAMA_FAMILY", frozenset())
    model = make_model(model_type, **changes).to(device)
    reference = copy.deepcopy(model)
    runner = ModelRunner(model, num_slots=128)
    assert runner.gpu is not None
    assert (runner.captured is not None) is (device.type == "cuda" and kind == "fused")
    paths = [[*range(3, 15), 30 + i] for i in range(3)]
    branches = [runner.forest.open(path) for path in paths]
    for step in range(4 if device.type == "cuda" else 2):
        logits = runner.forward(branches).logits(branches)
        with torch.no_grad():
            expected = reference(torch.tensor(paths, device=device)).logits[:, -1]
        torch.testing.assert_close(logits, expected, atol=1e-3, rtol=0)
        for i, (branch, path) in enumerate(zip(branches, paths, strict=True)):
            path.append(40 + 7 * step + i)
            runner.forest.append(branch, path[-1])
    runner.forest.check_integrity()
    captured: CapturedForwards | None = runner.captured
    assert captured is None or captured.replays > 0
