"""What an iteration of the engine costs the host, how much of it the device has to wait for, and what is done there."""

from __future__ import annotations

import functools
import itertools
import statistics
import time
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from gpu_bench import FULL, Bench, Table

from reason.engine.codec import HubCodec
from reason.engine.jobs import GenerateJob
from reason.engine.loop import EngineLoop
from reason.runtime.device_laws import Laws
from reason.runtime.runner import ModelRunner
from reason.runtime.sampler import Draw
from reason.speculate.build import make_speculator
from reason.speculate.draft import CONTEXT, TOP, Rows
from reason.speculate.sources.stand import Stand
from reason.speculate.tables import StandTable, look_ahead
from reason.types import Completion, Request, Sampling

SAMPLING = Sampling(temperature=0.8)
SETTLING = 8  # iterations before the first that counts: kernels are compiled, forwards recorded


class Silent:
    """A codec of a model that has no tokenizer."""

    tokenizer = None
    eos_token_ids: frozenset[int] = frozenset()

    def decode(self, tokens: Sequence[int]) -> str:
        return ""


def host(bench: Bench) -> Table:
    """Medians of iterations in which branches of one prompt decode, drawn and verified on the device, with two of
    STAND's drafts a branch and without. *exposed* is the time in which the device has nothing to do, *draws* what
    drawing takes there, its launches included."""
    name, settings = next(iter(bench.scale.models.items()))
    prompt, steps = bench.sized(2048), 32 if bench.scale is FULL else 3
    widths = sorted({bench.sized(n) for n in (16, 64, 256)})
    slots = prompt + widths[-1] * (3 * (steps + SETTLING) + 16) + 64
    runner = ModelRunner(bench.model(settings, bench.scale.dtype), num_slots=slots)
    table: Table = []
    for count, draft in itertools.product(widths, ("none", "stand")):
        speculator = make_speculator(draft, policy="nodes:2")
        loop = EngineLoop(runner, cast(HubCodec, Silent()), speculator=speculator, draws_on_device=True)
        done = submit(loop, count, prompt, 3 * (steps + SETTLING) + 4)
        seconds: list[float] = []
        exposed: list[float] = []
        for step in range(steps + SETTLING):
            before, began = loop.stats.exposed_seconds, time.perf_counter()
            loop.step()
            if step >= SETTLING:
                seconds.append(time.perf_counter() - began)
                exposed.append(loop.stats.exposed_seconds - before)
        if failed := [completion.error for completion in done if completion.error is not None]:
            raise failed[0]
        for job in loop.running_jobs():
            loop.cancel(job)
        runner.forest.clear()
        row: dict[str, Any] = {"model": name, "branches": count, "draft": draft}
        row["ms"] = 1e3 * statistics.median(seconds)
        row |= {"exposed ms": 1e3 * statistics.median(exposed), "draws ms": 1e3 * draw_seconds(bench, runner, count)}
        table.append(row)
    runner.release()
    return table


def submit(loop: EngineLoop, count: int, prompt: int, max_tokens: int) -> list[Completion]:
    """Requests that go on from one prompt; returns where what ends will be."""
    prefix = tuple((7 * k) % loop.runner.vocab_size for k in range(prompt))
    done: list[Completion] = []
    for key in range(count):
        request = Request(prefix=prefix, key=key, sampling=SAMPLING, max_tokens=max_tokens, ignore_eos=True)
        loop.submit(GenerateJob(request, key, done.append))
    return done


@torch.inference_mode()
def draw_seconds(bench: Bench, runner: ModelRunner, count: int) -> float:
    """Of one draw from each row."""
    logits = bench.random(count, runner.vocab_size)
    draws = [Draw(row, 0, row, 0, SAMPLING) for row in range(count)]
    return bench.seconds(lambda: Laws(logits, draws).draw())


@torch.inference_mode()
def tables(bench: Bench) -> Table:
    """STAND's table of a forward's rows: learning them and looking ahead behind each, on the device (*launching* is the
    host's part of it) and on the host, which looks at the rows' own places alone."""
    table: Table = []
    rng = np.random.default_rng(0)
    capacity = 400_000 if bench.scale is FULL else 1024
    for rows in sorted({bench.sized(n) for n in (64, 256, 512)}):
        on_host = Stand(capacity=capacity)
        on_device = StandTable(bench.device, on_host.orders, capacity)
        contexts = rng.zipf(1.3, (rows, CONTEXT)) % 50_000
        tokens = rng.integers(0, 50_000, (rows, TOP))
        probabilities = np.sort(rng.dirichlet(np.ones(TOP), rows), axis=1)[:, ::-1].copy()
        at, likeliest, likely = (torch.from_numpy(n).to(bench.device) for n in (contexts, tokens, probabilities))
        counted = torch.ones(rows, dtype=torch.bool, device=bench.device)
        launch = functools.partial(learn_and_look, on_device, at, likeliest, likely, counted)
        device = bench.seconds(launch, inner=5 if bench.scale is FULL else 1)
        bench.synchronize()
        began = time.perf_counter()
        launch()
        launching = time.perf_counter() - began
        states = [tuple(context) for context in contexts.tolist()]
        began = time.perf_counter()
        on_host.observe(Rows(contexts, tokens, probabilities))
        for state in states:
            on_host.distribution(state)
        host_seconds = time.perf_counter() - began
        row = {"rows": rows, "device ms": 1e3 * device, "launching ms": 1e3 * launching, "host ms": 1e3 * host_seconds}
        table.append(row)
    return table


def learn_and_look(
    table: StandTable, at: torch.Tensor, tokens: torch.Tensor, probabilities: torch.Tensor, counted: torch.Tensor
) -> list[torch.Tensor]:
    table.observe(at, tokens, probabilities, counted)
    return look_ahead(table, at)
