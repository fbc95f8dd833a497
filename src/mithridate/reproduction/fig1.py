"""Fig. 1 (Sect. 4, App. D.1): what a single poisoning point can do to logistic regression in the plane.

The point x_p, with label 1, is put at every place of a grid on Φ(X_p). The victim is trained on D_tr ∪ {(x_p, 1)}
without regularisation (λ = −8), with λ = log 20, and with the λ that the defender learns there by Eq. 1,

    λ(x_p) = argmin over λ in Φ(λ) of L(D_val, w*(x_p, λ)).

So one map is a few thousand bilevel problems. They are solved as one batched, compiled loop over the places. The attack
itself is Algorithm 1 with one point, against either fixed λ.

The paper leaves some choices open. Here the grid is ours, Φ(λ) is that of MNIST, no regularisation means λ = −8, and
the penalty is divided by the number of rows (see `penalties`); otherwise gradient descent with η = 0.2 and λ = log 20
diverges.

The evaluation differs from App. D.1 in one respect: minibatches have 33 rows, not 32. There are 33 rows with the
poison. With minibatches of 32, in every 33rd epoch the poison is left for a step of its own, as large as the step of
all other rows together. Such a last step decides what the victim is, with up to 100 % of the validation rows wrong,
also with λ = log 20, and the map then shows the order in which the rows were drawn. The columns `minibatch_*` follow
the paper exactly.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Array, Float, Int, Key

from mithridate.attacks.bilevel import Attack
from mithridate.attacks.outer import OuterStep
from mithridate.auditing.assembly import evaluation_rule
from mithridate.auditing.audit import Progress, versions
from mithridate.auditing.scenario import Scenario
from mithridate.configuration.config import AuditConfig
from mithridate.data.catalogue import load_dataset
from mithridate.data.datasets import Split
from mithridate.data.feasible import Box
from mithridate.defences.tuning import POINTS, TIE
from mithridate.errors import InputError
from mithridate.hypergradients import STATUSES, Bilevel, Reverse
from mithridate.reproduction import fig1_claims
from mithridate.reproduction.fig1_claims import LEARNED, NONE, STRONG
from mithridate.reproduction.outcome import Reproduction
from mithridate.seeds import key
from mithridate.victims.learner import Learner
from mithridate.victims.rows import Rows
from mithridate.victims.rules import MinibatchSGD

DATASET = "synthetic"
SIZES = {"quick": (5, 39), "paper": (10, 77)}
"""By preset: the number of draws of the data, and of places along each axis of Φ(X_p) (every 0.5 or every 0.25)."""
TOGETHER = 32
"""How many places' victims are trained as one batch: their weights for all λ fit into the cache."""
GRIDS = 3
"""How often the interval of λ is refined, as in `tuning.minimise`."""


class Measured(NamedTuple):
    """What was measured of the victim with the poison at each of k places.

    Loss and error on the validation rows; error on the test rows; `changed`, the share of test rows that are classified
    differently than by the victim trained at the first place; weights and bias.
    """

    valid_loss: Float[Array, " k"]
    valid_error: Float[Array, " k"]
    test_error: Float[Array, " k"]
    changed: Float[Array, " k"]
    w1: Float[Array, " k"]
    w2: Float[Array, " k"]
    bias: Float[Array, " k"]


def run(
    dataset: str | None = None,
    *,
    preset: str = "quick",
    splits: int | None = None,
    seed: int = 0,
    side: int | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Reproduction:
    """Reproduce Fig. 1.

    Arguments: `dataset`, which can only be the synthetic one; `preset`, quick (5 splits, 39 × 39 places) or paper
    (10 splits, 77 × 77 places); `splits`, the number of draws of the data; `side`, the number of places along each
    axis; `on_progress` as in `audit`. Raises `InputError` before anything is computed.
    """
    if dataset not in (None, DATASET):
        raise InputError(f"fig1 is drawn in the plane of the data set {DATASET!r}; it cannot be made on {dataset!r}")
    usual, places = SIZES.get(preset, (None, None))  # an unknown preset is the configuration's to refuse
    splits, side = (given if given is not None else own for given, own in ((splits, usual), (side, places)))
    policies = (NONE, STRONG, LEARNED)
    config = AuditConfig.of(
        attack="bilevel", dataset=DATASET, preset=preset, splits=splits, seed=seed, points=1, policies=policies
    )
    if side is None or side < 2:
        raise InputError(f"side = {side}: at least 2 places along each axis")
    frame = compute(config, side, on_progress)
    settings = {"config": config.model_dump(mode="json"), "side": side, "versions": versions()}
    caption = fig1_claims.caption(frame, config, versions())
    return Reproduction("fig1", frame, tuple(fig1_claims.claims(frame)), caption, settings, fig1_claims.draw(frame))


def compute(config: AuditConfig, side: int, on_progress: Callable[[Progress], None]) -> pd.DataFrame:
    """Return one row per thing that can be drawn, of these kinds (column `kind`).

    `train` and `valid`: the data, `x1`, `x2` and `label`. The others exist for each policy, with the columns of
    `answered` and `inner_steps` (T as run). `clean`: without poison. `path`: the point at `step` 0, 1, … of the attack,
    and the `status` of the hypergradient of the step that led there (for the learned λ, the path is that against λ =
    −8, with λ learned at each point). `map`: the point at each place of the grid.
    """
    data, frames = load_dataset(DATASET), []
    assert data.bounds is not None
    axis = np.linspace(*data.bounds, side)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    total = config.splits * len(config.policies)
    for index in range(config.splits):
        scenario = Scenario.of(data, config, index)
        split = scenario.split
        for kind in ("train", "valid"):
            x, y = getattr(split, f"x_{kind}"), getattr(split, f"y_{kind}")
            frames.append(pd.DataFrame({"split": index, "kind": kind, "x1": x[:, 0], "x2": x[:, 1], "label": y}))
        paths: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for number, attack in enumerate(scenario.attacks):
            assert isinstance(attack, Attack)  # by the configuration
            policy = attack.policy
            at = f"split {index + 1}/{config.splits} · {policy.name}"
            on_progress(Progress(index * len(config.policies) + number, total, at))
            if policy.name != LEARNED:
                paths[policy.name] = ascend(attack, split)
            path, statuses = paths[NONE if policy.name == LEARNED else policy.name]
            places = np.concatenate([np.zeros((1, 2)), path, grid])
            frame = answered(attack, config, split, places, there=np.arange(len(places)) > 0)
            kinds = ["clean"] + ["path"] * len(path) + ["map"] * len(grid)
            frame = frame.assign(split=index, policy=policy.name, kind=kinds, inner_steps=attack.learner.rule.steps)
            frame.loc[frame["kind"] == "clean", ["x1", "x2"]] = np.nan
            on_path = frame["kind"] == "path"
            frame.loc[on_path, "step"] = np.arange(len(path))
            frame.loc[on_path, "status"] = ["", *statuses]
            frames.append(frame)
    on_progress(Progress(total, total, "done"))
    return pd.concat(frames, ignore_index=True)


def problem_of(attack: Attack, split: Split) -> Bilevel:
    """Return the problem of a split: its training rows with one poisoning point of label 1, and its validation rows."""
    rest, valid = Rows.of(split.x_train, split.y_train), Rows.of(split.x_valid, split.y_valid)
    return Bilevel(attack.learner, rest, jnp.ones(1), valid, jnp.ones(1))


def answered(attack: Attack, config: AuditConfig, split: Split, places: np.ndarray, there: np.ndarray) -> pd.DataFrame:
    """Return the defender's λ and the measurements, with the poison at each of the places (k, 2), if `there`.

    The attack's policy is a fixed λ, or the λ learned by Eq. 1 at each place. `attacker_loss` is A, the validation loss
    after the attack's inner training. The columns of `Measured` are of the victim retrained by SGD in minibatches that
    hold all rows; `minibatch_valid_error`, `_test_error` and `_changed` are for the configuration's minibatches.
    """
    problem, strengths = problem_of(attack, split), attack.policy.strengths
    given = (jnp.asarray(places, dtype=float), jnp.asarray(there, dtype=float))
    inner, retrain = key(attack.seed, "attack"), key(attack.seed, "retrain")
    if attack.policy.name == LEARNED:
        log_strengths = best_responses(problem, strengths, *given, inner)
    else:
        log_strengths = jnp.full(len(places), float(strengths.low))
    columns: dict[str, Array] = {"log_strength": log_strengths}
    columns["attacker_loss"] = attacker_losses(problem, log_strengths, *given, inner)
    test, to_the_letter = Rows.of(split.x_test, split.y_test), evaluation_rule(config)
    whole = MinibatchSGD(config.train_learning_rate, config.train + config.points, config.epochs)
    for prefix, rule in (("", whole), ("minibatch_", to_the_letter)):
        victim = attack.learner.with_rule(rule)
        found = measure(problem, victim, test, log_strengths, *given, retrain)._asdict()
        kept = found if not prefix else ("valid_error", "test_error", "changed")
        columns |= {prefix + name: found[name] for name in kept}
    values = {name: np.asarray(column, dtype=float) for name, column in columns.items()}
    return pd.DataFrame({"x1": places[:, 0], "x2": places[:, 1], **values})


def ascend(attack: Attack, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Return the point's path (steps + 1, 2) by Algorithm 1 against a fixed λ, and the statuses of its steps (steps,).

    The point starts as a clone of a validation row of class 0, with label 1. Every such row is tried, since a single
    point may end at a local maximum. The path with the highest A is returned.
    """
    outer = OuterStep(Reverse(), attack.feasible, attack.policy.strengths, attack.ascent, None)
    starts = jnp.asarray(split.x_valid[split.y_valid == 0], dtype=float)
    strength = jnp.asarray(attack.policy.strengths.low, dtype=float)
    given = (outer, problem_of(attack, split), starts, strength, key(attack.seed, "attack"))
    path, values, statuses = (np.asarray(found) for found in _paths(*given, attack.steps))
    best = np.argmax(values.max(axis=1))
    return path[best], np.array(STATUSES)[statuses[best]]


@eqx.filter_jit
def _paths(
    outer: OuterStep,
    problem: Bilevel,
    starts: Float[Array, "k m"],
    log_strength: Float[Array, ""],
    key: Key[Array, ""],
    steps: int,
) -> tuple[Float[Array, "k steps_and_1 m"], Float[Array, "k steps"], Int[Array, "k steps"]]:
    """Return the path from each start, A before each step, and the steps' statuses."""

    def climb(start: Array) -> tuple[Array, Array, Array]:
        def step(state: Any, _: None) -> tuple[Any, Any]:
            state, info = outer(problem, state, key)
            return state, (state.x_poison[0], info.value, info.status)

        first = outer.init(problem, start[None], log_strength, key)
        _, (path, values, statuses) = jax.lax.scan(step, first, None, length=steps)
        return jnp.concatenate([first.x_poison, path]), values, statuses

    return _over_places(climb, starts)


@eqx.filter_jit
def best_responses(
    problem: Bilevel,
    strengths: Box,
    places: Float[Array, "k m"],
    there: Float[Array, " k"],
    key: Key[Array, ""],
) -> Float[Array, " k"]:
    """Return λ(x_p) of Eq. 1 for the one poisoning point at each place; the point has the weight `there`.

    This is `tuning.minimise` of `tuning.validation_losses` for all places together: three grids of 17 λ, each about the
    minimiser on the last, with ties going to the smallest. NaN where no loss was finite.
    """
    low, high = (jnp.asarray(bound, dtype=float) for bound in (strengths.low, strengths.high))

    def respond(given: tuple[Array, Array]) -> Array:
        own, x_poison = _with_point(problem, given)
        left, right, best = low, high, low
        for _ in range(GRIDS):
            cell = (right - left) / (POINTS - 1)
            grid = left + cell * jnp.arange(float(POINTS))
            losses = problem.learner.path(own.blocks(x_poison), grid, key, problem.attacker_loss)
            losses = jnp.where(jnp.isfinite(losses), losses, jnp.inf)
            least = jnp.min(losses)
            best = jnp.where(jnp.isfinite(least), grid[jnp.argmax(losses <= least + TIE * jnp.abs(least))], jnp.nan)
            left, right = jnp.maximum(low, best - cell), jnp.minimum(high, best + cell)
        return best

    return _over_places(respond, (places, there))


@eqx.filter_jit
def attacker_losses(
    problem: Bilevel,
    log_strengths: Float[Array, " k"],
    places: Float[Array, "k m"],
    there: Float[Array, " k"],
    key: Key[Array, ""],
) -> Float[Array, " k"]:
    """Return A(wT) with the poison at each place, for the λ of that place."""

    def value(given: tuple[tuple[Array, Array], Array]) -> Array:
        own, x_poison = _with_point(problem, given[0])
        return own.value(x_poison, given[1], key)

    return _over_places(value, ((places, there), log_strengths))


@eqx.filter_jit
def measure(
    problem: Bilevel,
    victim: Learner,
    test: Rows,
    log_strengths: Float[Array, " k"],
    places: Float[Array, "k m"],
    there: Float[Array, " k"],
    key: Key[Array, ""],
) -> Measured:
    """Train a victim from scratch with the poison at each place, for the λ of that place, and measure it."""

    def train(given: tuple[tuple[Array, Array], Array]) -> Any:
        own, x_poison = _with_point(problem, given[0])
        return victim.train(own.blocks(x_poison), given[1], key)

    def predicted(params: Any, rows: Rows) -> Array:
        return victim.model.logits(params, rows.x) > 0

    params = _over_places(train, ((places, there), log_strengths))
    first = predicted(jax.tree.map(lambda leaf: leaf[0], params), test)

    def judge(params: Any) -> Measured:
        on_test, valid = predicted(params, test), problem.target
        return Measured(
            problem.attacker_loss(params),
            jnp.mean(predicted(params, valid) != (valid.y > 0)),
            jnp.mean(on_test != (test.y > 0)),
            jnp.mean(on_test != first),
            params.weight[0],
            params.weight[1],
            params.bias,
        )

    return _over_places(judge, params)


def _with_point(problem: Bilevel, given: tuple[Array, Array]) -> tuple[Bilevel, Array]:
    """Return the problem with one poisoning point of the given weight, and its place as X_p (1, m)."""
    place, there = given
    return replace(problem, poison_weight=there[None]), place[None]


def _over_places(function: Callable[[Any], Any], given: Any) -> Any:
    """Map a function over the first axis, a batch of places at a time."""
    return jax.lax.map(function, given, batch_size=min(TOGETHER, len(jax.tree.leaves(given)[0])))
