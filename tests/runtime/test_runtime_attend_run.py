"""The compiled attention, over one run and over keys of each row's own, against softmax in float32."""

from __future__ import annotations

import pytest
import torch

from reason.runtime.native.kernels import Kernels, make_kernels

SLOTS = 700


@pytest.fixture(scope="module", params=["all", "without-amx"])
def kernels(request: pytest.FixtureRequest) -> Kernels:
    found = make_kernels(amx=request.param == "all")
    if found is None:
        pytest.skip("this machine has no compiled kernels")
    return found


def reference(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, visible: torch.Tensor | None, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """query [rows, heads, dim], key and value [keys, kv_heads, dim]; out [rows, heads, dim] and lse [rows, heads]."""
    groups = query.shape[1] // key.shape[1]
    key, value = (each.float().repeat_interleave(groups, dim=1) for each in (key, value))
    scores = torch.einsum("rhd,khd->rhk", query.float(), key) * scale
    if visible is not None:
        hidden = torch.arange(key.shape[0])[None] >= visible[:, None]
        scores = scores.masked_fill(hidden[:, None], -torch.inf)
    return torch.einsum("rhk,khd->rhd", scores.softmax(dim=-1), value), scores.logsumexp(dim=-1)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("kv_heads", "groups", "dim"), [(2, 7, 64), (2, 6, 128), (3, 3, 64), (1, 1, 256), (1, 16, 64)])
@pytest.mark.parametrize(("rows", "count"), [(1, 1), (5, 3), (33, 64), (40, 95), (130, 257)])
def test_one_run(kernels: Kernels, kv_heads: int, groups: int, dim: int, rows: int, count: int, causal: bool) -> None:
    generator = torch.Generator().manual_seed(rows + count)

    def bf16(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(torch.bfloat16)

    before, after, heads, scale = 2, 3, kv_heads * groups, dim**-0.5
    query = bf16(before + rows + after, heads, dim)
    keys, values = bf16(SLOTS, kv_heads, dim), bf16(SLOTS, kv_heads, dim)
    slots = torch.randperm(SLOTS, generator=generator)[:count]
    visible = torch.randint(1, count + 1, (rows,), generator=generator) if causal else None
    out = torch.full((len(query), heads, dim), 7.0)
    lse = torch.full((len(query), heads), -torch.inf)
    out[before : before + rows] = 0.0
    begin, end = before, before + rows
    kernels.attend_run(query, keys, values, slots, visible, scale, begin, end, out, lse)
    expected, masses = reference(query[begin:end], keys[slots], values[slots], visible, scale)
    torch.testing.assert_close(out[begin:end], expected, atol=0.02, rtol=0.02)
    torch.testing.assert_close(lse[begin:end], masses, atol=2e-3, rtol=1e-3)
    assert bool((out[:begin] == 7.0).all() and (out[end:] == 7.0).all()), "others are left alone"
    # A second run is merged as if both were one.
    more = torch.randperm(SLOTS, generator=generator)[: count + 9]
    kernels.attend_run(query, keys, values, more, None, scale, begin, end, out, lse)
    both = torch.cat([slots, more])
    if visible is not None:
        joined = [torch.cat([slots[: int(seen)], more]) for seen in visible]
        parts = [
            reference(query[begin + i : begin + i + 1], keys[each], values[each], None, scale)
            for i, each in enumerate(joined)
        ]
        expected, masses = (torch.cat(each) for each in zip(*parts, strict=True))
    else:
        expected, masses = reference(query[begin:end], keys[both], values[both], None, scale)
    torch.testing.assert_close(out[begin:end], expected, atol=0.02, rtol=0.02)
    torch.testing.assert_close(lse[begin:end], masses, atol=2e-3, rtol=1e-3)


def test_rows_that_see_nothing_keep_what_they_have(kernels: Kernels) -> None:
    query, keys = torch.ones(3, 2, 64, dtype=torch.bfloat16), torch.ones(40, 1, 64, dtype=torch.bfloat16)
    out, lse = torch.full((3, 2, 64), 5.0), torch.zeros(3, 2)
    visible = torch.tensor([0, 33, 0])
    kernels.attend_run(query, keys, 3 * keys, torch.arange(40), visible, 0.0, 0, 3, out, lse)
    assert bool((out[[0, 2]] == 5.0).all() and (lse[[0, 2]] == 0.0).all())
    torch.testing.assert_close(out[1], torch.full((2, 64), (5.0 + 33 * 3.0) / 34), atol=1e-3, rtol=1e-3)


def test_large_scores(kernels: Kernels) -> None:
    """Sharp rows, far from 0: nothing overflows."""
    generator = torch.Generator().manual_seed(0)
    query = (40 * torch.randn(20, 2, 64, generator=generator)).to(torch.bfloat16)
    keys = (40 * torch.randn(50, 1, 64, generator=generator)).to(torch.bfloat16)
    values = torch.randn(50, 1, 64, generator=generator).to(torch.bfloat16)
    out, lse = torch.zeros(20, 2, 64), torch.full((20, 2), -torch.inf)
    kernels.attend_run(query, keys, values, torch.arange(50), None, 1.0, 0, 20, out, lse)
    expected, masses = reference(query, keys, values, None, 1.0)
    torch.testing.assert_close(out, expected, atol=0.02, rtol=0.02)
    torch.testing.assert_close(lse, masses, rtol=1e-3, atol=1.0)


@pytest.mark.parametrize(("kv_heads", "groups", "dim"), [(2, 7, 64), (2, 6, 128), (1, 1, 256), (1, 16, 64)])
def test_keys_of_their_own_are_merged(kernels: Kernels, kv_heads: int, groups: int, dim: int) -> None:
    """Into rows that have nothing yet, whatever stands there, and then as if both parts were one."""
    generator = torch.Generator().manual_seed(groups)

    def bf16(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(torch.bfloat16)

    heads, scale = kv_heads * groups, dim**-0.5
    query, keys, values = bf16(9, heads, dim), bf16(SLOTS, kv_heads, dim), bf16(SLOTS, kv_heads, dim)
    lengths = torch.tensor([1, 17, 64, 33])
    slots = torch.stack([torch.randperm(SLOTS, generator=generator)[:64] for _ in lengths])
    rows = torch.tensor([7, 0, 3, 8])
    out = torch.full((9, heads, dim), torch.nan)
    lse = torch.full((9, heads), -torch.inf)
    told, masses = kernels.attend(query, keys, values, slots, lengths, scale, rows, (out, lse))
    assert told is out
    assert masses is lse
    alone, alone_lse = kernels.attend(query, keys, values, slots, lengths, scale, rows)
    torch.testing.assert_close(out[rows], alone.float(), atol=0.02, rtol=0.02)
    torch.testing.assert_close(lse[rows], alone_lse)
    others = [row for row in range(9) if row not in rows.tolist()]
    assert bool(out[others].isnan().all() and (lse[others] == -torch.inf).all()), "others are left alone"
    more = torch.randperm(SLOTS, generator=generator)[None, :21].expand(4, -1).contiguous()
    kernels.attend(query, keys, values, more, torch.full((4,), 21), scale, rows, (out, lse))
    for i, row in enumerate(rows.tolist()):
        both = torch.cat([slots[i, : int(lengths[i])], more[i]])
        expected, mass = reference(query[row : row + 1], keys[both], values[both], None, scale)
        torch.testing.assert_close(out[row : row + 1], expected, atol=0.02, rtol=0.02)
        torch.testing.assert_close(lse[row : row + 1], mass, atol=2e-3, rtol=1e-3)
