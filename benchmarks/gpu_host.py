"""What an iteration of the engine costs the host, and how much of it the device has to wait for."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any, cast

import torch
from gpu_bench import FULL, Bench, Table

from reason.engine.codec import HubCodec
from reason.engine.jobs import GenerateJob
from reason.engine.loop import EngineLoop
from reason.runtime.device_laws import Laws
from reason.runtime.runner import ModelRunner
from reason.runtime.sampler import Draw
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
    """Medians of iterations in which branches of one prompt decode, drawn and verified on the device. *exposed* is the
    time in which the device has nothing to do, *draws* what drawing takes on it."""
    name, settings = next(iter(bench.scale.models.items()))
    prompt, steps = bench.sized(2048), 32 if bench.scale is FULL else 3
    widths = sorted({bench.sized(n) for n in (16, 64, 256)})
    slots = prompt + widths[-1] * (steps + SETTLING + 8) + 64
    runner = ModelRunner(bench.model(settings, bench.scale.dtype), num_slots=slots)
    table: Table = []
    for count in widths:
        loop = EngineLoop(runner, cast(HubCodec, Silent()), draws_on_device=True)
        submit(loop, count, prompt, steps + SETTLING + 4)
        seconds: list[float] = []
        exposed: list[float] = []
        for step in range(steps + SETTLING):
            before, began = loop.stats.exposed_seconds, time.perf_counter()
            loop.step()
            if step >= SETTLING:
                seconds.append(time.perf_counter() - began)
                exposed.append(loop.stats.exposed_seconds - before)
        for job in loop.running_jobs():
            loop.cancel(job)
        runner.forest.clear()
        row: dict[str, Any] = {"model": name, "branches": count, "ms": 1e3 * statistics.median(seconds)}
        row |= {"exposed ms": 1e3 * statistics.median(exposed), "draws ms": 1e3 * draw_seconds(bench, runner, count)}
        table.append(row)
    runner.release()
    return table


def submit(loop: EngineLoop, count: int, prompt: int, max_tokens: int) -> None:
    """Requests that go on from one prompt."""
    prefix = tuple((7 * k) % loop.runner.vocab_size for k in range(prompt))
    done: list[Completion] = []
    for key in range(count):
        request = Request(prefix=prefix, key=key, sampling=SAMPLING, max_tokens=max_tokens, ignore_eos=True)
        loop.submit(GenerateJob(request, key, done.append))


@torch.inference_mode()
def draw_seconds(bench: Bench, runner: ModelRunner, count: int) -> float:
    """Of one draw from each row."""
    logits = bench.random(count, runner.vocab_size)
    draws = [Draw(row, 0, row, 0, SAMPLING) for row in range(count)]
    return bench.seconds(lambda: Laws(logits, draws).draw())
