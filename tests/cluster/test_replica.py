"""What a worker does by itself, without a cluster."""

from __future__ import annotations

import pytest

from reason.api import Solver
from reason.cluster.replica import Replica
from reason.errors import EngineError, ModelNotFound, ReasonError


@pytest.mark.parametrize(
    ("raised", "kind", "message"),
    [
        (ModelNotFound("no weights"), ModelNotFound, "no weights"),
        (RuntimeError("CUDA out of memory"), EngineError, "loading the model failed: RuntimeError: CUDA out of memory"),
    ],
)
async def test_why_a_model_was_not_loaded_is_an_answer(
    raised: Exception, kind: type[ReasonError], message: str
) -> None:
    """Whatever it is: whoever waits for the worker must hear of it."""

    def make_solver() -> Solver:
        raise raised

    replica = Replica(make_solver)
    loaded = await replica.load()
    await replica.close()
    assert loaded.model is None
    assert type(loaded.error) is kind
    assert str(loaded.error) == message
