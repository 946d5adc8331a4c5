"""Tasks: prompts, answer extraction, equivalence and votes."""

from reason.tasks.answers import clean_answer, extract_answer, extract_choice
from reason.tasks.equivalence import Comparer, Counts, counts, equivalent, group
from reason.tasks.prompts import math_messages
from reason.tasks.vote import Vote, majority

__all__ = [
    "Comparer",
    "Counts",
    "Vote",
    "clean_answer",
    "counts",
    "equivalent",
    "extract_answer",
    "extract_choice",
    "group",
    "majority",
    "math_messages",
]
