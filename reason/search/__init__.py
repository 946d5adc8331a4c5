"""Search: a tree, strategies over it, and the one driver that runs them."""
