"""Servers: an OpenAI-compatible one, and one of the Model Context Protocol."""
