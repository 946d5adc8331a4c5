"""Recipes for the small learned parts."""
