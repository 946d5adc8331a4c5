"""The hidden states that a value head learns from, computed once and kept in a folder: a file for each problem."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import TYPE_CHECKING

from reason.errors import ReasonError
from reason.training.value.rollouts import Place, Rollout, places
from reason.types import Engine

if TYPE_CHECKING:
    import torch

__all__ = ["States", "collect", "load"]


@dataclass(frozen=True, eq=False)
class States:
    """The states of one layer. Rows of one rollout are consecutive and in order.

    Args:
        states: [rows, size] float32.
        rollout: [rows], which of the rollouts.
        kind: [rows], see ``Kind``.
        token: [rows], which of the rollout's tokens was drawn from it.
        correct: [rollouts] of 0 and 1.
        problem: [rollouts], a number for each problem.
        answer_class: [rollouts]; -1 where it says no answer.
    """

    states: torch.Tensor
    rollout: torch.Tensor
    kind: torch.Tensor
    token: torch.Tensor
    correct: torch.Tensor
    problem: torch.Tensor
    answer_class: torch.Tensor

    def of_problems(self, wanted: Iterable[int]) -> States:
        """The part that belongs to some problems. Rollouts and problems are numbered anew."""
        import torch

        kept = torch.isin(self.problem, torch.tensor(sorted(wanted)))
        rows = kept[self.rollout]
        number = torch.cumsum(kept, 0) - 1
        return States(
            self.states[rows],
            number[self.rollout[rows]],
            self.kind[rows],
            self.token[rows],
            self.correct[kept],
            torch.unique(self.problem[kept], return_inverse=True)[1],
            self.answer_class[kept],
        )


async def collect(
    engine: Engine,
    rollouts: Sequence[Rollout],
    folder: FilePath,
    layers: Sequence[int],
    *,
    delimiter: str = "\n\n",
    every: int = 32,
    concurrency: int = 8,
    on_problem: Callable[[int, int], None] | None = None,
) -> None:
    """Computes what is not in the folder yet. A problem's file has the states of all ``layers``, in bfloat16.

    Args:
        every: see ``places``.
        concurrency: problems under way at once.
        on_problem: told how many of how many problems are done.

    Raises:
        ReasonError: the folder cannot be written.
    """
    by_problem = _by_problem(rollouts)
    keys = {name: _key(own, delimiter, every) for name, own in by_problem.items()}
    left = [name for name in by_problem if not _has(folder / f"{name}.safetensors", layers, keys[name])]
    room = asyncio.Semaphore(concurrency)
    done = len(by_problem) - len(left)

    async def one(name: str) -> None:
        nonlocal done
        async with room:
            found = [places(engine.codec, each, delimiter, every=every) for each in by_problem[name]]
            states = await asyncio.gather(
                *(_states(engine, each, at, layers) for each, at in zip(by_problem[name], found, strict=True))
            )
            _write(folder / f"{name}.safetensors", layers, states, found, keys[name])
        done += 1
        if on_problem is not None:
            on_problem(done, len(by_problem))

    tasks = [asyncio.ensure_future(one(name)) for name in left]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def load(rollouts: Sequence[Rollout], folder: FilePath, layer: int) -> States:
    """The states of one layer that ``collect`` wrote, of the rollouts that it was given."""
    import torch
    from safetensors import safe_open

    parts: dict[str, list[torch.Tensor]] = {name: [] for name in ("states", "rollout", "kind", "token")}
    by_problem = _by_problem(rollouts)
    before = 0
    for name, own in by_problem.items():
        with safe_open(folder / f"{name}.safetensors", framework="pt") as file:
            parts["states"].append(file.get_tensor(f"layer.{layer}").float())
            parts["rollout"].append(file.get_tensor("rollout") + before)
            parts["kind"].append(file.get_tensor("kind"))
            parts["token"].append(file.get_tensor("token"))
        before += len(own)
    ordered = [each for own in by_problem.values() for each in own]
    problems = {name: number for number, name in enumerate(by_problem)}
    classes = [-1 if each.answer_class is None else each.answer_class for each in ordered]
    return States(
        **{name: torch.cat(tensors) for name, tensors in parts.items()},
        correct=torch.tensor([float(each.correct) for each in ordered]),
        problem=torch.tensor([problems[each.problem] for each in ordered]),
        answer_class=torch.tensor(classes),
    )


def _by_problem(rollouts: Sequence[Rollout]) -> Mapping[str, list[Rollout]]:
    found: dict[str, list[Rollout]] = {}
    for rollout in rollouts:
        found.setdefault(rollout.problem, []).append(rollout)
    return found


async def _states(
    engine: Engine, rollout: Rollout, at: Sequence[Place], layers: Sequence[int]
) -> dict[int, torch.Tensor]:
    """For each layer the states at some places, [places, size]."""
    path = rollout.prompt + rollout.tokens[:-1]
    start = len(rollout.prompt) - 1  # the first token was drawn from the prompt's last
    (scored,) = await engine.score([path], start, logprobs=False, layers=layers, owner="states")
    tokens = [place.token for place in at]
    return {layer: scored.hidden[layer][tokens] for layer in layers}


def _key(rollouts: Sequence[Rollout], delimiter: str, every: int) -> str:
    """What the states of a problem depend on, the model and the layers aside."""
    told = json.dumps([[rollout.prompt, rollout.tokens] for rollout in rollouts] + [delimiter, every])
    return hashlib.sha256(told.encode()).hexdigest()


def _write(
    file: FilePath,
    layers: Sequence[int],
    states: Sequence[Mapping[int, torch.Tensor]],
    at: Sequence[Sequence[Place]],
    key: str,
) -> None:
    import torch
    from safetensors.torch import save

    tensors = {f"layer.{layer}": torch.cat([each[layer] for each in states]).to(torch.bfloat16) for layer in layers}
    tensors["rollout"] = torch.tensor([number for number, own in enumerate(at) for _ in own])
    tensors["kind"] = torch.tensor([place.kind for own in at for place in own])
    tensors["token"] = torch.tensor([place.token for own in at for place in own])
    partial = file.with_suffix(".part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(save(tensors, {"key": key}))
        partial.replace(file)
    except OSError as error:
        raise ReasonError(f"cannot write {file}: {error.strerror or error}") from error


def _has(file: FilePath, layers: Sequence[int], key: str) -> bool:
    """Whether a file is there, is of this key and has these layers."""
    from safetensors import SafetensorError, safe_open

    if not file.exists():
        return False
    try:
        with safe_open(file, framework="pt") as opened:
            there = set(opened.keys())
            return (opened.metadata() or {}).get("key") == key and {f"layer.{layer}" for layer in layers} <= there
    except SafetensorError:
        return False
