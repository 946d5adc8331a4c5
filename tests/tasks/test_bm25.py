"""BM25 on numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reason.tasks.bm25 import BM25, words

PASSAGES = ["a b", "a a c", "d"]  # 2, 3 and 1 words, 2 on average; two passages of three have an a


def test_scores() -> None:
    """k1 (1 - b + b |d| / 2) is 1.2, 1.65 and 0.75; idf(a) = log(1 + 1.5/2.5), idf(b) = log(1 + 2.5/1.5)."""
    a, b = math.log(1.6), math.log(8 / 3)
    index = BM25(PASSAGES)
    assert index.scores("a") == pytest.approx([a * 1 * 2.2 / (1 + 1.2), a * 2 * 2.2 / (2 + 1.65), 0.0])
    assert index.scores("b") == pytest.approx([b, 0.0, 0.0])
    assert index.scores("A, b!") == pytest.approx([1.450832882, 0.566579717, 0.0])
    assert index.scores("b b") == pytest.approx([2 * b, 0.0, 0.0])
    assert index.scores("e") == index.scores("") == [0.0, 0.0, 0.0]
    assert BM25(PASSAGES, k1=0.0).scores("a") == pytest.approx([a, a, 0.0])
    assert BM25(PASSAGES, b=0.0).scores("a") == pytest.approx([a, a * 2 * 2.2 / 3.2, 0.0])


def test_the_best_come_first_and_equals_in_order() -> None:
    index = BM25(PASSAGES)
    assert index.best("a b") == [0, 1, 2]
    assert index.best("a") == [1, 0, 2]
    assert index.best("d", 2) == [2, 0]
    assert index.best("nothing") == [0, 1, 2]
    assert BM25([]).best("a") == []
    assert BM25(["", ""]).best("a") == [0, 1]


def test_words_have_no_case_and_no_punctuation() -> None:
    assert words("St. Étienne's 2-nd, STRASSE") == ["st", "étienne", "s", "2", "nd", "strasse"]


@given(st.lists(st.text("ab c", max_size=12), max_size=6), st.text("ab c", max_size=8))
def test_no_passage_scores_less_than_one_without_a_word_of_the_query(passages: list[str], query: str) -> None:
    index = BM25(passages)
    for passage, score in zip(passages, index.scores(query), strict=True):
        assert (score > 0) == bool(set(words(passage)) & set(words(query)))
    assert sorted(index.best(query)) == list(range(len(passages)))
