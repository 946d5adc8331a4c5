"""What a step gains where a share of them is escalated, by what decides: the table of docs/routing.md.

python benchmarks/router_gains.py OUT/steps     (of `reason train router --out OUT`)

Predictions are cross-validated over problems; errors are standard errors over problems.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from reason.training.router.explore import Examples, load
from reason.training.router.recipe import cross_validated
from reason.training.router.ridge import fit_ridge
from reason.verifiers.value_head import find_shipped

F64 = npt.NDArray[np.float64]
SHARES = (0.1, 0.3, 0.5)


def gain(predicted: F64, examples: Examples, share: float) -> tuple[float, float]:
    """The mean score gained a step, and its standard error."""
    advantage, problem = examples.advantage.double().numpy(), examples.problem.numpy()
    gained = np.zeros_like(advantage)
    chosen = np.argsort(-predicted, kind="stable")[: round(share * len(advantage))]
    gained[chosen] = advantage[chosen]
    of_problem = np.bincount(problem, weights=gained)
    error = of_problem.std() * np.sqrt(len(of_problem)) / len(advantage)
    return float(gained.mean()), float(error)


def signs(examples: Examples) -> Examples:
    """The same steps, of whose difference only the sign is told."""
    difference = torch.where(examples.advantage.abs() < 0.02, 0.0, examples.advantage.sign())
    zero = torch.zeros_like(difference)
    return Examples(examples.states, examples.means, zero, difference, examples.problem, examples.names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", type=Path)
    parser.add_argument("--model", default="qwen2.5-coder-0.5b-instruct")
    parser.add_argument("--target", default="qwen2.5-coder-1.5b-instruct")
    parser.add_argument("--layer", type=int, default=14)
    parser.add_argument("--penalty", type=float, default=3e3)
    arguments = parser.parse_args()
    open_layer = partial(load, arguments.steps, draft=arguments.model, target=arguments.target)
    examples = open_layer(arguments.layer)
    fits = partial(fit_ridge, penalty=arguments.penalty, model=arguments.model, layer=arguments.layer)
    by: dict[str, F64] = {
        "the largest difference": examples.advantage.double().numpy(),
        "a regression of the difference": cross_validated(examples, fits).double().numpy(),
        "a regression of its sign": cross_validated(signs(examples), fits).double().numpy(),
        "the lowest scores of the target's verifier": -examples.drafted.double().numpy(),
        "nothing": np.random.default_rng(0).random(len(examples.drafted)),
    }
    if (head := find_shipped(arguments.model)) is not None:
        seen = open_layer(head.layer)
        by["the lowest values of the draft model's head"] = -head.values(seen.states, seen.means).double().numpy()
    print(f"{len(examples.drafted)} steps of {len(examples.names)} problems")
    print(f"{'by':44}", *(f"{share:>17.0%}" for share in SHARES))
    for name, predicted in by.items():
        figures = (gain(predicted, examples, share) for share in SHARES)
        print(f"{name:44}", *(f"{value:8.4f} ± {error:.4f}" for value, error in figures))


if __name__ == "__main__":
    main()
