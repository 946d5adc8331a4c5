"""A loaded reward model: an engine with a KV forest of its own, its head, and its way of writing steps."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

from reason.engine.local import LocalEngine
from reason.errors import ModelError, UsageError
from reason.types import Path, Problem, Trajectory
from reason.verifiers.reward_model.formats import PRMFormat, find_format
from reason.verifiers.reward_model.head import Activation, Layer, RewardHead
from reason.verifiers.reward_model.step_tokens import StepTokens, steps_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from reason.engine.codec import HubCodec
    from reason.engine.loading import LoadOptions
    from reason.runtime.runner import ModelRunner

__all__ = ["RewardModel"]

_KV_MEMORY_SHARE = 0.1  # the policy's pool takes a quarter


class RewardModel:
    """See the module's docstring. Make one with ``load``.

    Args:
        engine: runs the backbone.
        head: makes a score of a hidden state.
        form, tokens: how steps are written.
    """

    def __init__(self, engine: LocalEngine, head: RewardHead, form: PRMFormat, tokens: StepTokens) -> None:
        self.engine = engine
        self.head = head
        self._form = form
        self._tokens = tokens

    @classmethod
    def load(
        cls,
        folder: FilePath,
        options: LoadOptions,
        *,
        name: str,
        format_name: str = "auto",
        activation: Activation = "auto",
        label: int | None = None,
    ) -> RewardModel:
        """Loads a model folder and starts its engine.

        Args:
            name: what the user calls the model.
            format_name: a key of ``FORMATS``, or "auto".
            activation, label: see ``RewardHead``.

        Raises:
            ModelError, UsageError: the folder is no reward model, or its format and its weights do not go together.
        """
        from reason.engine.loading import load_codec, load_runner
        from reason.models.load import load_backbone, load_model

        checkpoint = _config(folder)
        form = find_format(format_name, name, checkpoint)
        if form.words and label is not None:
            raise UsageError(f"label is of heads with several outputs; the format of {name} compares two words")
        codec = load_codec(folder)
        tokens = StepTokens(form, codec, name, checkpoint.get("pad_token_id"))
        heads: list[RewardHead] = []

        def read(folder: FilePath, **where: Any) -> PreTrainedModel:
            model: Any = load_model(folder, **where) if form.words else load_backbone(folder, **where)
            config = model.config.get_text_config()
            if form.words:
                rows = model.get_output_embeddings().weight[list(tokens.words)].flip(0)  # the good word's is the second
                softcap = getattr(config, "final_logit_softcapping", None)
                head = RewardHead([Layer(rows.float().cpu(), None)], activation=activation, softcap=softcap)
            else:
                head = RewardHead.of_checkpoint(folder, config.hidden_size, activation=activation, label=label)
            heads.append(head)
            return model  # type: ignore[no-any-return]

        def make_runner() -> ModelRunner:
            return load_runner(folder, options, kv_memory_share=_KV_MEMORY_SHARE, load=read)

        engine = _BackboneEngine.start(make_runner, codec, name)
        return cls(engine, heads[0], form, tokens)

    def path(self, trajectory: Trajectory) -> Path | None:
        """The tokens at whose end a trajectory's last step is scored; None where no step has text."""
        steps = steps_of(self._form, trajectory)
        return self._tokens.path(_question(trajectory.problem), steps) if steps else None

    async def score(self, path: Path, owner: str) -> float:
        """The score at the end of a path. What of it is cached is not computed again."""
        (scored,) = await self.engine.score([path], len(path) - 1, logprobs=False, layers=(-1,), owner=owner)
        return self.head.score(scored.hidden[-1][-1])


class _BackboneEngine(LocalEngine):
    """An engine that only scores: nothing drafts for it."""

    @classmethod
    def start(cls, make_runner: Callable[[], ModelRunner], codec: HubCodec, name: str) -> _BackboneEngine:
        """Has the engine's own thread make the runner, see ``LocalEngine``; raises what the making raised."""
        from reason.engine.loop import EngineLoop

        engine = cls.__new__(cls)
        engine._start(lambda: EngineLoop(make_runner(), codec), name)
        return engine


def _question(problem: Problem) -> str:
    """What is asked: of a chat its last user's turn."""
    if problem.question is not None:
        return problem.question.strip()
    if isinstance(problem.content, str):
        return problem.content.strip()
    return next((turn["content"].strip() for turn in reversed(problem.content) if turn["role"] == "user"), "")


def _config(folder: FilePath) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder} has no config.json that can be read: {error}") from error
    return config
