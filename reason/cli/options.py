"""Options that several commands have, each spelled once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

__all__ = [
    "Aggregation",
    "Allow",
    "AllowOrigin",
    "AnswerField",
    "ApiKeyEnv",
    "ApiKeyFile",
    "AsJson",
    "BaseUrl",
    "Data",
    "Device",
    "Draft",
    "Dtype",
    "FewShot",
    "Grace",
    "Host",
    "KvTokens",
    "Limit",
    "MaxQueued",
    "MaxRequestSeconds",
    "MaxRequestTokens",
    "MaxRunning",
    "MaxThinkingTokens",
    "Model",
    "Offset",
    "Overwrite",
    "Plan",
    "Quantize",
    "QuestionField",
    "RayAddress",
    "Route",
    "ScoringVerifier",
    "Seed",
    "Server",
    "Settings",
    "SmallBaseUrl",
    "SmallModel",
    "Split",
    "StrategyName",
    "Threads",
    "ThresholdValue",
    "Tokenizer",
    "Tune",
    "UnsafeExec",
    "WorkerCpus",
    "WorkerGpus",
    "Workers",
]

# -- the model and the machine -----------------------------------------------------------------------------------------

Model: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", help="A catalogue name, a folder, a GGUF file or a hub id.", show_default="the default model"
    ),
]
Device: TypeAlias = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Dtype: TypeAlias = Annotated[str, typer.Option(help="auto, bfloat16, float32 or float16.")]
Quantize: TypeAlias = Annotated[
    str | None, typer.Option(help="int8 or int4 weights (CPU, bfloat16).", show_default="none")
]
KvTokens: TypeAlias = Annotated[
    int | None, typer.Option(help="Size of the KV pool in tokens.", show_default="from free memory")
]
Threads: TypeAlias = Annotated[int | None, typer.Option(help="CPU threads.", show_default="free cores")]
Draft: TypeAlias = Annotated[str, typer.Option(help="What drafts tokens: auto, none, stand, goose+stand ...")]
Route: TypeAlias = Annotated[
    str | None,
    typer.Option(
        help="Have a small model write the steps; this decides which the model writes again: judge, reward, ...",
        show_default="the model writes all",
    ),
]
Plan: TypeAlias = Annotated[
    str | None,
    typer.Option(
        help="Have a small model answer first, and search only if a gate says so: speceyes:threshold=0.98 ...",
        show_default="search always",
    ),
]
SmallModel: TypeAlias = Annotated[
    str | None, typer.Option(help="The one that goes first with --route or --plan.", show_default="by --model")
]

# -- a server that runs the model --------------------------------------------------------------------------------------

BaseUrl: TypeAlias = Annotated[
    str | None,
    typer.Option(
        help="An OpenAI-compatible server that runs the model, e.g. http://localhost:8000/v1.",
        show_default="the model runs here",
    ),
]
ApiKeyEnv: TypeAlias = Annotated[
    str | None,
    typer.Option(help="The environment variable with the server's key.", show_default="OPENAI_API_KEY"),
]
Tokenizer: TypeAlias = Annotated[
    str | None,
    typer.Option(
        help="The served model's tokenizer: a hub id, a folder or a catalogue name.", show_default="text, no tokens"
    ),
]
Server: TypeAlias = Annotated[
    str | None,
    typer.Option(help="Its kind: vllm, sglang, llama.cpp, transformers or openai.", show_default="asked"),
]
SmallBaseUrl: TypeAlias = Annotated[
    str | None, typer.Option(help="The server that runs the small model.", show_default="it runs here")
]

# -- many machines -----------------------------------------------------------------------------------------------------

Workers: TypeAlias = Annotated[
    int | None,
    typer.Option(
        help="Have so many engines solve the problems, each in a process of its own (Ray).",
        show_default="one, here; with --ray-address as many as there is room for",
    ),
]
RayAddress: TypeAlias = Annotated[
    str | None,
    typer.Option(help="The Ray cluster that they run on: auto, or its head's HOST:PORT.", show_default="this machine"),
]
WorkerCpus: TypeAlias = Annotated[
    float | None,
    typer.Option(help="CPU cores of each worker, or a fraction of one.", show_default="this machine's share, or 1"),
]
WorkerGpus: TypeAlias = Annotated[
    float | None,
    typer.Option(help="GPUs of each worker, or a fraction of one.", show_default="1 where there are any"),
]

# -- the search --------------------------------------------------------------------------------------------------------

StrategyName: TypeAlias = Annotated[str, typer.Option("--strategy", "-s", help="How to search.")]
Settings: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--set", "-S", metavar="FIELD=VALUE", help="A field of the strategy, e.g. num_samples=16."),
]
MaxThinkingTokens: TypeAlias = Annotated[
    int | None, typer.Option(help="Limit of a thinking model's thinking.", show_default=False)
]
Seed: TypeAlias = Annotated[int, typer.Option(help="Equal seeds give equal answers.")]

# -- solutions that are scored, not found ------------------------------------------------------------------------------

ScoringVerifier: TypeAlias = Annotated[
    str | None,
    typer.Option(help="Score solutions that the rows have, e.g. judge, prm:MODEL or recorded.", show_default=False),
]
Aggregation: TypeAlias = Annotated[
    str, typer.Option(help="What makes a sample's score of its steps' with --verifier: last, min, mean, prod.")
]
ThresholdValue: TypeAlias = Annotated[
    float | None,
    typer.Option("--threshold", help="A step with a score below is wrong.", show_default="0.5 for probabilities"),
]
Tune: TypeAlias = Annotated[
    int, typer.Option(help="Choose the threshold on so many rows, which are left out of the figures.")
]

# -- the task ----------------------------------------------------------------------------------------------------------

Limit: TypeAlias = Annotated[int | None, typer.Option(help="At most so many problems.", show_default="all")]
Offset: TypeAlias = Annotated[int, typer.Option(help="Pass over so many problems first.")]
Data: TypeAlias = Annotated[
    Path | None, typer.Option(help="Folder or file with the task's data.", show_default="REASON_DATA or the hub")
]
FewShot: TypeAlias = Annotated[int, typer.Option(help="Worked examples before each problem.")]
QuestionField: TypeAlias = Annotated[
    str | None, typer.Option(help="The data's field with the problem.", show_default="the task's")
]
AnswerField: TypeAlias = Annotated[
    str | None, typer.Option(help="The data's field with the reference.", show_default="the task's")
]
Split: TypeAlias = Annotated[str | None, typer.Option(help="Of a hub data set.", show_default=False)]


def _permit(given: bool) -> bool:
    """While the command line is read, so that whatever a command does holds to it."""
    if given:
        from reason.sandbox import allow_unsafe

        allow_unsafe()
    return given


UnsafeExec: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--unsafe-exec",
        callback=_permit,
        help="Where model-written programs cannot be isolated, run them all the same.",
    ),
]

# -- a server of ours --------------------------------------------------------------------------------------------------

Host: TypeAlias = Annotated[str, typer.Option(help="Address to listen on; others than this machine's need a key.")]
ApiKeyFile: TypeAlias = Annotated[
    Path | None, typer.Option(help="A key in each line; a request must have one of them.", show_default=False)
]
AllowOrigin: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(help="Pages of this origin may ask, https://example.org; can be repeated.", show_default="none"),
]
Allow: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TEXT",
        help="Clients may give this to a strategy's field, e.g. prm:MODEL for verifier; can be repeated.",
        show_default="names that load nothing",
    ),
]
MaxRunning: TypeAlias = Annotated[int, typer.Option(help="Requests that are worked on at once.")]
MaxQueued: TypeAlias = Annotated[int, typer.Option(help="Requests that may wait; the others are sent away.")]
MaxRequestTokens: TypeAlias = Annotated[
    int, typer.Option("--max-policy-tokens", help="At most so many generated tokens a request.")
]
MaxRequestSeconds: TypeAlias = Annotated[
    float, typer.Option("--max-seconds", help="At most so many seconds a request.")
]
Grace: TypeAlias = Annotated[
    float, typer.Option(min=0.1, help="Seconds that requests under way have when the server ends.")
]

# -- what comes of it --------------------------------------------------------------------------------------------------

Overwrite: TypeAlias = Annotated[bool, typer.Option("--overwrite", help="Start anew where --out has results.")]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
