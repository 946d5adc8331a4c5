"""Attention that sees the trie: each run's KV is read once for all the queries beneath it.

``plan`` turns the rows of one forward into groups (which queries, which KV slots); ``partial`` computes a group or a
padded batch of them and its log-sum-exp; ``forest`` is the function that models call; ``reference`` does the same
with one dense mask and exists to be compared with; ``interface`` registers both with transformers.
"""
