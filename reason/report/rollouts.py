"""The solutions of an evaluation, with their tokens and outcomes: what value heads learn from."""

from __future__ import annotations

from pathlib import Path

from reason.errors import UsageError
from reason.report.results import ResultsFolder
from reason.report.trace import Trace, TraceNode, read_trace
from reason.search.tree import ROOT
from reason.training.value.rollouts import Rollout

__all__ = ["read_rollouts"]


def read_rollouts(folder: Path) -> list[Rollout]:
    """Every whole solution of the problems that are done, in the order of their ids. Solutions that were begun anew
    (revisions) are left out, because they answer another prompt; so are those with words put into the model's mouth,
    whose tokens a trace does not have.

    Raises:
        UsageError: the folder holds no evaluation, or a problem's trace is gone.
    """
    results = [result for _, result in sorted(ResultsFolder(folder).results().items())]
    if not results:
        raise UsageError(f"{folder} holds no evaluation with problems that are done")
    found: list[Rollout] = []
    for result in results:
        if result.error is not None:
            continue
        trace = read_trace(folder / "traces" / f"{result.id}.jsonl")
        right = {each.answer: each.correct for each in result.candidates}  # not by class: some differ
        found += [
            Rollout(
                problem=result.id,
                prompt=trace.nodes[ROOT].tokens,
                tokens=tokens,
                answer_class=node.answer_class,
                correct=node.answer is not None and right.get(node.answer, False),
            )
            for node, tokens in _solutions(trace)
        ]
    return found


def _solutions(trace: Trace) -> list[tuple[TraceNode, tuple[int, ...]]]:
    """The finished leaves in tree order, with the tokens since the prompt."""
    extended = {node.parent for node in trace.nodes.values()}
    leaves = [node for number, node in sorted(trace.nodes.items()) if number not in extended | {ROOT}]
    found: list[tuple[TraceNode, tuple[int, ...]]] = []
    for leaf in leaves:
        path = trace.path(leaf.id)[1:]
        tokens = tuple(token for node in path for token in node.tokens)
        if (
            leaf.told
            and leaf.end in ("eos", "stop", "length")
            and tokens
            and not any(n.begins or n.aside or n.given for n in path)
        ):
            found.append((leaf, tokens))
    return found
