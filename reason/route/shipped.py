"""The routers that come with the package, by the draft model whose states they read and the target."""

from __future__ import annotations

from pathlib import Path as FilePath

from reason.errors import UsageError
from reason.models.catalogue import known_name

__all__ = ["SHIPPED", "shipped_router"]

SHIPPED: dict[tuple[str, str], str] = {
    ("qwen2.5-coder-0.5b-instruct", "qwen2.5-coder-1.5b-instruct"): "qwen2.5-coder-0.5b-1.5b.safetensors",
}
"""File names by pair. Beside each lies its card."""

_FOLDER = FilePath(__file__).parent / "heads"


def shipped_router(draft: str, target: str) -> FilePath:
    """The file of the router for a pair of models, by their catalogue names or their publisher's repositories.

    Raises:
        UsageError: none comes with the package.
    """
    small, large = known_name(draft), known_name(target)
    if small is not None and large is not None and (small, large) in SHIPPED:
        return _FOLDER / SHIPPED[small, large]
    known = ", ".join(f"{one} and {other}" for one, other in SHIPPED)
    raise UsageError(
        f"no router comes with the package for {draft} and {target} (there is one for {known}): train one with `reason "
        "train router`, and name its file: arbitrage:FILE; or use another router"
    )
