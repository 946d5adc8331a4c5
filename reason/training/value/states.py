"""The hidden states that a value head learns from, computed once and kept in a folder: a file for each problem."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from reason.training.value.rollouts import Place, Rollout, places
from reason.training.writing import write_whole
from reason.types import Engine, Trajectory

if TYPE_CHECKING:
    import torch

__all__ = ["Recorder", "States", "collect", "load"]


@dataclass(frozen=True, eq=False)
class States:
    """The states of one layer. Rows of one rollout are consecutive and in order.

    Args:
        states: [rows, size] float32.
        means: [rows, size], of all the states of the rollout up to each of these.
        rollout: [rows], which of the rollouts.
        kind: [rows], see ``Kind``.
        token: [rows], which of the rollout's tokens was drawn from it.
        correct: [rollouts] of 0 and 1.
        problem: [rollouts], a number for each problem.
        answer_class: [rollouts]; -1 where it says no answer.
    """

    states: torch.Tensor
    means: torch.Tensor
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
            self.means[rows],
            number[self.rollout[rows]],
            self.kind[rows],
            self.token[rows],
            self.correct[kept],
            torch.unique(self.problem[kept], return_inverse=True)[1],
            self.answer_class[kept],
        )


class Recorder:
    """A verifier that keeps the states of solutions while they are written, for ``collect``. Its scores say nothing.

    Args:
        states: the layers.
        folder, delimiter, every: see ``collect``.
    """

    name: ClassVar[str] = "states"
    statistics: ClassVar[bool] = False
    top_logprobs: ClassVar[int | None] = None
    probability: ClassVar[bool] = True

    def __init__(self, states: Sequence[int], folder: FilePath, *, delimiter: str = "\n\n", every: int = 32) -> None:
        self.states = tuple(states)
        self._folder = folder
        self._delimiter = delimiter
        self._every = every

    async def score(self, trajectories: Sequence[Trajectory], engine: Engine, owner: str) -> list[float]:
        for each in trajectories:
            if len(each.steps) == 1 and each.steps[0].states:
                await asyncio.to_thread(self._keep, each, engine)
        return [1.0] * len(trajectories)

    def _keep(self, trajectory: Trajectory, engine: Engine) -> None:
        (step,) = trajectory.steps
        rollout = Rollout(
            problem=trajectory.problem.id,
            prompt=trajectory.prompt,
            tokens=step.tokens,
            answer_class=None,
            correct=False,
        )
        tokens = [place.token for place in places(engine.codec, rollout, self._delimiter, every=self._every)]
        states = {layer: _with_means(step.states[layer], tokens) for layer in self.states}
        _save(self._folder / "parts" / f"{_key(engine, [rollout], self._delimiter, self._every)}.safetensors", states)


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
    """Computes what is not in the folder yet. A problem's file has the states of all ``layers``, and of those
    that it had before: in bfloat16, and their means in float32.

    Args:
        every: see ``places``.
        concurrency: problems under way at once.
        on_problem: told how many of how many problems are done.

    Raises:
        ReasonError: the folder cannot be written.
    """
    by_problem = _by_problem(rollouts)
    keys = {name: _key(engine, own, delimiter, every) for name, own in by_problem.items()}
    files = {name: folder / f"{name}.safetensors" for name in by_problem}
    missing = {name: [each for each in layers if each not in _layers(files[name], keys[name])] for name in by_problem}
    left = [name for name, own in missing.items() if own]
    room = asyncio.Semaphore(concurrency)
    done = len(by_problem) - len(left)

    async def one(name: str) -> None:
        nonlocal done
        async with room:
            found = [places(engine.codec, each, delimiter, every=every) for each in by_problem[name]]
            kept = [
                folder / "parts" / f"{_key(engine, [each], delimiter, every)}.safetensors" for each in by_problem[name]
            ]
            states = await asyncio.gather(
                *(
                    _states(engine, each, at, missing[name], part)
                    for each, at, part in zip(by_problem[name], found, kept, strict=True)
                )
            )
            _write(files[name], missing[name], states, found, keys[name])
            for part in kept:
                part.unlink(missing_ok=True)
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

    parts: dict[str, list[torch.Tensor]] = {name: [] for name in ("states", "means", "rollout", "kind", "token")}
    by_problem = _by_problem(rollouts)
    before = 0
    for name, own in by_problem.items():
        with safe_open(folder / f"{name}.safetensors", framework="pt") as file:
            parts["states"].append(file.get_tensor(f"layer.{layer}").float())
            parts["means"].append(file.get_tensor(f"mean.{layer}").float())
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
    engine: Engine, rollout: Rollout, at: Sequence[Place], layers: Sequence[int], part: FilePath
) -> dict[int, _Kept]:
    """For each layer the states at some places: those that were kept, or else computed."""
    if set(layers) <= _layers(part):
        from safetensors import safe_open

        with safe_open(part, framework="pt") as file:
            return {layer: _kept(file, layer) for layer in layers}
    path = rollout.prompt + rollout.tokens[:-1]
    start = len(rollout.prompt) - 1  # the first token was drawn from the prompt's last
    (scored,) = await engine.score([path], start, logprobs=False, layers=layers, owner="states")
    tokens = [place.token for place in at]
    return {layer: _with_means(scored.hidden[layer], tokens) for layer in layers}


class _Kept(NamedTuple):
    """Of one layer, [places, size] each."""

    states: torch.Tensor
    means: torch.Tensor


def _with_means(states: torch.Tensor, tokens: Sequence[int]) -> _Kept:
    """The states that some of a rollout's tokens were drawn from, and the means up to them, of those of all."""
    import torch

    means = states.float().cumsum(dim=0) / torch.arange(1, len(states) + 1)[:, None]
    return _Kept(states[tokens], means[tokens])


def _kept(file: Any, layer: int) -> _Kept:
    return _Kept(file.get_tensor(f"layer.{layer}"), file.get_tensor(f"mean.{layer}"))


def _key(engine: Engine, rollouts: Sequence[Rollout], delimiter: str, every: int) -> str:
    """What states depend on, their layer aside."""
    told = json.dumps([engine.name, [[rollout.prompt, rollout.tokens] for rollout in rollouts], delimiter, every])
    return hashlib.sha256(told.encode()).hexdigest()


def _write(
    file: FilePath,
    layers: Sequence[int],
    states: Sequence[Mapping[int, _Kept]],
    at: Sequence[Sequence[Place]],
    key: str,
) -> None:
    """A problem's file, with the states of some layers beside those that are in it."""
    import torch
    from safetensors import safe_open

    before = _layers(file, key)
    whole = {layer: _Kept(*map(torch.cat, zip(*(each[layer] for each in states), strict=True))) for layer in layers}
    if before:
        with safe_open(file, framework="pt") as opened:
            whole |= {layer: _kept(opened, layer) for layer in before - set(layers)}
    more = {
        "rollout": torch.tensor([number for number, own in enumerate(at) for _ in own]),
        "kind": torch.tensor([place.kind for own in at for place in own]),
        "token": torch.tensor([place.token for own in at for place in own]),
    }
    _save(file, whole, more, key)


def _save(
    file: FilePath, states: Mapping[int, _Kept], more: Mapping[str, torch.Tensor] | None = None, key: str = ""
) -> None:
    import torch
    from safetensors.torch import save

    named = {f"layer.{layer}": each.states for layer, each in states.items()}
    tensors = {name: each.to(torch.bfloat16).contiguous() for name, each in named.items()}
    tensors |= {f"mean.{layer}": each.means.float().contiguous() for layer, each in states.items()}  # they vary little
    tensors |= dict(more or {})
    write_whole(file, save(tensors, {"key": key}))


def _layers(file: FilePath, key: str = "") -> set[int]:
    """The layers whose states are in a file, if it is there and of this key."""
    from safetensors import SafetensorError, safe_open

    if not file.exists():
        return set()
    try:
        with safe_open(file, framework="pt") as opened:
            if (opened.metadata() or {}).get("key") != key:
                return set()
            names = set(opened.keys())
            return {int(name.removeprefix("mean.")) for name in names if name.startswith("mean.")}
    except (SafetensorError, ValueError):
        return set()
