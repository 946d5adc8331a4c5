"""Inspect: its tasks on our strategies, by the model's name alone. Two strategies on the same three problems.

    pip install inspect-ai openai
    python examples/inspect_task.py

Any task of yours runs so: `inspect eval task.py --model openai-api/reason/reason/best-of-n:8`, where Inspect takes
REASON_BASE_URL and REASON_API_KEY from the environment. Wants `reason serve` running at http://127.0.0.1:8010, or those
set.
"""

import os

from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.scorer import pattern
from inspect_ai.solver import generate

os.environ.setdefault("REASON_BASE_URL", "http://127.0.0.1:8010/v1")
os.environ.setdefault("REASON_API_KEY", "none")

SUMS = [
    Sample(input="What is the sum of the first 20 odd numbers?", target="400"),
    Sample(input="A train goes 60 km in 45 minutes. How many km does it go in 3 hours?", target="240"),
    Sample(input="What is the remainder of 2 to the power of 10 when divided by 7?", target="2"),
]

task = Task(dataset=SUMS, solver=generate(), scorer=pattern(r"\\boxed\{(.*)\}"))
for model in ("reason/best-of-n:1", "reason/best-of-n:8"):
    (log,) = eval(
        task, model=f"openai-api/reason/{model}", display="none", log_dir=os.environ.get("INSPECT_LOG_DIR", "logs")
    )
    tokens = sum(usage.output_tokens for usage in log.stats.model_usage.values())
    print(model, log.status, "accuracy:", log.results.scores[0].metrics["accuracy"].value, "tokens:", tokens)
