"""How a value changes what is thought of the nodes above it, by hand."""

from __future__ import annotations

import pytest

from reason.search.bandits import How, scale_of
from reason.search.strategies.backup import Backup, back_up, upwards, worth
from reason.search.tree import Node, Tree
from reason.types import Problem


@pytest.mark.parametrize(
    ("rule", "discount", "root", "middle"),
    [
        # 1 under the root gets .4, then its child 2 gets .8, then 3 under the root .1, then 2 again .6
        ("mean", 1.0, (0.4 + 0.8 + 0.1 + 0.6) / 4, (0.4 + 0.8 + 0.6) / 3),
        ("mean", 0.5, (0.2 + 0.2 + 0.05 + 0.15) / 4, (0.4 + 0.4 + 0.3) / 3),
        ("max", 1.0, 0.8, 0.8),
        ("max", 0.5, 0.2, 0.4),
        # 2 is .6 at last, 1 the mean of its children, the root that of 1 (three visits) and 3 (one)
        ("children", 1.0, (3 * 0.6 + 0.1) / 4, 0.6),
    ],
)
def test_backups(rule: Backup, discount: float, root: float, middle: float) -> None:
    tree = Tree(Problem(content="?"), [Node(id=0, parent=None)])
    for node, parent in ((1, 0), (2, 1), (3, 0)):
        tree.add(Node(id=node, parent=parent))
    for node, value in ((1, 0.4), (2, 0.8), (3, 0.1), (2, 0.6)):
        back_up(tree, upwards(tree, node), value, rule, discount)
    assert [node.notes["visits"] for node in tree.nodes] == [4, 3, 2, 1]
    assert tree[0].notes["q"] == pytest.approx(root)
    assert tree[1].notes["q"] == pytest.approx(middle)
    back_up(tree, [3], 0.3, rule, discount)
    assert [node.notes["visits"] for node in tree.nodes] == [4, 3, 2, 2]
    assert tree[0].notes["q"] == pytest.approx(root)


@pytest.mark.parametrize(
    ("scores", "how", "least"),
    [
        ([0.5, 0.9], "auto", 0.0),
        ([12.0, 19.0], "auto", 12.0),
        ([-9.0, -2.0], "none", -9.0),
        ([12.0, 19.0], "none", 0.0),
    ],
)
def test_an_end_without_an_answer_is_worth_the_least(scores: list[float], how: How, least: float) -> None:
    scale = scale_of(scores, how)
    assert worth(Node(id=1, parent=0, finish_reason="eos"), scores[1], scale) == least
    assert worth(Node(id=1, parent=0, finish_reason="eos", answer="1"), scores[1], scale) == scores[1]
    assert worth(Node(id=1, parent=0, finish_reason="step"), scores[1], scale) == scores[1]
