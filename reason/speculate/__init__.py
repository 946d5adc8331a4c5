"""Token-level speculation: draft sources, a policy over the draft tree, and lossless verification."""
