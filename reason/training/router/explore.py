"""What a router learns from: steps that both models wrote from the same prefix, and whose was better.

    Δ = s_target - s_draft

Prefixes are mixed: of each pair one step stays at random, so that the router sees histories like those that it will
make. A step's example has the draft model's states where the drafted step ends (of the token drawn last, and the mean
over the solution so far, which carries what the history looks like, whoever wrote it) and Δ.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, ClassVar

from reason.errors import ReasonError
from reason.route.router import Author, Drafted, Rewrite
from reason.training.value.recipe import hashed
from reason.training.writing import write_whole
from reason.types import Completion, Engine, Verifier
from reason.verifiers.needs import check_unrecorded
from reason.verifiers.probes import probes_of
from reason.verifiers.recording import Recording
from reason.verifiers.remembered import Remembered

if TYPE_CHECKING:
    import torch

__all__ = ["Examples", "Explorer", "load"]


@dataclass(frozen=True, eq=False)
class Examples:
    """Drafted steps, with the states of one layer.

    Args:
        states, means: [steps, size] float32, see ``reason.training.value.states``.
        drafted, written: [steps], the draft model's score and the target's.
        problem: [steps], a number for each problem.
        names: the problems' own.
    """

    states: torch.Tensor
    means: torch.Tensor
    drafted: torch.Tensor
    written: torch.Tensor
    problem: torch.Tensor
    names: tuple[str, ...]

    @property
    def advantage(self) -> torch.Tensor:
        """Δ, [steps]."""
        return self.written - self.drafted

    def of_problems(self, wanted: Iterable[int]) -> Examples:
        """The part that belongs to some problems; problems are numbered anew."""
        import torch

        kept = sorted(wanted)
        rows = torch.isin(self.problem, torch.tensor(kept))
        return Examples(
            self.states[rows],
            self.means[rows],
            self.drafted[rows],
            self.written[rows],
            torch.searchsorted(torch.tensor(kept), self.problem[rows]),
            tuple(self.names[i] for i in kept),
        )


class Explorer:
    """A router that has both models write every step, keeps what there is to learn in a folder, and takes either step
    by a coin that hangs on the path alone.

    Args:
        verifier: scores steps, on the target's engine.
        folder: a file for each step.
        layers: of the draft model.
        escalate: the chance that the target's step stays.
    """

    author: ClassVar[Author | None] = None

    def __init__(self, verifier: Verifier, folder: FilePath, layers: Sequence[int], *, escalate: float = 0.4) -> None:
        self._verifier = verifier
        self._folder = folder
        self._layers = tuple(layers)
        self._escalate = escalate
        # Of the states of a solution so far, by layer, and how many they are.
        self._sums: Remembered[tuple[int, dict[int, torch.Tensor]]] = Remembered(1 << 18)

    def check(self, draft: Engine, target: Engine) -> None:
        """Raises UsageError where the verifier has no head for the target, or reads what it would have to write."""
        check_unrecorded(self._verifier, draft.name)
        probes_of([self._verifier], target)

    def recording(self, draft: Engine) -> Recording:
        return Recording()

    async def choose(self, drafted: Drafted, rewrite: Rewrite) -> Completion | None:
        one = drafted.trajectory
        written = await rewrite()
        if written.finish_reason in ("error", "cancelled"):
            return written
        same = written.token_ids == drafted.completion.token_ids  # and equally good: it counts for shares alone
        scores = await self._verifier.score(
            [one] if same else [one, drafted.rewritten(written)], drafted.target, drafted.owner
        )
        await self._keep(drafted, scores[0], scores[-1])
        return written if hashed(repr(one.path)) < self._escalate else None

    async def _keep(self, drafted: Drafted, ours: float, theirs: float) -> None:
        import torch
        from safetensors.torch import save

        path, prompt = drafted.trajectory.path[:-1], len(drafted.trajectory.prompt)
        ends = list(itertools.accumulate((len(step.tokens) for step in drafted.trajectory.steps), initial=prompt))
        known = self._sums.longest(path, (end - 1 for end in ends if end <= len(path)))
        start, before = prompt - 1, dict[int, torch.Tensor]()
        if known is not None and known[1][0] == known[0] - start:  # of a solution that began at the same place
            start, before = known[0], known[1][1]
        (scored,) = await drafted.draft.score([path], start, logprobs=False, layers=self._layers, owner=drafted.owner)
        tensors, sums = {"scores": torch.tensor([ours, theirs])}, {}
        for layer, states in scored.hidden.items():
            total = sums[layer] = states.sum(dim=0, dtype=torch.float64) + before.get(layer, 0)
            tensors[f"layer.{layer}"] = states[-1].to(torch.bfloat16).clone()
            tensors[f"mean.{layer}"] = (total / (len(path) - prompt + 1)).to(torch.bfloat16)
        self._sums.put(path, (len(path) - prompt + 1, sums))
        problem = drafted.owner.rpartition("#")[0]
        which = hashlib.blake2b(repr(drafted.trajectory.path).encode(), digest_size=6).hexdigest()
        pair = {"draft": drafted.draft.name, "target": drafted.target.name}
        write_whole(self._folder / f"{problem}.{ends[-1] - prompt}.{which}.safetensors", save(tensors, pair))


def load(folder: FilePath, layer: int, *, draft: str, target: str) -> Examples:
    """The examples that explorers left, in the order of their problems and places.

    Args:
        draft, target: the names of the models that wrote the steps.

    Raises:
        ReasonError: there are none, a file is none, or other models wrote the steps.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    found: list[tuple[str, int, str, FilePath]] = []
    for file in folder.glob("*.safetensors"):
        name, place, which = file.stem.rsplit(".", 2)
        found.append((name, int(place), which, file))
    if not found:
        raise ReasonError(f"{folder} has no steps to learn from")
    rows: dict[str, list[torch.Tensor]] = {"states": [], "means": [], "scores": []}
    numbers: list[int] = []
    names: dict[str, int] = {}
    for name, _, _, file in sorted(found):
        try:
            with safe_open(file, framework="pt") as opened:
                _check_pair(file, opened.metadata() or {}, {"draft": draft, "target": target})
                if f"layer.{layer}" not in opened.keys():  # noqa: SIM118
                    raise ReasonError(f"{folder} has no states of layer {layer}: explore into another folder")
                rows["states"].append(opened.get_tensor(f"layer.{layer}").float())
                rows["means"].append(opened.get_tensor(f"mean.{layer}").float())
                rows["scores"].append(opened.get_tensor("scores"))
        except SafetensorError as error:
            raise ReasonError(f"cannot read {file}: {error}; remove it and run the same command again") from error
        numbers.append(names.setdefault(name, len(names)))
    scores = torch.stack(rows["scores"])
    return Examples(
        torch.stack(rows["states"]),
        torch.stack(rows["means"]),
        scores[:, 0],
        scores[:, 1],
        torch.tensor(numbers),
        tuple(names),
    )


def _check_pair(file: FilePath, found: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    if found != wanted:
        wrote = (
            f"{found['draft']} and {found['target']}" if found.keys() == wanted.keys() else "nobody knows which models"
        )
        raise ReasonError(
            f"{wrote} wrote {file}, not {wanted['draft']} and {wanted['target']}: remove the steps in {file.parent} or "
            "explore into another folder (--out)"
        )
