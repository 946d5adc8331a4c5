"""The routers by name. A new one is a file here and a line below."""

from __future__ import annotations

from typing import Any

from reason.fields import check_object, make
from reason.route.router import Router
from reason.route.routers.arbitrage import Arbitrage
from reason.route.routers.fixed import Always, Never
from reason.route.routers.judge import JudgeRouter
from reason.route.routers.oracle import Oracle
from reason.route.routers.reward import RewardRouter

__all__ = ["ROUTERS", "make_router"]

ROUTERS: dict[str, type[Any]] = {
    "always": Always,
    "arbitrage": Arbitrage,
    "judge": JudgeRouter,
    "never": Never,
    "oracle": Oracle,
    "reward": RewardRouter,
}


def make_router(name: str | Router, /, **fields: Any) -> Router:
    """A router by name, with its fields, which may be written into the name: ``"reward:threshold=0.6"``; a router
    object is passed through.

    Raises:
        UnknownName: no router, or no field, of that name.
        UsageError: a field has a value that it does not take, or is given twice.
    """
    if not isinstance(name, str):
        check_object("a router", name, Router, "choose", fields)
        return name
    router: Router = make("router", ROUTERS, name, fields)
    return router
