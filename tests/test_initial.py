"""w0 of inner training: fixed, fresh at every step, or several at once of which the mean is taken."""

from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest

import mithridate as mi
from mithridate.auditing.scenario import Scenario
from mithridate.auditing.threat import threat_model
from mithridate.hypergradients import Status
from mithridate.hypergradients.steps import poison_rule
from problems import SEED, M, bilevel, draw, jit, point

NOISY = mi.Learner(mi.LogisticRegression(M, init_std=1.0), mi.GradientDescent(0.2, 10))


@pytest.mark.parametrize(
    "method",
    [pytest.param(mi.Reverse(), id="Reverse"), pytest.param(mi.Implicit(), id="Implicit", marks=pytest.mark.slow)],
)
def test_an_average_is_the_mean_of_its_draws(method):
    arrays = draw(np.random.default_rng(SEED))
    with jax.enable_x64(True):
        problem, (x, strength, key) = bilevel(arrays, NOISY), point(arrays)
        found = jit(mi.Averaged(method, 3))(problem, x, strength, key)
        parts = [jit(method)(problem, x, strength, k) for k in jax.random.split(key, 3)]
    assert len({float(part.value) for part in parts}) == 3
    for name in ("value", "poison", "hyper"):
        mean = np.mean([getattr(part, name) for part in parts], axis=0)
        np.testing.assert_allclose(getattr(found, name), mean, rtol=1e-9)
    for name, value in found.diagnostics.items():
        assert float(value) == pytest.approx(np.mean([part.diagnostics[name] for part in parts]), rel=1e-9)
    assert bool(found.status == parts[0].status)


class Doubtful(mi.Reverse):
    """Says drifted where A is above a threshold, else what `Reverse` says."""

    threshold: float = 0.0

    def __call__(self, problem, x_poison, log_strength, key, memory=()):
        found = super().__call__(problem, x_poison, log_strength, key)
        return found._replace(status=Status.where(found.value > self.threshold, Status.drifted, found.status))


def test_an_average_is_no_better_than_its_worst_draw():
    arrays = draw(np.random.default_rng(SEED))
    problem, (x, strength, key) = bilevel(arrays, NOISY), point(arrays)
    values = sorted(float(jit(problem.value)(x, strength, k)) for k in jax.random.split(key, 4))
    for threshold, status in ((values[-1] + 1e-3, Status.ok), (np.mean(values[-2:]), Status.drifted)):
        found = jit(mi.Averaged(Doubtful(float(threshold)), 4))(problem, x, strength, key)
        assert bool(found.status == status)


def test_an_average_remembers_for_every_draw():
    """A solved victim's warm starts, one for each draw, travel through the compiled loop of an attack."""
    learner, method = mi.Learner(mi.LogisticRegression(M), mi.Exact()), mi.Averaged(mi.Implicit(), 2)
    with jax.enable_x64(True):
        problem = bilevel(draw(np.random.default_rng(SEED)), learner)
        at = point(draw(np.random.default_rng(SEED)))

        def step(memory, _):
            found = method(problem, *at, memory)
            return found.memory, found

        memory, found = jit(lambda: jax.lax.scan(step, method.start(problem, *at), length=3))()
        alone = jit(mi.Implicit())(problem, *at)
    assert memory.calls.tolist() == [3, 3]
    np.testing.assert_allclose(found.poison[-1], alone.poison, rtol=1e-6)
    assert float(found.diagnostics["cg_steps"][-1]) < float(alone.diagnostics["cg_steps"])


def _attack(digits: mi.Split, learner: mi.Learner, **options: Any) -> mi.Attack:
    target = (digits.x_valid, digits.y_valid)
    given = {"policy": mi.Fixed(-8.0), "points": 4, "rounds": 3, "steps": 6} | options
    return mi.Attack(learner=learner, target=target, feasible=mi.Box(0.0, 1.0), **given)


def test_w0_is_fresh_at_every_step_fixed_or_averaged(digits):
    """Points that stand still: A changes with w0 alone."""
    learner = mi.Learner(mi.LogisticRegression(64, init_std=0.3), mi.GradientDescent(0.4, 20))
    still = _attack(digits, learner, ascent=poison_rule("normalised", 1e-30))
    runs = {w0: replace(still, initial=w0).poison(digits.x_train, digits.y_train) for w0 in ("fixed", "fresh", 3)}
    by_hand = replace(still, initial="fresh", hypergradient=mi.Averaged(mi.Reverse(), 3))
    np.testing.assert_allclose(runs["fixed"].history, runs["fixed"].value_start, rtol=1e-5)
    for w0 in ("fresh", 3):
        assert len(np.unique(runs[w0].history)) == 6
        assert runs[w0].value_start == runs["fixed"].value_start, "a round's end is measured from the same w0"
    np.testing.assert_array_equal(runs[3].history, by_hand.poison(digits.x_train, digits.y_train).history)
    assert len({tuple(run.history) for run in runs.values()}) == 3


def test_a_mean_is_over_at_least_one_draw():
    with pytest.raises(mi.InputError, match="draws = 0"):
        mi.Averaged(mi.Reverse(), 0)


@pytest.mark.parametrize(
    ("options", "initial", "words"),
    [
        ({}, "fixed", "one w0 for each batch"),
        ({"model": "mlp"}, "fresh", "drawn again at every outer step"),
        ({"model": mi.MLP}, "fresh", "drawn again at every outer step"),
        ({"model": "mlp", "initial": "fixed"}, "fixed", "one w0 for each batch"),
        ({"model": "mlp", "initial": "5"}, 5, "the mean over 5 w0 drawn again"),
        ({"initial": 2}, 2, "the mean over 2 w0 drawn again"),
    ],
)
def test_a_configuration_says_which_w0(options, initial, words):
    config = mi.AuditConfig.of(dataset="synthetic", stabilise=False, **options)
    assert config.initial == initial
    assert mi.AuditConfig.of(**config.model_dump()) == config
    attack: Any = Scenario.of(mi.load_dataset("synthetic"), config).attacks[0]
    assert words in threat_model(config, ("0", "8"), [attack])["inner_training"]
    assert attack.initial == initial
