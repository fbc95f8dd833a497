"""Tuning λ: the best response is one, ties are broken, cross-validation is what scikit-learn does."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression as Reference
from sklearn.metrics import log_loss

import mithridate as mi
from attackers import Relabelling
from mithridate.auditing.assembly import defenders_of
from mithridate.auditing.measuring import few_folds
from mithridate.auditing.sweep import Sweep
from mithridate.configuration.parts import described
from mithridate.data.sources import prepared
from mithridate.data.tables import dataset_of
from mithridate.defences.base import effort_of
from mithridate.defences.named import parse_policy
from mithridate.defences.tuning import (
    best_response,
    cross_validation_losses,
    first_minimiser,
    minimise,
    minimise_vector,
    validation_losses,
)
from mithridate.hypergradients.steps import hyper_rule, poison_rule
from mithridate.tasks.classification import Classification

PHI = mi.Box(-8.0, np.log(200))


@pytest.mark.parametrize("centre", [-8.0, -3.3, 0.0, 4.1, float(np.log(200)), 9.0])
def test_minimise_finds_a_minimum_anywhere_in_the_interval(centre):
    found = minimise(lambda s: 1 + 0.02 * (s - centre) ** 2, PHI)
    assert found == pytest.approx(np.clip(centre, -8, np.log(200)), abs=0.05)


def test_minimise_finds_the_global_one_of_two_minima():
    found = minimise(lambda s: jnp.minimum((s + 6) ** 2 + 1, (s - 4) ** 2 + 0.9), PHI)
    assert found == pytest.approx(4.0, abs=0.05)


def test_ties_to_rounding_go_to_the_smallest_and_nan_never_wins():
    assert first_minimiser(np.array([np.nan, 1.0 + 1e-7, 1.0, 2.0])) == 1
    assert first_minimiser(np.array([5.0, np.inf, 1.0, 2.0])) == 2
    assert first_minimiser(np.array([-1.0, -3.0, -2.0, 0.0])) == 1
    assert np.isnan(minimise(lambda s: s * jnp.nan, PHI))


@pytest.fixture(scope="module")
def overfitting() -> mi.Learner:
    """Trained for so long that wrong labels call for regularisation."""
    return mi.Learner(mi.LogisticRegression(64), mi.GradientDescent(0.4, 2000))


def test_the_two_solvers_agree_on_a_poisoned_set(overfitting, digits, rng):
    y = np.where(rng.random(60) < 0.25, 1 - digits.y_train, digits.y_train)
    target = mi.Rows.of(digits.x_valid, digits.y_valid)
    problem = mi.Bilevel(overfitting, mi.Rows.of(digits.x_train, y), jnp.zeros(0), target)

    def losses(grid):
        return validation_losses(problem, jnp.zeros((0, 64)), grid, jax.random.key(0))

    best = minimise(losses, PHI)
    assert -8 < best < np.log(200), "no interior optimum: the test could not fail"
    assert best == pytest.approx(best_response(losses, PHI, best), abs=0.1)


def test_validation_losses_are_the_values_one_by_one(learner, digits):
    target = mi.Rows.of(digits.x_valid, digits.y_valid)
    problem = mi.Bilevel(learner, mi.Rows.of(digits.x_train, digits.y_train), jnp.zeros(0), target)
    grid = np.linspace(-2, 5, 40)
    found = validation_losses(problem, jnp.zeros((0, 64)), jnp.asarray(grid, dtype=float), jax.random.key(0))
    for i in (0, 17, 39):
        params = learner.fit(digits.x_train, digits.y_train, grid[i])
        assert found[i] == pytest.approx(float(learner.mean_loss(params, (target,))), rel=1e-4)


def test_cross_validation_agrees_with_scikit_learn(digits):
    converged = mi.Learner(mi.LogisticRegression(64), mi.GradientDescent(0.5, 4000))
    masks = Classification().folds(digits.y_train, 5, seed=1)
    rows = mi.Rows.of(digits.x_train, digits.y_train)
    grid = np.array([1.0, 3.0])
    found = cross_validation_losses(
        converged, rows, jnp.asarray(masks), jnp.asarray(grid, dtype=float), jax.random.key(0)
    )
    for strength, loss in zip(grid, found, strict=True):
        parts = []
        for out in masks:
            model = Reference(C=np.exp(-strength)).fit(digits.x_train[~out], digits.y_train[~out])
            predicted = model.predict_proba(digits.x_train[out])
            parts.append(log_loss(digits.y_train[out], predicted, normalize=False, labels=[0, 1]))
        assert float(loss) == pytest.approx(sum(parts) / 60, rel=1e-3)


def test_folds_cover_each_row_once_and_are_stratified(digits):
    masks = Classification().folds(digits.y_train, 5, seed=1)
    assert (masks.sum(axis=0) == 1).all()
    assert all(digits.y_train[mask].mean() == 0.5 for mask in masks)
    np.testing.assert_array_equal(masks, Classification().folds(digits.y_train, 5, seed=1))
    assert (masks != Classification().folds(digits.y_train, 5, seed=2)).any()
    with pytest.raises(mi.InputError, match="from 2 to 30"):
        Classification().folds(digits.y_train, 31, seed=1)


@pytest.mark.parametrize("text", ["fixed=-8", "fixed=log(200)", "fixed=0", "cv-clean", "learned", "cv-poisoned"])
def test_policies_are_named_as_they_are_parsed(text):
    assert parse_policy(text, PHI, hyper_rule("rprop", 0.99)).name == text


@pytest.mark.parametrize(
    "text", ["fixed", "fixed=", "fixed=x", "fixed=31", "fixed=nan", "fixed=log(-3)", "cv", "Learned", ""]
)
def test_policies_that_are_none_are_refused(text):
    with pytest.raises(mi.InputError, match="fixed=VALUE"):
        parse_policy(text, PHI, hyper_rule("rprop", 0.99))


def test_policies_answer_as_they_say(overfitting, digits):
    """Fixed keeps its value, λ_CLEAN freezes after the clean set, the others answer each set anew."""
    target = mi.Rows.of(digits.x_valid, digits.y_valid)
    clean = mi.Bilevel(overfitting, mi.Rows.of(digits.x_train, digits.y_train), jnp.zeros(0), target)
    flipped = np.where(np.arange(60) % 4 == 0, 1 - digits.y_train, digits.y_train)
    poisoned = mi.Bilevel(overfitting, mi.Rows.of(digits.x_train, flipped), jnp.zeros(0), target)
    nothing, key = jnp.zeros((0, 64)), jax.random.key(0)
    answers = {}
    for policy in (mi.Fixed(1.5), mi.Learned(), mi.CrossValidated(False), mi.CrossValidated(True)):
        first = policy.respond(clean, nothing, np.array(-8.0), key)
        answers[policy.name] = (first, policy.after_clean(first).respond(poisoned, nothing, first, key))
    assert answers["fixed=1.5"] == (1.5, 1.5)
    assert answers["cv-clean"][0] == answers["cv-clean"][1] == answers["cv-poisoned"][0]
    assert answers["cv-poisoned"][1] > answers["cv-poisoned"][0] + 1
    assert answers["learned"][1] > answers["learned"][0] + 1
    # The paper's procedure: tuned on clean data, and from there wherever the descent leads.
    still = mi.Learned(closing=False)
    first = still.respond(clean, nothing, np.array(5.0), key)
    assert first == answers["learned"][0] != 5.0
    assert still.after_clean(first).respond(poisoned, nothing, np.array(4.0), key) == 4.0
    other = mi.CrossValidated(True, seed=1).respond(poisoned, nothing, np.array(-8.0), key)
    assert other != answers["cv-poisoned"][1], "other folds"


def test_poison_can_leave_fewer_rows_of_a_class_than_folds(learner, digits):
    y = np.where(np.cumsum(digits.y_train) > 3, 0, digits.y_train)
    target = mi.Rows.of(digits.x_valid, digits.y_valid)
    nothing, key = jnp.zeros((0, 64)), jax.random.key(0)
    few = mi.Bilevel(learner, mi.Rows.of(digits.x_train, y), jnp.zeros(0), target)
    assert -8 <= mi.CrossValidated(True).respond(few, nothing, np.array(1.0), key) <= np.log(200)
    none = mi.Bilevel(learner, mi.Rows.of(digits.x_train, y * 0), jnp.zeros(0), target)
    assert mi.CrossValidated(True).respond(none, nothing, np.array(1.0), key) == 1.0


def test_policies_are_named_alike_when_they_are():
    names = [parse_policy(t, PHI, hyper_rule("rprop", 0.99)).name for t in ("fixed=-8", "fixed=-8.0", "fixed= -8")]
    assert set(names) == {"fixed=-8"}


def test_step_rules():
    """Normalised rows move by α each; rprop turns with half the step; unknown names are refused."""
    gradient = jnp.array([[3.0, 4.0], [0.0, 0.0], [1e-9, 0.0]])
    rule = poison_rule("normalised", 0.5)
    move, _ = rule.update(gradient, rule.init(gradient))
    np.testing.assert_allclose(np.asarray(move), [[-0.3, -0.4], [0, 0], [-0.5, 0]], rtol=1e-6)
    raw = poison_rule("raw", 0.5)
    np.testing.assert_allclose(np.asarray(raw.update(gradient, raw.init(gradient))[0]), -0.5 * np.asarray(gradient))

    def path(name: str, signs: list[float]) -> np.ndarray:
        rule, moves = hyper_rule(name, 0.9), []
        state = rule.init(jnp.asarray(0.0))
        for sign in signs:
            move, state = rule.update(jnp.asarray(0.01 * sign), state, jnp.asarray(0.0))
            moves.append(np.asarray(move))
        return np.array(moves)

    np.testing.assert_allclose(path("constant", [1, -1, 1]), [-0.9, 0.9, -0.9], rtol=1e-5)
    np.testing.assert_allclose(path("decay", [1, 1, 1, 1])[[0, 3]], [-0.9, -0.45], rtol=1e-5)
    np.testing.assert_allclose(path("raw", [1]), [-0.009], rtol=1e-5)
    assert np.abs(path("rprop", [1] * 12)).max() == pytest.approx(0.9)
    turned = path("rprop", [1, 1, 1, -1, -1, -1])
    assert turned[2] == pytest.approx(-0.54)
    assert turned[5] == pytest.approx(0.54 * 1.2 / 2)
    for make in (poison_rule, hyper_rule):
        assert make("raw", 0.7) is make("raw", 0.7), "a rule must be cached, or every split compiles anew"
        with pytest.raises(mi.InputError, match="choose one of"):
            make("sgd", 0.5)
        with pytest.raises(mi.InputError, match="must be positive"):
            make("raw", -1.0)


def labels_with_noise(digits, rng) -> np.ndarray:
    """A quarter of the training labels flipped, so that λ matters."""
    return np.where(rng.random(60) < 0.25, 1 - digits.y_train, digits.y_train)


def references(strength: float, x: np.ndarray, y: np.ndarray, *on: np.ndarray) -> tuple[int, float]:
    """Errors and summed loss of scikit-learn's victim with this λ, trained on (x, y), on the rows `on`."""
    model = Reference(C=np.exp(-strength), tol=1e-9, max_iter=10_000).fit(np.asarray(x, np.float64), y)
    loss = log_loss(on[1], model.predict_proba(on[0]), normalize=False, labels=[0, 1])
    return int(np.sum(model.predict(on[0]) != on[1])), loss


def test_by_error_λ_is_what_makes_the_fewest_errors(digits, rng):
    """Held against a loop over a grid with scikit-learn: as few errors, and of these λ the least loss."""
    solved, y = mi.Learner(mi.LogisticRegression(64), mi.Exact()), labels_with_noise(digits, rng)
    problem = mi.Bilevel(
        solved, mi.Rows.of(digits.x_train, y), jnp.zeros(0), mi.Rows.of(digits.x_valid, digits.y_valid)
    )
    given = problem, jnp.zeros((0, 64)), np.array(-8.0), jax.random.key(0)
    policy = mi.Learned(mi.Box(-4.0, np.log(200)), by="error")
    found, by_loss = policy.respond(*given), mi.Learned(policy.strengths).respond(*given)

    def measured(strength: float) -> tuple[int, float]:
        return references(strength, digits.x_train, y, digits.x_valid, digits.y_valid)

    grid = {strength: measured(strength) for strength in np.linspace(-4, np.log(200), 17)}
    least, own = min(grid.values()), measured(float(found))
    assert own[0] <= least[0] < measured(float(by_loss))[0], "by loss as few errors: the test could not fail"
    assert own[0] < least[0] or own[1] <= least[1] * 1.001, "of as many errors not the least loss"
    assert policy.best(problem, jnp.zeros((0, 64)), found, given[3]) == found, "no false alarm"
    assert policy.best(problem, jnp.zeros((0, 64)), np.array(-4.0), given[3]) > -3.9, "no alarm"


def test_cross_validation_counts_the_errors_that_scikit_learn_counts(digits, rng):
    solved, y = mi.Learner(mi.LogisticRegression(64), mi.Exact()), labels_with_noise(digits, rng)
    masks, grid = Classification().folds(y, 5, seed=1), np.linspace(-2, np.log(200), 6)
    found = cross_validation_losses(
        solved,
        mi.Rows.of(digits.x_train, y),
        jnp.asarray(masks),
        jnp.asarray(grid, dtype=float),
        jax.random.key(0),
        "error",
    )
    x = digits.x_train
    expected = np.array([sum(np.array(references(s, x[~out], y[~out], x[out], y[out])) for out in masks) for s in grid])
    np.testing.assert_array_equal(np.asarray(found)[:, 0], expected[:, 0])
    np.testing.assert_allclose(np.asarray(found)[:, 1], expected[:, 1] / 60, rtol=1e-3)


def test_of_λ_with_as_few_errors_the_least_loss_counts_then_the_smallest():
    scores = np.array([[3, 0.1], [2, 0.7], [np.nan, np.nan], [2, 0.5], [2, 0.5], [2, np.inf]])
    assert first_minimiser(scores) == 3
    assert first_minimiser(np.full((2, 2), np.nan)) == 0
    many = np.array([[1e6 + 1, 0.1], [1e6, 0.6], [1e6, 0.5]])
    assert first_minimiser(many) == 2, "one error of a million counts more than any loss"
    assert minimise(lambda s: jnp.stack([(s < 2) + 0.0, (s + 5) ** 2], axis=1), PHI) == pytest.approx(2.0, abs=0.02)


def test_of_a_vector_λ_the_errors_of_all_that_was_tried_decide():
    """The loss is least at 0; errors fall where the second entry is above 3."""
    phi, start = mi.Box(-8.0, 8.0), np.array([1.0, 1.0])

    def losses(grid):
        return jnp.sum(grid**2, axis=1) + 1

    def scores(grid):
        return jnp.stack([(grid[:, 1] < 3) + 0.0, losses(grid)], axis=1)

    def slope(point):
        return jnp.sum(point**2) + 1, 2 * point

    np.testing.assert_allclose(minimise_vector(losses, slope, phi, start), [0, 0], atol=0.01)
    np.testing.assert_allclose(minimise_vector(scores, slope, phi, start), [0, 3], atol=0.01)
    assert best_response(scores, phi, start, slack=0.5)[1] == pytest.approx(3, abs=0.05)
    np.testing.assert_array_equal(best_response(scores, phi, start, slack=1.0), start)


@pytest.mark.parametrize("text", ["learned", "cv-clean", "cv-poisoned", "search-clean=9", "search-poisoned=9"])
def test_policies_say_by_what_they_tune_and_keep_their_names(text):
    by_loss, by_error = (parse_policy(text, PHI, hyper_rule("rprop", 0.99), by=by) for by in ("loss", "error"))
    assert by_error.name == by_loss.name == text
    assert "the least loss" in described(by_loss)
    assert "the fewest errors" in described(by_error)
    assert effort_of(by_error, ()).trainings == effort_of(by_loss, ()).trainings
    assert effort_of(by_error, (2,)).trainings == effort_of(by_loss, (2,)).trainings


@pytest.mark.parametrize("make", [mi.Learned, lambda by: mi.CrossValidated(True, by=by)])
def test_what_λ_cannot_be_tuned_by_is_refused(make):
    with pytest.raises(mi.InputError, match="by = 'accuracy': use loss or error"):
        make(by="accuracy")


def test_tune_by_reaches_the_policies():
    config = mi.AuditConfig.of(dataset="synthetic", policies=("learned", "cv-clean"), tune_by="error")
    policies: list[Any] = [defender.policy for defender in defenders_of(config)]
    assert [policy.by for policy in policies] == ["error", "error"]


@pytest.mark.parametrize("rows", [1, 2, 3, 4])
def test_a_class_of_a_few_training_rows_is_not_cross_validated_in_silence(rows):
    """One row cannot be folded, and is refused; with fewer rows than folds there are fewer folds, and it is said."""
    draw = np.random.default_rng(0)
    frame = pd.DataFrame({"a": draw.normal(size=120), "b": draw.normal(size=120), "t": ["no"] * 114 + ["yes"] * 6})
    options: dict[str, Any] = {
        "train": 20 * rows,
        "valid": 20,
        "attack": Relabelling,
        "points": 1,
        "epochs": 2,
        "inner_steps": 5,
    }
    data, options = dataset_of(frame, "t"), options | {"splits": 1}
    sweep = Sweep(*prepared(data, None, options | {"policies": ("cv-clean", "search-poisoned=2", "learned")}))
    if rows == 1:
        with pytest.raises(mi.InputError, match=r"policy cv-clean: class yes has 1 training row\(s\), and .* needs 2"):
            sweep.check()
        return
    sweep.check()
    scenario = sweep.scenario(0)
    for attack, few in zip(scenario.attacks, (True, True, False), strict=True):
        assert few_folds(attack, scenario.rows, scenario.rows) == few
    if rows == 3:
        found = mi.audit(data, **options, policies=("search-poisoned=2",))
        assert found.frame["status"].str.contains("few-folds").all(), found.frame["reason"].tolist()
        assert any("2 of 2 cells are marked few-folds" in said for said in found.verdict.warnings)
