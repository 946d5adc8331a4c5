"""Evaluations over many machines: replicas of an engine as Ray actors, and problems for whoever is free."""

from reason.cluster.fleet import Fleet
from reason.cluster.place import on_fleet
from reason.cluster.session import Share, natural_share, session, workers_that_fit

__all__ = ["Fleet", "Share", "natural_share", "on_fleet", "session", "workers_that_fit"]
