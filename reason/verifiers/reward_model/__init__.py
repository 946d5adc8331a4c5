"""Process reward models: models of their own that score steps, on an engine of their own. See ``verifier``."""

from __future__ import annotations

from reason.verifiers.reward_model.formats import FORMATS, PRMFormat
from reason.verifiers.reward_model.verifier import ProcessRewardModel

__all__ = ["FORMATS", "PRMFormat", "ProcessRewardModel"]
