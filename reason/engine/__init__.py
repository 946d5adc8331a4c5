"""Engines: what extends and scores token paths. ``LocalEngine`` runs a model, ``ScriptedEngine`` plays text."""
