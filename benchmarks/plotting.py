"""How the plots of the docs look, and how they are saved: SVGs that are the same each time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def make_figure(width: float, height: float = 4.2) -> Figure:
    """An empty figure, in inches."""
    from matplotlib import rcParams
    from matplotlib.figure import Figure

    rcParams["svg.fonttype"] = "none"
    rcParams["svg.hashsalt"] = "reason"
    return Figure(figsize=(width, height), layout="constrained")


def tidy(axis: Axes) -> None:
    """A faint grid, and no frame above and to the right."""
    axis.grid(visible=True, alpha=0.25)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def save(figure: Figure, file: Path) -> None:
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)
