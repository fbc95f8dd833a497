"""How the defender sets λ, and so how λ reacts to an attack.

λ is fixed, tuned on trusted validation rows, or cross-validated; see `Policy` for what the policies have in common.
"""

from dataclasses import replace

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key

from mithridate.configuration.presets import PAPER_STRENGTHS
from mithridate.data.feasible import Box
from mithridate.defences.base import Effort, Policy, Strength
from mithridate.defences.tuning import (
    LEAST,
    POINTS,
    SLOPES,
    USUAL,
    best_response,
    check_criterion,
    checked,
    cross_validation_losses,
    first_minimiser,
    grid_over,
    minimise,
    minimise_vector,
    validation_losses,
    validation_slope,
)
from mithridate.hypergradients import Bilevel
from mithridate.hypergradients.steps import hyper_rule
from mithridate.seeds import generator, seed_of
from mithridate.tasks.base import Task
from mithridate.victims.rows import join


class Fixed(eqx.Module):
    """λ is fixed and the attacker knows it. A number is used for all groups, a vector has one value per group."""

    log_strength: float | Strength
    label: str | None = None
    descent: None = None

    @property
    def name(self) -> str:
        """`fixed=VALUE`, unless a label was given."""
        return self.label or f"fixed={self.log_strength:g}"

    @property
    def strengths(self) -> Box:
        """The one value."""
        return Box(self.log_strength, self.log_strength)

    def respond(
        self, problem: Bilevel, x_poison: Float[Array, "n_p m"], log_strength: Strength, key: Key[Array, ""]
    ) -> Strength:
        """Return the value, in the shape of λ."""
        return np.full_like(log_strength, self.log_strength)

    def after_clean(self, log_strength: Strength) -> "Fixed":
        """Return itself."""
        return self

    def work(self, groups: tuple[int, ...]) -> Effort:
        """Return that nothing is trained."""
        return Effort(again=False)

    @property
    def fixed(self) -> bool:
        """Poison changes nothing."""
        return True

    def words(self) -> str:
        """Return what the policy does, or what the policy did that found this fixed λ."""
        return f"holds λ at {self.name.partition('=')[2] or self.log_strength}, whatever the data"


class Learned(eqx.Module):
    """λ_RMD: tuned on the trusted validation set while the attack runs (Eq. 3).

    Within the attack λ descends along its hypergradient by `descent`. With `closing` (the default), a solve over the
    whole of Φ(λ) then sets λ to the defender's best response to the present points. Without it, λ is reported where the
    descent ended: the paper's procedure, with `hyper_rule("constant", 0.99)`.

    With `by` "error", the best response is the λ with the fewest errors on the validation set; ties go to the least
    loss, then to the smallest λ. The descent still follows the loss, since an error has no derivative.
    """

    strengths: Box = Box(*PAPER_STRENGTHS)
    descent: optax.GradientTransformation = hyper_rule("rprop", 0.99)
    closing: bool = True
    poisoned: bool = False
    name: str = eqx.field(default="learned", static=True)
    by: str = eqx.field(default="loss", static=True)

    def __check_init__(self):
        check_criterion(self.by)

    def respond(
        self, problem: Bilevel, x_poison: Float[Array, "n_p m"], log_strength: Strength, key: Key[Array, ""]
    ) -> Strength:
        """Return the best λ in Φ(λ) on the validation set. Without `closing` (once `poisoned`), return λ unchanged."""
        if self.poisoned and not self.closing:
            return log_strength

        def losses(grid: Array) -> Array:
            return validation_losses(problem, x_poison, grid, key, self.by)

        if not log_strength.ndim:
            return minimise(losses, self.strengths)
        return minimise_vector(
            losses, lambda s: validation_slope(problem, x_poison, s, key), self.strengths, log_strength
        )

    def best(
        self, problem: Bilevel, x_poison: Float[Array, "n_p m"], log_strength: Strength, key: Key[Array, ""]
    ) -> Strength:
        """Return the best response on a fine grid; a vector is searched along each axis (see `best_response`).

        By error, the present λ is returned unless another has fewer errors: by more than one row in a hundred, and by
        more than one row.
        """
        slack = None if self.by == "loss" else max(1.0, float(problem.defended().target.size) / 100)

        def losses(grid: Array) -> Array:
            return validation_losses(problem, x_poison, grid, key, self.by)

        return best_response(losses, self.strengths, log_strength, slack=slack)

    def work(self, groups: tuple[int, ...]) -> Effort:
        """Return the work of three grids of λ, or for a vector what its descents usually take."""
        checks, again = checked(self.strengths, groups, self.by), self.closing
        if not groups:
            return Effort(trainings=3 * POINTS, checks=checks, again=again)
        trainings = round(USUAL * len(grid_over(self.strengths, groups)))
        return Effort(trainings=trainings, slopes=round(USUAL * SLOPES), checks=checks, again=again)

    def words(self) -> str:
        """Return what it does."""
        return f"tunes λ under attack, for {LEAST[self.by]} on validation rows that the attacker cannot touch"

    def after_clean(self, log_strength: Strength) -> "Learned":
        """Return the same policy, for data that may be poisoned."""
        return replace(self, poisoned=True)


class CrossValidated(eqx.Module):
    """λ by stratified k-fold cross-validation on the training set, with no trusted data.

    With `on_poisoned` it is run again on the poisoned set at every ratio, and it also answers several times during the
    attack. Otherwise λ_CLEAN is found once on clean data and then kept (as in Xiao et al. 2015). It tries grids over
    the whole of Φ(λ). With a `budget` it tries that many λ drawn at random instead (Bergstra and Bengio, 2012): for a
    vector λ a grid has too many points. With `by` "error" it takes the λ with the fewest errors on the held-out rows;
    ties go to the least loss. If the problem has groups of rows, no group is divided among folds.
    """

    on_poisoned: bool
    strengths: Box = Box(*PAPER_STRENGTHS)
    k: int = 5
    seed: int = 0
    budget: int | None = None
    descent: None = None
    by: str = eqx.field(default="loss", static=True)

    def __check_init__(self):
        check_criterion(self.by)

    @property
    def name(self) -> str:
        """`cv-clean` or `cv-poisoned`, or `search-clean=BUDGET` or `search-poisoned=BUDGET`."""
        data = "poisoned" if self.on_poisoned else "clean"
        return f"search-{data}={self.budget}" if self.budget else f"cv-{data}"

    def respond(
        self, problem: Bilevel, x_poison: Float[Array, "n_p m"], log_strength: Strength, key: Key[Array, ""]
    ) -> Strength:
        """Return the λ in Φ(λ) with the least cross-validated loss, or the fewest errors, on the whole training set.

        Poison can leave a class with fewer rows than folds. Then there are only as many folds as rows; with fewer than
        two rows λ stays the same.
        """
        rows = join(problem.blocks(x_poison))
        labels, there = np.asarray(rows.y), np.asarray(rows.weight) > 0
        task, groups = problem.learner.task(x_poison.shape[-1]), None
        if problem.groups is not None:
            groups = np.asarray(problem.groups)[: len(labels)][there]
        k = self.folds_of(labels[there], task, groups)
        if k < 2:
            return log_strength
        held_out = np.zeros((k, len(labels)), dtype=bool)
        held_out[:, there] = task.folds(labels[there], k, seed_of(self.seed, "folds"), groups)
        held_out = jnp.asarray(held_out)

        def losses(grid: Array) -> Array:
            return cross_validation_losses(problem.learner, rows, held_out, grid, key, self.by)

        if not self.budget:
            return minimise(losses, self.strengths)
        draw = generator(self.seed, "search")
        candidates = draw.uniform(self.strengths.low, self.strengths.high, (self.budget, *log_strength.shape))
        return np.asarray(candidates[first_minimiser(np.asarray(losses(jnp.asarray(candidates, dtype=float))))])

    def folds_of(self, labels: np.ndarray, task: Task, groups: np.ndarray | None = None) -> int:
        """Return the number of folds for rows with these labels: k, or fewer if a class has fewer rows or groups."""
        return min(self.k, task.fewest(labels, groups))

    def work(self, groups: tuple[int, ...]) -> Effort:
        """Return the work of three grids of λ, or of the search's budget, for each fold."""
        return Effort((self.budget or 3 * POINTS) * self.k, self.k, again=self.on_poisoned)

    @property
    def fixed(self) -> bool:
        """Whether λ is chosen on clean data and then kept."""
        return not self.on_poisoned

    def words(self) -> str:
        """Return what it does."""
        how = f"by cross-validation, which seeks {LEAST[self.by]} on held-out training rows"
        if self.budget:
            how = f"by trying {self.budget} random choices for {LEAST[self.by]} on held-out training rows"
        if self.on_poisoned:
            return f"chooses λ again at every share of poison, {how}, poisoned ones among them"
        return f"chose λ before the attack, {how}; then held it"

    def after_clean(self, log_strength: Strength) -> Policy:
        """Return the same policy, or λ_CLEAN as a fixed policy."""
        return self if self.on_poisoned else Fixed(log_strength, self.name)
