"""Where things are in a tree of RethinkMCTS (Li et al., https://arxiv.org/abs/2409.09584); the notes are described in
``rethink_mcts``. A *state* is the root or a program that stands for a thought."""

from __future__ import annotations

from reason.search.tree import ROOT, Node, Tree

__all__ = [
    "about_thoughts",
    "available",
    "is_expanded",
    "list_above",
    "list_below",
    "selectable",
    "standing",
    "under_way",
]


def is_expanded(node: Node) -> bool:
    """Selection came to a state to have it expanded."""
    return node.id == ROOT or "expanded" in node.notes


def list_below(tree: Tree, state: Node) -> Node | None:
    """The list of what is thought next, once it is asked for."""
    lists = tree.children(state.id)[int("then" in state.notes) :]
    return lists[0] if lists else None


def list_above(tree: Tree, program: Node) -> Node:
    """The list that the thought of a program is in, or was before it was rethought."""
    at = tree[program.parent or ROOT]
    while "chosen" not in at.notes:
        at = tree[tree[at.parent or ROOT].parent or ROOT]
    return at


def about_thoughts(tree: Tree, program: Node, parent: Node) -> dict[str, object]:
    """The notes of a program on what it was written by: its thoughts, the prior of the last, and how many programs
    there are for it so far."""
    if "thought" in parent.notes:
        before = tree[parent.parent or ROOT]
        return {"thoughts": parent.notes["thoughts"], "prior": 1.0, "attempt": before.notes["attempt"] + 1}
    line = parent.notes["chosen"][tree.children(parent.id).index(program)]
    thoughts = [*parent.notes["before"], parent.notes["thoughts"][line]]
    return {"thoughts": thoughts, "prior": parent.notes["priors"][line], "attempt": 1}


def standing(tree: Tree, found: Node, line: int) -> Node | None:
    """The program that stands for a thought of a list; None before the rollout that chose it is over."""
    chosen, below = found.notes["chosen"], tree.children(found.id)
    if line not in chosen or chosen.index(line) >= len(below):
        return None
    at: Node | None = below[chosen.index(line)]
    while at is not None and "value" not in at.notes:
        asides = tree.children(at.id)
        again = tree.children(asides[0].id) if asides else []
        at = again[0] if again else None
    return at


def under_way(tree: Tree, state: Node) -> int:
    """Rollouts that are not over at a state or below it."""
    if not is_expanded(state):
        return 0
    found = list_below(tree, state)
    if found is None or "chosen" not in found.notes:
        return 1
    programs = [standing(tree, found, line) for line in found.notes["chosen"]]
    return sum(1 if program is None else under_way(tree, program) for program in programs)


def available(tree: Tree, state: Node) -> bool:
    """Whether a selection that comes to a state has a place to go."""
    if not is_expanded(state):
        return not state.failed
    found = list_below(tree, state)
    if found is None or "chosen" not in found.notes:
        return False
    return any(selectable(tree, found, line) for line in range(len(found.notes["thoughts"])))


def selectable(tree: Tree, found: Node, line: int) -> bool:
    """Whether selection may go on to a thought of a list."""
    if line not in found.notes["chosen"]:
        return True
    program = standing(tree, found, line)
    return program is not None and available(tree, program)
