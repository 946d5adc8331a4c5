"""A process reward model as a verifier: a model of its own that reads the problem and the steps so far and scores the
last one (Lightman et al., https://arxiv.org/abs/2305.20050; the models' own papers are in ``formats``).

    score = head(h),   h the hidden state at the last step's mark

It runs on an engine of its own, whose KV is addressed by content: a path is written such that it begins with the path
of the steps before (``step_tokens``), so scoring a step computes that step's tokens, where the originals compute the
whole path again for every step. What was evicted meanwhile is computed again. Steps that are scored at the same time
share a forward. We depart from the originals in that, in float32 heads, and in where ``step_tokens`` says so.

The reward model's tokens are counted by its own engine, under the same owner: ``usage``.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from reason.errors import UnknownName, UsageError
from reason.fields import check_choices
from reason.types import Engine, Trajectory, Usage
from reason.verifiers.reward_model.formats import FORMATS
from reason.verifiers.reward_model.head import Activation

if TYPE_CHECKING:
    from reason.verifiers.reward_model.model import RewardModel

__all__ = ["ProcessRewardModel"]


@dataclass(frozen=True, kw_only=True)
class ProcessRewardModel:
    """The model is loaded when it is first needed, and shared by all verifiers with the same fields. A trajectory
    without text has the score 0.

    Args:
        model: a folder, a hub repository or a catalogue name.
        format: how it is asked, one of ``FORMATS``; "auto" goes by the model's class and name.
        activation: what makes a score of the head's output, see ``RewardHead``; "none" gives no probabilities.
        label: which of the head's outputs means a good step; -1 is the only one, or the second of two.
        device, dtype, quantize: see ``LocalEngine.load``; "" quantises nothing.
        kv_tokens: size of its KV pool; 0 is what fits a tenth of the free memory.
        threads: CPU threads; 0 is as many as torch computes with in this process.
    """

    name: ClassVar[str] = "prm"
    argument: ClassVar[str] = "model"
    statistics: ClassVar[bool] = False
    top_logprobs: ClassVar[int | None] = None

    model: str
    format: str = "auto"
    activation: Activation = "auto"
    label: int = -1
    device: str = "auto"
    dtype: str = "auto"
    quantize: str = ""
    kv_tokens: int = 0
    threads: int = 0

    def __post_init__(self) -> None:
        check_choices(self)
        if not self.model:
            raise UsageError("a reward model needs a name: prm:MODEL, a folder or a hub repository")
        if self.format not in ("auto", *FORMATS):
            raise UnknownName("reward model format", self.format, ["auto", *FORMATS])
        for field, least in (("label", -1), ("kv_tokens", 0), ("threads", 0)):
            if getattr(self, field) < least:
                raise UsageError(f"{field} must be at least {least}, got {getattr(self, field)}")

    @property
    def probability(self) -> bool:
        return self.activation != "none"

    async def score(self, trajectories: Sequence[Trajectory], engine: Engine, owner: str) -> list[float]:
        """Scores by the reward model; ``engine``, the policy's, is not used.

        Raises:
            ModelError, UsageError: the model cannot be had, or is no reward model of its format.
            OutOfKV: a path is longer than the model reads, or than its pool holds.
        """
        if not trajectories:
            return []
        model = await asyncio.to_thread(self.load)
        paths = [model.path(trajectory) for trajectory in trajectories]
        distinct = [path for path in dict.fromkeys(paths) if path is not None]
        tasks = [asyncio.ensure_future(model.score(path, owner)) for path in distinct]
        try:
            scores = dict(zip(distinct, await asyncio.gather(*tasks), strict=True))
        finally:
            for task in tasks:  # of a cancelled search, or beside one that failed
                task.cancel()
        return [0.0 if path is None else scores[path] for path in paths]

    def load(self) -> RewardModel:
        """The model, loaded if it is not yet. For any number of threads."""
        with _LOADING:
            found = _LOADED.get(self)
            if found is None:
                found = _LOADED[self] = self._load()
            return found

    def usage(self, owner: str) -> Usage:
        """What scoring for ``owner`` has cost so far: verifier tokens. Its forwards and its KV are another model's than
        the ledger's, and are left out."""
        model = _LOADED.get(self)
        return Usage() if model is None else Usage(verifier_tokens=model.engine.usage(owner).verifier_tokens)

    def forget(self, owner: str) -> None:
        """Drops what is counted for an owner whose work is over."""
        if (model := _LOADED.get(self)) is not None:
            model.engine.forget(owner)

    def close(self) -> None:
        """Frees the model, for every verifier with the same fields. The next score loads it again."""
        with _LOADING:
            model = _LOADED.pop(self, None)
        if model is not None:
            model.engine.close()

    def _load(self) -> RewardModel:
        import torch

        from reason.engine.loading import LoadOptions
        from reason.models.load import resolve
        from reason.verifiers.reward_model.model import RewardModel

        options = LoadOptions(
            device=self.device,
            dtype=self.dtype,
            kv_tokens=self.kv_tokens or None,
            quantize=self.quantize or None,
            threads=self.threads or torch.get_num_threads(),
        )
        return RewardModel.load(
            resolve(self.model).folder,
            options,
            name=self.model,
            format_name=self.format,
            activation=self.activation,
            label=None if self.label < 0 else self.label,
        )


_LOADED: dict[ProcessRewardModel, RewardModel] = {}
_LOADING = threading.Lock()
