"""Algorithm 1: what it may touch, what it must keep, and that it does harm."""

import itertools
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mithridate as mi
from mithridate.attacks.outer import OuterStep
from mithridate.hypergradients import Status
from mithridate.hypergradients.steps import hyper_rule, poison_rule

BOX = mi.Box(0.0, 1.0)
PHI = mi.Box(-8.0, float(np.log(200)))


@pytest.fixture(scope="module")
def attack(learner, digits) -> mi.Attack:
    return mi.Attack(
        learner=learner,
        target=(digits.x_valid, digits.y_valid),
        feasible=BOX,
        policy=mi.Fixed(-8.0),
        points=9,
        batch=4,
        steps=20,
        seed=7,
    )


@pytest.fixture(scope="module")
def stages(attack, digits) -> list[mi.Poisoning]:
    return list(attack.run(digits.x_train, digits.y_train))


def test_works_as_in_art_and_leaves_its_inputs_alone(attack, digits):
    x, y = digits.x_train.copy(), digits.y_train.copy()
    x_p, y_p = attack.poison(x, y)
    assert x_p.shape == (9, 64)
    assert y_p.shape == (9,)
    np.testing.assert_array_equal(x, digits.x_train)
    np.testing.assert_array_equal(y, digits.y_train)
    np.testing.assert_array_equal(attack.target[0], digits.x_valid)


def test_the_sweep_is_nested_and_its_last_batch_may_be_smaller(stages):
    assert [len(s.y_poison) for s in stages] == [0, 4, 8, 9]
    for smaller, larger in itertools.pairwise(stages):
        k = len(smaller.y_poison)
        np.testing.assert_array_equal(larger.x_poison[:k], smaller.x_poison)
        np.testing.assert_array_equal(larger.replaced[:k], smaller.replaced)
    assert [s.ratio for s in stages] == pytest.approx([0, 4 / 60, 8 / 60, 9 / 60])
    assert [len(s.history) for s in stages] == [0, 20, 40, 60]
    assert all((s.statuses == "ok").all() for s in stages)


def test_points_start_as_validation_rows_with_flipped_labels(stages, digits):
    last = stages[-1]
    for start, label in zip(last.x_start, last.y_poison, strict=True):
        (source,) = np.flatnonzero((digits.x_valid == start).all(axis=1))
        assert label == 1 - digits.y_valid[source]


def test_replaced_rows_are_distinct_and_the_rest_is_untouched(stages, digits):
    last = stages[-1]
    x, y = last.apply(digits.x_train, digits.y_train)
    assert x.shape == digits.x_train.shape
    assert len(set(last.replaced)) == 9
    changed = np.flatnonzero((x != digits.x_train).any(axis=1) | (y != digits.y_train))
    assert set(changed) <= set(last.replaced)
    np.testing.assert_array_equal(x[last.replaced], last.x_poison.astype(x.dtype))
    np.testing.assert_array_equal(y[last.replaced], last.y_poison)


def test_added_points_keep_every_training_row(attack, digits):
    *_, last = replace(attack, budget="added").run(digits.x_train, digits.y_train)
    x, y = last.apply(digits.x_train, digits.y_train)
    assert last.replaced is None
    assert last.ratio == pytest.approx(9 / 69)
    np.testing.assert_array_equal(x[:60], digits.x_train)
    np.testing.assert_array_equal(y[60:], last.y_poison)


def test_the_attack_does_more_harm_than_its_start(stages, learner, digits):
    for stage in stages[1:]:
        assert stage.value > stage.value_start
        poisoned = learner.fit(*stage.apply(digits.x_train, digits.y_train), stage.log_strength)
        flipped = learner.fit(*stage.apply_start(digits.x_train, digits.y_train), stage.log_strength)
        target = (mi.Rows.of(digits.x_valid, digits.y_valid),)
        assert float(learner.mean_loss(poisoned, target)) == pytest.approx(stage.value, rel=1e-3)
        assert float(learner.mean_loss(flipped, target)) < 0.8 * stage.value


def test_the_same_seed_gives_the_same_points_and_another_does_not(attack, stages, digits):
    again, other = (a.poison(digits.x_train, digits.y_train) for a in (attack, replace(attack, seed=8)))
    np.testing.assert_array_equal(again.x_poison, stages[-1].x_poison)
    assert not np.array_equal(other.x_start, stages[-1].x_start)


def infeasible_after(box: Any, feasible: mi.Box, learner, digits, steps: int = 6) -> float:
    """The farthest that any point lies outside `feasible` after any of the steps, projecting onto `box`."""
    target = mi.Rows.of(digits.x_valid, digits.y_valid)
    problem = mi.Bilevel(learner, mi.Rows.of(digits.x_train[5:], digits.y_train[5:]), jnp.ones(5), target)
    step = OuterStep(mi.Reverse(), box, PHI, poison_rule("normalised", 0.99), hyper_rule("constant", 0.99))
    state, worst = step.init(problem, jnp.asarray(digits.x_valid[:5]), jnp.zeros(()), jax.random.key(0)), 0.0
    for _ in range(steps):
        state, _ = eqx.filter_jit(step)(problem, state, jax.random.key(0))
        points = np.asarray(state.x_poison)
        outside = np.maximum(feasible.low.astype(np.float32) - points, points - feasible.high.astype(np.float32))
        worst = max(worst, float(outside.max()))
        assert PHI.low <= state.log_strength <= PHI.high
    return worst


class _Unprojected(mi.Box):
    def project(self, x: jax.Array) -> jax.Array:
        return x


def test_points_are_feasible_after_every_step(learner, digits):
    tight = mi.Box(0.2, np.linspace(0.5, 0.9, 64))
    assert infeasible_after(tight, tight, learner, digits) <= 0


def test_a_missing_projection_is_noticed(learner, digits):
    assert infeasible_after(_Unprojected(np.zeros(()), np.ones(())), BOX, learner, digits) > 0.05


class _Counting(mi.Reverse):
    """Counts how often it is traced, which is once per compilation."""

    traced = []  # noqa: RUF012

    def __call__(self, problem, x_poison, log_strength, key, memory=()):
        self.traced.append(x_poison.shape)
        return super().__call__(problem, x_poison, log_strength, key)


def test_one_compilation_per_shape_over_ratios_seeds_and_strengths(attack, digits):
    _Counting.traced.clear()
    for policy in (mi.Fixed(-8.0), mi.Fixed(1.0)):
        for seed in (1, 2):
            own = replace(attack, hypergradient=_Counting(), policy=policy, seed=seed, points=8, rounds=2, steps=4)
            own.poison(digits.x_train, digits.y_train)
    # The scan traces its body more than once per compilation, but never for another shape or another λ.
    once = len(_Counting.traced)
    replace(attack, hypergradient=_Counting(), points=10, seed=3, rounds=2, steps=4).poison(
        digits.x_train, digits.y_train
    )
    assert len(_Counting.traced) == once
    assert set(_Counting.traced) == {(4, 64)}


def test_learned_strength_is_the_best_response_and_rises_with_poison(attack, digits, learner):
    stages = list(
        replace(attack, policy=mi.Learned(), points=15, batch=5, steps=40).run(digits.x_train, digits.y_train)
    )
    target = mi.Rows.of(digits.x_valid, digits.y_valid)
    for stage in stages:
        x, y = stage.apply(digits.x_train, digits.y_train)
        grid = np.arange(-8.0, np.log(200), 0.25)
        losses = [float(learner.mean_loss(learner.fit(x, y, s), (target,))) for s in grid]
        here = float(learner.mean_loss(learner.fit(x, y, stage.log_strength), (target,)))
        assert here <= min(losses) * (1 + 1e-4)
    assert stages[-1].log_strength > stages[0].log_strength + 1


def test_the_attack_on_a_tuned_defender_beats_an_attack_that_ignores_the_tuning(attack, digits, learner):
    """Points crafted against λ fixed low do less harm, once λ is tuned, than points that foresaw it."""
    target = mi.Rows.of(digits.x_valid, digits.y_valid)
    values = []
    for policy in (mi.Fixed(-8.0), mi.Learned()):
        crafted = replace(attack, policy=policy, points=15, batch=5, steps=40).poison(digits.x_train, digits.y_train)
        x, y = crafted.apply(digits.x_train, digits.y_train)
        problem = mi.Bilevel(learner, mi.Rows.of(x, y), jnp.zeros(0), target)
        tuned = mi.Learned().respond(problem, jnp.zeros((0, 64)), np.zeros(()), jax.random.key(0))
        values.append(float(learner.mean_loss(learner.fit(x, y, tuned), (target,))))
    assert values[1] > values[0] * 1.02


def test_the_paper_s_plain_rule_stays_available(attack, digits, learner):
    """Constant normalised steps, no closing solve, the last iterate, two passes from fresh w0."""
    plain = mi.Learned(PHI, hyper_rule("constant", 0.99), closing=False)
    noisy = mi.Learner(mi.LogisticRegression(64, init_std=0.1), learner.rule)
    own = replace(attack, policy=plain, learner=noisy, select="last", rounds=1)
    runs = {
        (alternate, initial): replace(own, alternate=alternate, initial=initial).poison(digits.x_train, digits.y_train)
        for alternate, initial in ((False, "fixed"), (True, "fixed"), (True, "fresh"))
    }
    for run in runs.values():
        assert run.history[-1] > run.history[0]
        assert run.log_strength == run.descended
    histories = [tuple(run.history) for run in runs.values()]
    assert len(set(histories)) == 3, "an option changes nothing"


class _Broken(mi.Reverse):
    def __call__(self, problem, x_poison, log_strength, key, memory=()):
        found = super().__call__(problem, x_poison, log_strength, key)
        return found._replace(poison=found.poison * jnp.nan, status=Status.non_finite)


def test_steps_are_not_taken_from_a_broken_derivative(attack, digits):
    for rule in ("normalised", "adam"):
        own = replace(attack, hypergradient=_Broken(), ascent=poison_rule(rule, 0.5))
        broken = own.poison(digits.x_train, digits.y_train)
        assert (broken.statuses == "non_finite").all()
        np.testing.assert_array_equal(broken.x_poison, broken.x_start)


def test_one_w0_serves_a_whole_batch_unless_it_is_to_be_fresh(attack, digits, learner):
    """With a negligible step the points stand still, and A changes only with w0."""
    noisy = mi.Learner(mi.LogisticRegression(64, init_std=0.3), learner.rule)
    still = replace(attack, learner=noisy, ascent=poison_rule("normalised", 1e-30), points=4, rounds=3, steps=6)
    fixed, fresh = (replace(still, initial=w0).poison(digits.x_train, digits.y_train) for w0 in ("fixed", "fresh"))
    np.testing.assert_allclose(fixed.history, fixed.value_start, rtol=1e-5)
    assert len(np.unique(fresh.history)) == 6


def test_rows_of_integers_are_not_rounded(stages, digits):
    x, _ = stages[-1].apply((255 * digits.x_train).astype(np.uint8), digits.y_train)
    np.testing.assert_array_equal(x[stages[-1].replaced], stages[-1].x_poison)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"points": 0}, "points = 0"),
        ({"points": 61}, "points = 61: at most 60"),
        ({"batch": -1}, "batch = -1"),
        ({"steps": 0}, "steps = 0"),
        ({"rounds": 0}, "rounds = 0"),
        ({"initial": 0}, "initial = 0: use 'fixed', 'fresh', or the number of draws"),
    ],
)
def test_numbers_out_of_range_are_refused_at_once(attack, digits, changes, message):
    with pytest.raises(mi.InputError, match=message):
        replace(attack, **changes).run(digits.x_train, digits.y_train)


def test_bad_rows_are_refused_at_once(attack, digits):
    x = digits.x_train.copy()
    x[3, 5] = np.nan
    with pytest.raises(mi.InputError, match="row 3, column 5"):
        attack.run(x, digits.y_train)
    with pytest.raises(mi.InputError, match="labels must be 0 or 1"):
        attack.run(digits.x_train, digits.y_train * 2)
    with pytest.raises(mi.InputError, match="30 features"):
        attack.run(digits.x_train[:, :30], digits.y_train)
    with pytest.raises(mi.InputError, match="the wrong way round"):
        mi.Box(1.0, 0.0)
