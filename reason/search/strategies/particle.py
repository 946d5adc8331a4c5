"""Particle filtering over steps, and particle Gibbs (Puri et al., https://arxiv.org/abs/2502.01618).

    each of num_particles solutions takes a step;  log w_i = logit(score of i's last step) / weight_temperature
    then num_particles copies are drawn in proportion to w;  and so on until all have stopped

A solution that stopped keeps its last score and takes part in the draw. Copies of a particle share their KV: they are
one node that gets several children. Scores that are no probabilities are standardised over the particles instead of
going through the logit. In particle Gibbs (``num_iterations`` > 1) each iteration begins anew beside a reference: a
solution drawn by its weight from the iteration before, which survives every draw. With resampling other than
multinomial that is an approximation (Chopin and Singh, https://arxiv.org/abs/1304.1887).

We depart from the authors' code and from its_hub: the reference weighs what its step at the time weighs (theirs: a
later step, its last); particles that failed, or stopped without an answer, weigh nothing; nothing is drawn after the
last step (its_hub does); the answer is chosen among all iterations' solutions; ``num_particles`` is each iteration's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

from reason.errors import UsageError
from reason.search.allocation import standardised
from reason.search.resampling import Scheme, effective_sample_size, logit, resample, softmax
from reason.search.strategies.decoding import Stepwise, check_at_least
from reason.search.strategies.scoring import missing_scores
from reason.search.tree import ROOT, Action, Node, Room, Tree
from reason.search.voting import Selection, vote
from reason.types import Answer

__all__ = ["ParticleFilter"]


class _Group(NamedTuple):
    """Particles at one node, before they take their next step. Its JSON is a list."""

    node: int
    copies: int
    first: int  # where among the node's children theirs begin
    log_weight: float  # carried over from before
    reference: bool = False


class _Particle(NamedTuple):
    """One particle, after its step."""

    node: int
    log_weight: float
    reference: bool = False


@dataclass(frozen=True, kw_only=True)
class ParticleFilter(Stepwise):
    """See the module's docstring. A node's note ``kept`` counts the copies drawn of it, ``log_weight`` is its weight,
    and ``score`` the share it has of all particles' weight.

    Args:
        num_particles: solutions under way at once, the reference among them.
        resampling: how copies are drawn.
        resample_when: after every step; or when the effective sample size falls below ``ess_threshold`` of the
            particles. Until then log-weights add up, those of stopped particles too.
        ess_threshold: see there.
        resample_inactive: whether particles that stopped may be copied, and lost. Otherwise they stand aside with the
            weight they stopped with.
        weighting: of scores. "auto" takes the logit where all scores of a step are in [0, 1].
        weight_temperature: divides log-weights.
        anneal_temperature: what weight_temperature comes to, linearly, ...
        anneal_steps: ... at this step; 0 does not change it.
        num_iterations: more than one is particle Gibbs.
        select: how the answer is chosen among stopped particles, by their weights.
    """

    breadth: ClassVar[str] = "num_particles"

    num_particles: int = 8
    resampling: Scheme = "multinomial"
    resample_when: Literal["always", "ess"] = "always"
    ess_threshold: float = 0.5
    resample_inactive: bool = True
    weighting: Literal["auto", "logit", "standardised"] = "auto"
    weight_temperature: float = 1.0
    anneal_temperature: float = 1.0
    anneal_steps: int = 0
    num_iterations: int = 1
    select: Selection = "best"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, "num_particles", "num_iterations")
        check_at_least(self, 0, "anneal_steps")
        if self.num_iterations > 1 and self.num_particles < 2:
            raise UsageError("num_particles must be at least 2 where there are several iterations, got 1")
        if not 0 < self.ess_threshold <= 1:
            raise UsageError(f"ess_threshold must be in (0, 1], got {self.ess_threshold}")
        for name in ("weight_temperature", "anneal_temperature"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} must be more than 0, got {getattr(self, name)}")

    def ask(self, tree: Tree, room: Room) -> Sequence[Action]:
        groups = self._groups(tree)
        stepping = [child for group in groups if _steps(tree, group) for child in _stepped(tree, group)]
        pending = any(node.pending for node in stepping)
        if room.expansions <= 0 and not pending:
            return missing_scores(tree, [node for node in stepping if node.finished and _alive(node)], self.verifier)
        missing = {group.node: group.copies - len(_stepped(tree, group)) for group in groups if _steps(tree, group)}
        if any(missing.values()):
            return [self.step(tree, node, count) for node, count in missing.items() if count]
        if pending:
            return []
        return missing_scores(tree, [node for node in stepping if _alive(node)], self.verifier)

    def tell(self, tree: Tree, done: Sequence[int]) -> None:
        groups = self._groups(tree)
        stepping = [child for group in groups if _steps(tree, group) for child in _stepped(tree, group)]
        settled = [child for child in stepping if not child.pending and not _alive(child)]
        settled += [child for child in stepping if self.verifier in child.scores and _alive(child)]
        whole = bool(stepping) and len(settled) == sum(group.copies for group in groups if _steps(tree, group))
        particles = self._weighed(tree, groups) if whole or any(map(_alive, settled)) else []
        if whole:
            self._go_on(tree, particles)

    def answer(self, tree: Tree) -> Answer:
        notes = tree[ROOT].notes
        leaves = [tree[node] for node, copies in notes.get("samples", []) for _ in range(copies)]
        for group in self._groups(tree):
            copies = 1 if _steps(tree, group) else group.copies
            leaves += [node for node in _stepped(tree, group) if node.finished and _alive(node) for _ in range(copies)]
        return vote(tree, self.select, leaves or None)

    # -- weights -----------------------------------------------------------------------------------------------------

    def _groups(self, tree: Tree) -> list[_Group]:
        """The particles before the step that is being taken; none when all is done."""
        first = [_Group(ROOT, self.num_particles, 0, 0.0)]
        return [_Group(*group) for group in tree[ROOT].notes.get("particles", first)]

    def _weighed(self, tree: Tree, groups: Sequence[_Group]) -> list[_Particle]:
        """The particles that took their step and are scored, with their weights, which are noted."""
        found: list[tuple[Node, _Group]] = []
        for group in groups:
            copies = 1 if _steps(tree, group) else group.copies
            for node in _stepped(tree, group):
                if _alive(node) and self.verifier in node.scores:
                    found += [(node, group)] * copies
        if not found:
            return []
        potentials = self._potentials([node for node, _ in found])
        particles: list[_Particle] = []
        for (node, group), potential in zip(found, potentials, strict=True):
            standing = not self.resample_inactive and not group.reference and not tree[group.node].open
            log_weight = group.log_weight + (0.0 if standing else potential)
            particles.append(_Particle(node.id, log_weight, group.reference))
        current = {particle.node for particle in particles}
        samples = tree[ROOT].notes.get("samples", [])
        earlier = [node for node, copies in samples if node not in current for _ in range(copies)]
        shares = softmax([p.log_weight for p in particles] + [tree[node].notes["log_weight"] for node in earlier])
        for particle, share in zip(particles, shares, strict=False):
            tree.note(particle.node, log_weight=particle.log_weight, score=share)
        for node, share in zip(earlier, shares[len(particles) :], strict=True):
            tree.note(node, score=share)
        return particles

    def _potentials(self, nodes: Sequence[Node]) -> list[float]:
        """What each particle's step adds to its log-weight."""
        scores = [node.scores[self.verifier][-1] for node in nodes]
        probabilities = all(0 <= score <= 1 for score in scores)
        if self.weighting == "logit" and not probabilities:
            raise UsageError(
                f"{self.verifier} gave a score outside [0, 1], which has no logit; use weighting=standardised"
            )
        use_logit = self.weighting == "logit" or (self.weighting == "auto" and probabilities)
        temperature = self._temperature(max(node.depth for node in nodes) - 1)
        return [value / temperature for value in (map(logit, scores) if use_logit else standardised(scores))]

    def _temperature(self, step: int) -> float:
        """At a step, counted from 0."""
        if not self.anneal_steps:
            return self.weight_temperature
        share = min(1.0, step / (self.anneal_steps - 1)) if self.anneal_steps > 1 else 1.0
        return self.weight_temperature + share * (self.anneal_temperature - self.weight_temperature)

    # -- drawing -----------------------------------------------------------------------------------------------------

    def _go_on(self, tree: Tree, particles: Sequence[_Particle]) -> None:
        """All have taken their step: draws who takes the next, or ends the iteration."""
        if not any(tree[particle.node].open and not particle.reference for particle in particles):
            self._end_iteration(tree, particles)
            return
        reference = [particle for particle in particles if particle.reference]
        aside = [p for p in particles if not (self.resample_inactive or tree[p.node].open or p.reference)]
        pool = [p for p in particles if p not in aside and (self.resample_inactive or tree[p.node].open)]
        draws = self.num_particles - len(reference) - len(aside)
        weights = softmax([particle.log_weight for particle in pool])
        size = draws + sum(particle.reference for particle in pool)
        generation: int = tree[ROOT].notes.get("generation", 0)
        if self.resample_when == "always" or effective_sample_size(weights) < self.ess_threshold * size:
            copies = resample(weights, draws, self.resampling, tree.coins("resample", generation))
            drawn = [_Particle(p.node, 0.0) for p, count in zip(pool, copies, strict=True) for _ in range(count)]
            reference = [particle._replace(log_weight=0.0) for particle in reference]
        else:
            drawn = [particle for particle in pool if not particle.reference]
        counts = Counter([*drawn, *aside])
        going = [_Group(p.node, count, len(tree.children(p.node)), p.log_weight) for p, count in counts.items()]
        going += [_Group(p.node, 1, 0, p.log_weight, True) for p in reference]
        self._note_fates(tree, particles, going)
        tree.note(ROOT, particles=[list(group) for group in going], generation=generation + 1)
        if not any(_steps(tree, group) for group in going):  # all copies are of particles that stopped
            self._end_iteration(tree, [*drawn, *aside, *reference])

    def _note_fates(self, tree: Tree, particles: Sequence[_Particle], going: Sequence[_Group]) -> None:
        """For the viewers: who was copied how often, and who was lost."""
        notes = tree[ROOT].notes
        safe = {node for node, _ in notes.get("samples", [])}
        if "reference" in notes:
            safe |= {step.id for step in tree.path(notes["reference"])}
        copies = Counter({group.node: group.copies for group in going if not group.reference})
        for node in sorted({particle.node for particle in particles}):
            if copies[node]:
                tree.note(node, kept=copies[node])
            elif node not in safe:
                tree.note(node, pruned=True)

    def _end_iteration(self, tree: Tree, particles: Sequence[_Particle]) -> None:
        """All have stopped: they are samples now, and one of them may be the next iteration's reference."""
        notes = tree[ROOT].notes
        particles = [p._replace(node=notes["reference"]) if p.reference else p for p in particles]
        samples = [*notes.get("samples", []), *([node, n] for node, n in Counter(p.node for p in particles).items())]
        iteration: int = notes.get("iteration", 0) + 1
        going: list[_Group] = []
        if iteration < self.num_iterations:
            free = self.num_particles - (1 if particles else 0)
            going = [_Group(ROOT, free, len(tree.children(ROOT)), 0.0)]
        if going and particles:
            weights = softmax([particle.log_weight for particle in particles])
            drawn = resample(weights, 1, "multinomial", tree.coins("reference", iteration))
            tree.note(ROOT, reference=particles[drawn.index(1)].node)
            going.append(_Group(ROOT, 1, 0, 0.0, True))
        tree.note(ROOT, particles=[list(group) for group in going], samples=samples, iteration=iteration)


def _steps(tree: Tree, group: _Group) -> bool:
    """Whether these particles take another step of their own."""
    return tree[group.node].open and not group.reference


def _stepped(tree: Tree, group: _Group) -> list[Node]:
    """Where a group's particles are after the step, as far as they are asked for: one node for each that takes it."""
    if group.reference:
        path = tree.path(tree[ROOT].notes["reference"])
        return [path[min(tree[group.node].depth, len(path) - 1)]]
    if not tree[group.node].open:
        return [tree[group.node]]
    return tree.children(group.node)[group.first : group.first + group.copies]


def _alive(node: Node) -> bool:
    """Not failed, and not stopped without an answer."""
    return not node.failed and (node.answer is not None or not node.finished)
