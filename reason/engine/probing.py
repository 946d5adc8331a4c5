"""What probes say of the rows of a forward. Each reads all of them at once, whoever asked for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from reason.errors import UsageError

if TYPE_CHECKING:
    from reason.types import Probe, Request

__all__ = ["Probed"]


class Probed:
    """See the module's docstring.

    Args:
        probes: of each job that draws.
        states: of the rows that are drawn from, on the CPU: [rows, hidden_size] by layer.
    """

    @torch.inference_mode()
    def __init__(self, probes: Iterable[Sequence[Probe]], states: Mapping[int, torch.Tensor]) -> None:
        distinct = {probe.name: probe for each in probes for probe in each}
        self._values = {name: _read(probe, states[probe.layer].float()) for name, probe in distinct.items()}

    def values(self, request: Request, row: int) -> tuple[tuple[str, float], ...]:
        """What a request's probes say of a row, by its number among those that are drawn from.

        Raises:
            Exception: what a probe raised.
        """
        said: list[tuple[str, float]] = []
        for probe in request.probes:
            values = self._values[probe.name]
            if isinstance(values, Exception):
                raise values
            said.append((probe.name, values[row]))
        return tuple(said)


def _read(probe: Probe, states: torch.Tensor) -> list[float] | Exception:
    """A probe's numbers for all rows; what it raises, for those who asked for it."""
    try:
        values = probe(states)
        if values.shape != states.shape[:1]:
            raise UsageError(f"the probe {probe.name} gave shape {list(values.shape)} for {len(states)} rows")
        numbers: list[float] = values.tolist()
    except Exception as error:
        return error
    return numbers
