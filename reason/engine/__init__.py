"""Engines: what extends and scores token paths. ``LocalEngine`` runs a model here; ``ScriptedEngine`` plays given text."""
