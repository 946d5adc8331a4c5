"""Step routing: a small model writes the steps, and a router decides which of them the large one writes again."""

from __future__ import annotations

from reason.route.engine import RoutedEngine
from reason.route.router import Drafted, Router
from reason.route.routers import ROUTERS, make_router

__all__ = ["ROUTERS", "Drafted", "RoutedEngine", "Router", "make_router"]
