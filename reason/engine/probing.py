"""What probes say of the rows of a forward. Each reads all of them at once, whoever asked for it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch

from reason.errors import UsageError

if TYPE_CHECKING:
    from reason.runtime.runner import Forward
    from reason.types import Probe, Request

__all__ = ["Probed"]


class Probed:
    """See the module's docstring.

    Args:
        probes: of each job that draws.
        rows: of the forward, those that are drawn from.
    """

    @torch.inference_mode()
    def __init__(self, probes: Iterable[Sequence[Probe]], forward: Forward, rows: Sequence[int]) -> None:
        distinct = {probe.name: probe for each in probes for probe in each}
        self._forward = forward
        self._rows = rows
        self._states: dict[int, torch.Tensor] = {}
        self._values = {name: _read(probe, self.states(probe.layer).float()) for name, probe in distinct.items()}

    def states(self, layer: int) -> torch.Tensor:
        """A layer's states of the rows, [rows, hidden_size], on the CPU."""
        if layer not in self._states:
            self._states[layer] = self._forward.kept[layer][self._rows].cpu()
        return self._states[layer]

    def values(self, request: Request, row: int) -> tuple[tuple[str, float], ...]:
        """What a request's probes say of a row, by its place in ``rows``.

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
