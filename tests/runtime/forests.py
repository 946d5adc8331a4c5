"""Random forests, and one layer's keys and values, for tests of attention."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import torch

from reason.runtime.attention.forest import forest_attention
from reason.runtime.attention.plan import Row, RowBatch
from reason.runtime.attention.reference import dense_attention
from reason.runtime.forest import Branch, KVForest

Attend = Callable[..., torch.Tensor]
"""As ``forest_attention``."""

SLOTS = 512
HEAD_DIM = 16


@dataclass
class Pool:
    """One layer's keys and values, and queries for as many rows as asked."""

    keys: torch.Tensor
    values: torch.Tensor
    groups: int
    generator: torch.Generator

    @classmethod
    def random(
        cls,
        seed: int,
        *,
        groups: int = 3,
        kv_heads: int = 2,
        head_dim: int = HEAD_DIM,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Pool:
        generator = torch.Generator().manual_seed(seed)
        keys, values = (
            torch.randn(SLOTS, kv_heads, head_dim, generator=generator).to(device=device, dtype=dtype) for _ in range(2)
        )
        return cls(keys, values, groups, generator)

    def query(self, rows: int) -> torch.Tensor:
        _, kv_heads, head_dim = self.keys.shape
        query = torch.randn(rows, kv_heads * self.groups, head_dim, generator=self.generator)
        return query.to(self.keys)

    def error(self, batch: RowBatch, window: int | None = None, attend: Attend = forest_attention) -> float:
        """The largest difference between the planned attention and the dense one."""
        query = self.query(len(batch.rows))
        ours = attend(query, self.keys, self.values, batch.plan, 0.3, window)
        exact = dense_attention(query.float(), self.keys.float(), self.values.float(), batch.rows, 0.3, window)
        assert ours.shape == query.shape
        assert ours.dtype == query.dtype
        return float((ours.float() - exact).abs().max())


def compute(forest: KVForest) -> None:
    for node in forest.nodes():
        forest.mark_computed(node, len(node))


def random_rows(seed: int, *, prefix: int = 60) -> list[Row]:
    """Rows of a random trie: branches that part at random places of each other's paths, some tokens pending (whole
    pending runs are rows, as in a prefill), some cached rows wanted again."""
    choose = random.Random(seed)
    forest = KVForest(SLOTS)
    paths = [[choose.randrange(9) for _ in range(choose.randrange(1, prefix))]]
    branches: list[Branch] = [forest.open(paths[0])]
    for i in range(choose.randrange(1, 7)):
        if choose.random() < 0.5:
            compute(forest)
        stem = choose.choice(paths)
        path = stem[: choose.randrange(len(stem) + 1)] + [10 + i] * choose.choice([1, 1, 2, 5, 30])
        if forest.available < len(path):
            break
        paths.append(path)
        branches.append(forest.open(path))
    rows = [Row(node, index) for node in forest.nodes() for index in range(node.computed, len(node))]
    rows += [Row(branch.node, branch.offset - 1) for branch in branches if choose.random() < 0.7]
    every = [Row(node, index) for node in forest.nodes() for index in range(len(node))]
    rows += choose.sample(every, min(len(every), choose.randrange(1, 4)))
    choose.shuffle(rows)
    return rows
