"""What verifiers see of a tree: trajectories."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from reason.errors import UsageError
from reason.search.generation import split_steps
from reason.search.tree import ROOT, Node, Strategy, Tree
from reason.types import Capabilities, Embedder, Step, TextCodec, Trajectory, Verifier

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

__all__ = ["checked_scores", "find_verifiers", "packed", "same_distances", "trajectories", "vectors"]


def find_verifiers(
    strategy: Strategy,
    given: Mapping[str, Verifier | Embedder] | None = None,
    *,
    model: str | None = None,
    can: Capabilities | None = None,
) -> dict[str, Verifier | Embedder]:
    """The verifiers and embedders that a strategy may ask for, the caller's first.

    Args:
        model: the policy's name, which says what "auto" is; None where it is not known yet.
        can: what the policy's engine tells, which says it too; all, if it is not known.

    Raises:
        UnknownName, UsageError: there is no such verifier, the engine does not tell what it needs, or the strategy
            cannot use its scores.
    """
    if not strategy.measures:
        return {}
    from reason.verifiers import DEFAULT_VERIFIER, check_needs, make_measure, meant_by
    from reason.verifiers.aggregate import check_aggregation

    given = given or {}
    found: dict[str, Verifier | Embedder] = {}
    for name in strategy.measures:
        meant = name if name in given else meant_by(name, model, can)
        found[name] = given[meant] if meant in given else make_measure(meant)
        if can is not None:
            check_needs(found[name], can, model or "this model")
    at: Any = strategy
    while at is not None:
        if (aggregation := getattr(at, "aggregation", "none")) != "none":
            for name, verifier in found.items():
                known = model is not None or name != DEFAULT_VERIFIER or name in given
                if known and isinstance(verifier, Verifier):
                    check_aggregation(verifier, aggregation)
        at = getattr(at, "inner", None)
    return found


def checked_scores(verifier: Verifier, scores: Sequence[float], count: int) -> list[float]:
    """A verifier's scores as finite floats, one for each trajectory.

    Raises:
        UsageError: they are not.
    """
    values = [float(score) for score in scores]
    if len(values) != count:
        raise UsageError(f"the verifier {verifier.name} gave {len(values)} scores for {count} trajectories")
    if bad := [value for value in values if not math.isfinite(value)]:
        raise UsageError(f"the verifier {verifier.name} gave the score {bad[0]}; scores must be finite")
    return values


def packed(embedder: Embedder, embeddings: Sequence[Sequence[float]], count: int) -> list[bytes]:
    """An embedder's vectors as a node keeps them, scaled to length 1.

    Raises:
        UsageError: they are not one finite vector for each trajectory.
    """
    import numpy as np

    found = np.asarray(embeddings, dtype=np.float64)
    if found.ndim != 2 or len(found) != count:
        raise UsageError(f"the embedder {embedder.name} gave shape {found.shape} for {count} trajectories")
    if not np.isfinite(found).all():
        raise UsageError(f"the embedder {embedder.name} gave a vector that is not finite")
    found /= np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
    return [row.tobytes() for row in found.astype("<f2")]


def same_distances(measures: Mapping[str, Verifier | Embedder]) -> dict[str, float]:
    """Up to which cosine distance two steps say the same, of the embedders that know it."""
    known = {name: getattr(measure, "same_distance", None) for name, measure in measures.items()}
    return {name: float(distance) for name, distance in known.items() if distance is not None}


def vectors(tree: Tree, nodes: Sequence[int], name: str) -> npt.NDArray[np.float32]:
    """The embeddings of some nodes, [nodes, size], of length 1."""
    import numpy as np

    rows = [np.frombuffer(tree[node].embeddings[name], dtype="<f2") for node in nodes]
    found = np.stack(rows).astype(np.float32)
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)  # type: ignore[no-any-return]


def trajectories(
    tree: Tree,
    codec: TextCodec,
    node: int,
    *,
    by_step: bool,
    hidden: torch.Tensor | None = None,
    states: Mapping[int, torch.Tensor] | None = None,
) -> list[Trajectory]:
    """The trajectory that ends with a node; with ``by_step`` those that end with each of the steps in it.

    Args:
        hidden, states: of the node, if they were recorded.
    """
    path = tree.steps(node)
    above = [_step(tree, step) for step in path[:-1]]
    last, leaf = replace(_step(tree, path[-1]), hidden=hidden, states=states or {}), path[-1]
    steps = split_steps(codec, last, tree.problem.step_delimiter) if by_step else [last]

    def first(count: int) -> Trajectory:
        whole = count == len(steps)
        return Trajectory(
            problem=tree.problem,
            prompt=leaf.context[: leaf.prompt_tokens],
            steps=(*above, *steps[:count]),
            finished=whole and leaf.finished,
            answer=leaf.answer if whole else None,
            answer_class=leaf.answer_class if whole else None,
        )

    return [first(count) for count in range(1, len(steps) + 1)]


def _step(tree: Tree, node: Node) -> Step:
    before = node.prompt_tokens if node.begins else len(tree[node.parent or ROOT].context)
    tokens = node.context[before:]
    return Step(text=node.text, tokens=tokens, logprobs=node.logprobs)
