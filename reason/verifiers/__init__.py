"""Verifiers: what judges steps and answers."""
