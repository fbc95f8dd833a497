"""The victim: model + loss + penalty + training rule.

Its objective is the mean loss of the rows plus the penalty over their number,

    L(D, w, λ) = (1/n)·Σ ℓ(w; x, y) + R(w, λ)/n,

and `train` runs the rule from w0 to wT.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Key, PyTree
from scipy.sparse.linalg import LinearOperator, eigsh

from mithridate.configuration.parts import described
from mithridate.errors import InputError
from mithridate.execution.devices import exact
from mithridate.tasks.classification import Classification
from mithridate.victims.losses import Loss, cross_entropy, curved
from mithridate.victims.models import LinearParams, Model
from mithridate.victims.newton import Solution, minimise_convex
from mithridate.victims.penalties import L2, Penalty, squared_norm
from mithridate.victims.rows import Rows
from mithridate.victims.rules import Exact, MinibatchSGD, TrainingRule
from mithridate.victims.spaces import gram
from mithridate.victims.spaces.dual import Dual, DualSolution, Leading, Point
from mithridate.victims.spaces.run import Loop, Plain, Run, scan

Space = Literal["auto", "plain", "gram"]


class Learner(eqx.Module):
    """A victim: its training is a pure function that can be run and differentiated.

    Arguments: a `model`; the `rule` that trains it (a `TrainingRule`, or `Exact`); the `loss` of one row; the
    `penalty`; the `space` of training: "gram", "plain", or "auto", which takes the cheaper one.

    Example:
        >>> import numpy as np
        >>> import mithridate as mi
        >>> learner = mi.Learner(mi.LogisticRegression(1), mi.GradientDescent(1.0, 50))
        >>> params = learner.fit(np.array([[-1.0], [1.0]]), np.array([0, 1]), log_strength=0.0)
        >>> learner.error(params, np.array([[-2.0], [2.0]]), np.array([0, 1]))
        0.0
    """

    model: Model
    rule: Any
    loss: Loss = cross_entropy
    penalty: Penalty = L2()
    space: Space = eqx.field(default="auto", static=True)

    def __check_init__(self):
        if not isinstance(self.rule, TrainingRule | Exact):
            raise InputError(f"rule = {self.rule!r}: neither a training rule nor Exact")
        if self.space == "gram":
            gram.check(self.model, self.penalty, self.solved)
        if self.solved and not curved(self.loss):
            raise InputError(
                f"the loss {described(self.loss)} has no second derivative but 0, and a victim that is solved to "
                "optimality needs one: use squared-hinge instead of a hinge, or train by steps"
            )

    def mean_loss(self, params: Any, blocks: tuple[Rows, ...]) -> Float[Array, ""]:
        """Return the weighted mean loss over all blocks of rows."""
        # Blocks are summed, not stacked: the derivative in one block then costs only that block's rows.
        total = sum(jnp.vdot(b.weight, self.loss(self.model.logits(params, b.x), b.y)) for b in blocks)
        size = _size(blocks)
        return total / jnp.where(size > 0, size, 1.0)  # a minibatch of rows that do not count has no loss

    def objective(
        self, params: Any, blocks: tuple[Rows, ...], log_strength: Float[Array, "*groups"], n: Float[Array, ""]
    ) -> Float[Array, ""]:
        """Return L on `blocks` with the penalty of a training set of n rows (`blocks` may be a minibatch)."""
        penalty = self.penalty(self.model.weights(params), log_strength)
        return self.mean_loss(params, blocks) + penalty / n

    def train(
        self, blocks: tuple[Rows, ...], log_strength: Float[Array, "*groups"], key: Key[Array, ""], loop: Loop = scan
    ) -> Any:
        """Return wT, trained on `blocks` from a w0 drawn with `key`; NaN if an `Exact` victim was not solved.

        Derivatives pass through λ and through the features of all blocks except the first.
        """
        if self.solved:
            return self.solve(blocks, log_strength, key).or_nan()
        run, state, schedule = self.begin(blocks, log_strength, key)
        return run.final(self.rule.final(loop(self.step, run, state, schedule)))

    def task(self, n_features: int) -> Classification:
        """Return the victim's task: to tell apart the classes of its model, which sees m features."""
        row = jax.ShapeDtypeStruct((1, n_features), jnp.zeros(()).dtype)
        made = jax.eval_shape(lambda x: self.model.logits(self.model.init(jax.random.key(0)), x), row)
        return Classification(2 if len(made.shape) == 1 else made.shape[1])

    @property
    def strength_shape(self) -> tuple[int, ...]:
        """The shape of λ: () for a number (the default of a penalty), or (groups,)."""
        return getattr(self.penalty, "shape", ())

    @property
    def solved(self) -> bool:
        """Whether the victim is solved to optimality rather than trained step by step."""
        return isinstance(self.rule, Exact)

    def solve(
        self, blocks: tuple[Rows, ...], log_strength: Float[Array, "*groups"], key: Key[Array, ""], start: Any = None
    ) -> Solution:
        """Return the minimiser of L for a rule that is `Exact`, found from `start` (default: w0)."""
        w0 = self.model.init(jax.random.split(key)[0])
        if self.chosen_space(blocks) == "gram":
            problem = self.dual(blocks, log_strength)
            return self._from_dual(blocks, problem.solve(problem.origin, self.rule))
        n = _size(blocks)
        start = w0 if start is None else start
        return minimise_convex(lambda p: self.objective(p, blocks, log_strength, n), w0, start, self.rule)

    def path(
        self,
        blocks: tuple[Rows, ...],
        log_strengths: Float[Array, "k *groups"],
        key: Key[Array, ""],
        measure: Callable[[Any], Float[Array, "*measured"]],
    ) -> Float[Array, "k *measured"]:
        """Return `measure` of the w trained with each λ.

        All are trained at once. An `Exact` victim goes from the last λ down; each optimum is the start of the next.
        """
        if not (self.solved and self.chosen_space(blocks) == "gram"):
            return jax.lax.map(
                lambda s: measure(self.train(blocks, s, key)), log_strengths, batch_size=min(34, len(log_strengths))
            )
        problem = self.dual(blocks, log_strengths[0])

        def solve(point: Point, log_strength: Array) -> tuple[Point, Array]:
            own = replace(problem, rho=jnp.exp(log_strength.reshape(())) / _size(blocks))
            # ρ·a changes less along the path than a does.
            found = own.solve(Point(point.coefs / own.rho, point.bias), self.rule)
            scaled = Point(found.point.coefs * own.rho, found.point.bias)
            return scaled, measure(self._from_dual(blocks, found).or_nan())

        return jax.lax.scan(solve, problem.origin, log_strengths, reverse=True)[1]

    def _from_dual(self, blocks: tuple[Rows, ...], found: DualSolution) -> Solution:
        weight = gram.from_rows(tuple(b.x for b in blocks), found.point.coefs)
        return Solution(LinearParams(weight, found.point.bias), *found[2:])

    def dual(
        self, blocks: tuple[Rows, ...], log_strength: Float[Array, "*groups"], leading: Leading | None = None
    ) -> Dual:
        """Return the training problem in the coordinates of the rows (linear models with an L2 penalty)."""
        strength = jnp.exp(log_strength.reshape(()))
        return Dual.of(
            self.loss, blocks, gram.gram_matrix(blocks)[0], strength / _size(blocks), leading or Leading.of(blocks[0].x)
        )

    def begin(
        self, blocks: tuple[Rows, ...], log_strength: Float[Array, "*groups"], key: Key[Array, ""]
    ) -> tuple[Run, Any, PyTree[Array]]:
        """Return a training run, the state before its first step and its schedule."""
        n = _size(blocks)
        init_key, rule_key = jax.random.split(key)
        params = self.model.init(init_key)
        if self.chosen_space(blocks) == "gram":
            run = gram.Gram.of(self.model, self.loss, self.penalty, blocks, log_strength, n, params)  # pyright: ignore[reportArgumentType]
        else:
            run = Plain(self.objective, blocks, log_strength, n)
        schedule = self.rule.schedule(jnp.concatenate([b.weight for b in blocks]), rule_key)
        return run, self.rule.start(run.start(params)), schedule

    def step(self, run: Run, state: Any, item: PyTree[Array]) -> Any:
        """Return the state after one step of a run."""
        return self.rule.step(run.gradient, state, item)

    def chosen_space(self, blocks: tuple[Rows, ...], reused: bool = False) -> Literal["plain", "gram"]:
        """Return the space in which `train` runs on blocks with these shapes.

        With `reused`, return the space that is cheapest for many runs, when the first block has its Gram matrix.
        """
        if self.space != "auto":
            return self.space
        if gram.why_not(self.model, self.penalty):
            return "plain"
        if self.solved:
            cheaper = sum(len(b.y) for b in blocks) < 2 * blocks[0].x.shape[1]
            return "gram" if cheaper and gram.solves(self.model, self.penalty) else "plain"
        weight = jax.ShapeDtypeStruct((sum(len(b.y) for b in blocks),), blocks[0].x.dtype)
        schedule = jax.eval_shape(self.rule.schedule, weight, jax.random.key(0))
        batch = self.rule.batch_size if isinstance(self.rule, MinibatchSGD) else None
        steps, width = len(jax.tree.leaves(schedule)[0]), gram.width_of(self.model)  # pyright: ignore[reportArgumentType]
        return "gram" if gram.pays(blocks, width, steps, batch, reused) else "plain"

    def weight_norm_sq(self, params: Any) -> Float[Array, ""]:
        """Return ‖w‖², without the biases."""
        return squared_norm(self.model.weights(params))

    def with_rule(self, rule: TrainingRule | Exact) -> "Learner":
        """Return the same victim with another training rule."""
        return replace(self, rule=rule)

    def fit(
        self, x: np.ndarray, y: np.ndarray, log_strength: float | np.ndarray, key: Key[Array, ""] | None = None
    ) -> Any:
        """Return wT for arrays x (n, m) and labels y (n,) in 0 … K − 1."""
        key = jax.random.key(0) if key is None else key
        return _train(self, (Rows.of(x, y),), jnp.asarray(log_strength, dtype=float), key)

    def predict(self, params: Any, x: np.ndarray) -> np.ndarray:
        """Return the class (n,) of each row of x (n, m)."""
        return np.asarray(
            self.task(x.shape[1]).predicted(self.model.logits(params, jnp.asarray(x, dtype=float)))
        ).astype(int)

    def error(self, params: Any, x: np.ndarray, y: np.ndarray) -> float:
        """Return the share of rows of (x, y) that are misclassified."""
        return float(np.mean(self.predict(params, x) != y))

    def curvature(self, rows: Rows, log_strength: float | Float[np.ndarray, "*groups"]) -> float:
        """Return the largest eigenvalue of ∇²L at w0, by Lanczos with Hessian-vector products (Eq. 7).

        For logistic regression at w0 = 0 it is the maximum over all w, since σ' is largest there.
        """
        params = self.model.init(jax.random.key(0))
        strength, leaves = jnp.asarray(log_strength, dtype=float), jax.tree.leaves(params)
        size, dtype = sum(leaf.size for leaf in leaves), jnp.result_type(*leaves)

        def product(v: np.ndarray) -> np.ndarray:
            out = _hessian_product(self, params, rows, strength, jnp.asarray(v.ravel().astype(dtype)))
            return np.asarray(out, dtype=np.float64)

        operator = LinearOperator((size, size), matvec=product, dtype=np.float64)
        start = np.ones(size)
        return float(eigsh(operator, k=1, which="LA", v0=start, tol=1e-3, return_eigenvectors=False)[0])

    def stability(self, rows: Rows, log_strength: float | Float[np.ndarray, "*groups"]) -> float:
        """Return η·curvature on these rows: full-batch gradient descent diverges from w0 when it exceeds 2.

        0 for a victim that takes no such steps.
        """
        if self.solved:
            return 0.0
        return self.rule.learning_rate * self.curvature(rows, log_strength)


def _size(blocks: tuple[Rows, ...]) -> Float[Array, ""]:
    return jnp.sum(jnp.stack([b.size for b in blocks]))


@eqx.filter_jit
@exact
def _train(learner: Learner, blocks: tuple[Rows, ...], log_strength: Array, key: Array) -> Any:
    return learner.train(blocks, log_strength, key)


@eqx.filter_jit
@exact
def _hessian_product(learner: Learner, params: Any, rows: Rows, log_strength: Array, v: Array) -> Array:
    """Return ∇²L·v, both as vectors of all parameters."""
    gradient = jax.grad(lambda p: learner.objective(p, (rows,), log_strength, rows.size))
    return ravel_pytree(jax.jvp(gradient, (params,), (ravel_pytree(params)[1](v),))[1])[0]
