"""What a step gains where a share of them is escalated, by what decides: the table of docs/routing.md.

python benchmarks/router_gains.py OUT/steps     (of `reason train router --out OUT`)

The regressions' predictions are cross-validated over problems; errors are paired, over problems. Value heads that
learnt from the same problems, as those that come with the package did from GSM8K's, are seen from their better side.
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
TOLD = 0.02
OURS = "a regression of the difference"


def gained(predicted: F64, examples: Examples, share: float) -> F64:
    """What each problem's steps gain together, [problems], in mean score a step of all."""
    advantage = examples.advantage.double().numpy()
    chosen = np.argsort(-predicted, kind="stable")[: round(share * len(advantage))]
    gains = np.zeros_like(advantage)
    gains[chosen] = advantage[chosen]
    return np.bincount(examples.problem.numpy(), weights=gains) / len(advantage)


def error(of_problems: F64) -> float:
    """The standard error of a sum over problems."""
    return float(of_problems.std() * np.sqrt(len(of_problems)))


def signs(examples: Examples) -> Examples:
    """The same steps, of whose difference only the sign is told: 0 below ``TOLD``."""
    difference = torch.where(examples.advantage.abs() < TOLD, 0.0, examples.advantage.sign())
    zero = torch.zeros_like(difference)
    return Examples(examples.states, examples.means, zero, difference, examples.problem, examples.names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", type=Path)
    parser.add_argument("--model", default="qwen2.5-coder-0.5b-instruct")
    parser.add_argument("--target", default="qwen2.5-coder-1.5b-instruct")
    parser.add_argument("--layer", type=int, default=14)
    parser.add_argument("--penalty", type=float, default=6.0)
    arguments = parser.parse_args()
    open_layer = partial(load, arguments.steps, draft=arguments.model, target=arguments.target)
    examples = open_layer(arguments.layer)
    fits = partial(fit_ridge, penalty=arguments.penalty, model=arguments.model, layer=arguments.layer)
    by: dict[str, F64] = {
        "the largest difference": examples.advantage.double().numpy(),
        OURS: cross_validated(examples, fits).double().numpy(),
        "a regression of its sign": cross_validated(signs(examples), fits).double().numpy(),
        "the lowest scores of the target's verifier": -examples.drafted.double().numpy(),
    }
    if (head := find_shipped(arguments.model)) is not None:
        seen = open_layer(head.layer)
        by["the lowest values of the draft model's head"] = -head.values(seen.states, seen.means).double().numpy()
    print(f"{len(examples.drafted)} steps of {len(examples.names)} problems; in brackets: {OURS} less the row")
    print(f"{'by':44}", *(f"{share:>30.0%}" for share in SHARES))
    for name, predicted in by.items():
        cells = []
        for share in SHARES:
            gains, ours = (gained(each, examples, share) for each in (predicted, by[OURS]))
            difference = ours - gains
            cells.append(f"{gains.sum():.4f} ({difference.sum():+.4f} ± {error(difference):.4f})")
        print(f"{name:44}", *(f"{cell:>30}" for cell in cells))
    mean = float(examples.advantage.double().mean())
    print(f"{'at random':44}", *(f"{share * mean:>30.4f}" for share in SHARES))


if __name__ == "__main__":
    main()
