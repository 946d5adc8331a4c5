"""One line on each strategy and where it comes from: for the command line and the README."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["ABOUT", "About"]


class About(NamedTuple):
    """What a strategy does; who published it, and where. Our own have no link."""

    what: str
    source: str
    link: str = ""


ABOUT: dict[str, About] = {
    "auto": About(
        "picks a strategy and its width for the token budget, from measurements",
        "Snell et al. 2024",
        "https://arxiv.org/abs/2408.03314",
    ),
    "best-of-n": About(
        "independent samples; majority, weighted or best-scored answer",
        "Wang et al. 2022",
        "https://arxiv.org/abs/2203.11171",
    ),
    "beam": About(
        "steps: the best of `width` partial solutions are kept and copied",
        "Snell et al. 2024",
        "https://arxiv.org/abs/2408.03314",
    ),
    "dvts": About(
        "steps: independent subtrees, the best next step in each",
        "Beeching et al. 2024",
        "https://huggingface.co/spaces/HuggingFaceH4/blogpost-scaling-test-time-compute",
    ),
    "rebase": About(
        "steps: partial solutions get shares of the width by a softmax of their scores",
        "Wu et al. 2024",
        "https://arxiv.org/abs/2408.00724",
    ),
    "ets": About(
        "REBASE, with a linear program that keeps few KV tokens and every kind of step",
        "Hooper et al. 2025",
        "https://arxiv.org/abs/2502.13575",
    ),
    "best-first": About(
        "steps: the best open one anywhere in the tree is extended next",
        "Wang et al. 2025",
        "https://arxiv.org/abs/2502.11183",
    ),
    "merge": About(
        "wrapper: steps that say the same are one (FETCH)",
        "Wang et al. 2025",
        "https://arxiv.org/abs/2502.11183",
    ),
    "mcts": About(
        "Monte Carlo tree search over steps, UCT or PUCT, rollouts or values",
        "Kocsis and Szepesvári 2006",
        "https://doi.org/10.1007/11871842_29",
    ),
    "rest-mcts": About(
        "MCTS as in ReST-MCTS*: values, short greedy simulations",
        "Zhang et al. 2024",
        "https://arxiv.org/abs/2406.03816",
    ),
    "rstar-math": About(
        "MCTS as in rStar-Math: many children at once, every one valued",
        "Guan et al. 2025",
        "https://arxiv.org/abs/2501.04519",
    ),
    "mctsr": About(
        "MCTS over whole answers; a move criticises one and writes it anew",
        "Zhang et al. 2024",
        "https://arxiv.org/abs/2406.07394",
    ),
    "rethink-mcts": About(
        "MCTS over thoughts on a program, rethought where its public tests fail",
        "Li et al. 2024",
        "https://arxiv.org/abs/2409.09584",
    ),
    "tool-agent": About(
        "an agent that calls Python, a calculator and a search of passages",
        "Yao et al. 2022",
        "https://arxiv.org/abs/2210.03629",
    ),
    "ab-mcts": About(
        "goes wider or deeper by Thompson sampling: new answers, or better ones",
        "Inoue et al. 2025",
        "https://arxiv.org/abs/2503.04412",
    ),
    "astar": About(
        "A* over steps: log-probabilities so far and the verifier's outlook",
        "Hart et al. 1968",
        "https://doi.org/10.1109/TSSC.1968.300136",
    ),
    "particle": About(
        "particle filtering over steps; particles are drawn again by their scores",
        "Puri et al. 2025",
        "https://arxiv.org/abs/2502.01618",
    ),
    "tot": About(
        "thoughts proposed and valued by the model, breadth first",
        "Yao et al. 2023",
        "https://arxiv.org/abs/2305.10601",
    ),
    "ats": About(
        "the model is shown how a search is written down and writes one",
        "Zhang et al. 2023",
        "https://arxiv.org/abs/2310.10686",
    ),
    "probtree": About(
        "a tree of sub-questions; each is answered in the way the model is surest of",
        "Cao et al. 2023",
        "https://arxiv.org/abs/2311.13982",
    ),
    "budget-forcing": About(
        "one solution that is made to think on, or to stop",
        "Muennighoff et al. 2025",
        "https://arxiv.org/abs/2501.19393",
    ),
    "adaptive-consistency": About(
        "wrapper: stops a vote when its leader is ahead for good",
        "Aggarwal et al. 2023",
        "https://arxiv.org/abs/2305.11860",
    ),
    "esc": About(
        "wrapper: stops a vote when a window of samples is unanimous",
        "Li et al. 2024",
        "https://arxiv.org/abs/2401.10480",
    ),
    "deepconf": About(
        "drops samples that lose confidence, weighs the rest by it",
        "Fu et al. 2025",
        "https://arxiv.org/abs/2508.15260",
    ),
}
