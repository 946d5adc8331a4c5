"""Offline compression of long reasoning traces: A*-Thought (https://arxiv.org/abs/2505.24550).

    from reason.compress import compress

    short = compress(problem, trace, solution)
    print(short.tokens_before, "->", short.tokens_after, short.text)

It needs the reference solution, so it makes training data and solves nothing: steps are ranked by their importance for
question and solution (``importance``), and a search adds the most important until a model reaches the right answer from
what is kept (``search``). Where we depart from the paper: docs/compress.md.
"""

from __future__ import annotations

from reason.compress.attention import AttentionScorer
from reason.compress.compressor import Compression, CompressOptions, Compressor, acompress, compress
from reason.compress.importance import Relevance, Scorer
from reason.compress.search import Cost, Costs, Ended, Move, SearchOptions

__all__ = [
    "AttentionScorer",
    "CompressOptions",
    "Compression",
    "Compressor",
    "Cost",
    "Costs",
    "Ended",
    "Move",
    "Relevance",
    "Scorer",
    "SearchOptions",
    "acompress",
    "compress",
]
