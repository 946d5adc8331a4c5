"""DSPy: a program whose language model is a search.

    pip install dspy
    python examples/dspy_program.py

Wants `reason serve` running at http://127.0.0.1:8010, or REASON_BASE_URL (and REASON_API_KEY) set.
"""

import os

import dspy

searching = dspy.LM(
    "openai/reason/best-of-n:8",
    api_base=os.environ.get("REASON_BASE_URL", "http://127.0.0.1:8010/v1"),
    api_key=os.environ.get("REASON_API_KEY", "none"),
    extra_body={"reason": {"instruct": False}},  # DSPy says itself how the answer must be written
    cache=False,
)
dspy.configure(lm=searching)
program = dspy.Predict("question -> answer: int")
print("answer:", program(question="What is the sum of the first 20 odd numbers?").answer)
