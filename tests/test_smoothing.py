"""Flips against kernel smoothers: their predictions are refits, their derivatives are right, their flips are bad."""

import itertools

import numpy as np
import pytest
from sklearn.kernel_ridge import KernelRidge

from mithridate.attacks.smoothing import LARGEST, Smoothed, extended, sampled, smoothers
from mithridate.estimators.flips import View
from mithridate.estimators.kernels import Kernels, Seen

DRAW = np.random.default_rng(0)
X, LABELS = DRAW.normal(size=(40, 3)), np.arange(40) % 3
HELD, TRUTH = DRAW.normal(size=(15, 3)), np.arange(15) % 3
N = len(X)


def harm_to(name: str, n_classes: int = 3, sharpness: float = 4.0, wanted: bool = False) -> Smoothed:
    weights = dict(smoothers(X, HELD))[name].astype(np.float64)
    labels, truth = LABELS % n_classes, np.append(LABELS, TRUTH) % n_classes
    return Smoothed(weights, labels, truth, np.linspace(1, 2, N + 15), n_classes, sharpness, wanted)


@pytest.mark.parametrize("ridge", [1, 10])
def test_a_row_that_is_left_out_is_predicted_as_by_a_refit_without_it(ridge):
    centred = X - X.mean(axis=0)
    rows = centred / np.sqrt(np.mean((centred**2).sum(axis=1)))
    given, targets = 1 + rows @ rows.T, DRAW.normal(size=N)
    found = dict(smoothers(X, HELD))[f"linear, ridge {ridge}"][:N] @ targets
    for row in range(0, N, 7):
        others = np.delete(np.arange(N), row)
        fitted = KernelRidge(alpha=ridge, kernel="precomputed").fit(given[np.ix_(others, others)], targets[others])
        np.testing.assert_allclose(found[row], fitted.predict(given[[row]][:, others])[0], atol=1e-4)


def test_held_rows_are_predicted_as_by_scikit_learn_and_means_weigh_other_rows_alone():
    found, targets = dict(smoothers(X, HELD)), DRAW.normal(size=N)
    squares = ((X[:, None] - X[None]) ** 2).sum(axis=2)
    gamma = 1 / np.median(squares[squares > 0])
    fitted = KernelRidge(alpha=1, kernel="rbf", gamma=gamma).fit(X, targets)
    np.testing.assert_allclose(found["width 1, ridge 1"][N:] @ targets, fitted.predict(HELD), atol=1e-4)
    means = found["width 1, mean"][:N]
    np.testing.assert_allclose(means.sum(axis=1), 1, atol=1e-5)
    assert not np.diag(means).any()


@pytest.mark.parametrize(("n_classes", "wanted"), [(2, False), (3, False), (3, True)])
def test_gains_are_the_derivatives_of_the_harm(n_classes, wanted):
    one = harm_to("width 1, ridge 1", n_classes, wanted=wanted)
    codes = one.codes[one.labels]
    gains, step = one.gains(one.weights @ codes), 1e-6
    for row, number in itertools.product(range(0, N, 9), range(n_classes)):
        moved = codes.copy()
        moved[row, number] += step
        up = one.harm(one.weights @ moved)
        moved[row, number] -= 2 * step
        np.testing.assert_allclose(gains[row, number], (up - one.harm(one.weights @ moved)) / (2 * step), atol=1e-6)


def test_two_flips_are_nearly_the_worst_pair():
    one, everything = harm_to("width 1, ridge 1", 2), np.ones(N, dtype=bool)
    rows, labels, harm = one.worst(2, everything, everything, np.array([20, 20]))

    def of(flipped):
        new = one.labels.copy()
        new[list(flipped)] = 1 - new[list(flipped)]
        return one.harm(one.weights @ one.codes[new])

    assert (labels == 1 - one.labels[rows]).all()
    np.testing.assert_allclose(harm, of(rows))
    best = max(of(pair) for pair in itertools.combinations(range(N), 2))
    assert of(()) + 0.8 * (best - of(())) < harm <= best


@pytest.mark.parametrize("k", [1, 9, 30])
def test_no_class_gives_more_than_it_can_spare_and_no_other_row_is_taken(k):
    one, allowed, spare = harm_to("linear, ridge 1"), np.arange(N) < 33, np.array([3, 5, 4])
    for _, rows, labels in one.flips(k, allowed, spare):
        assert len(rows) == len(set(rows.tolist())) == min(k, 12)
        assert allowed[rows].all()
        assert (labels != LABELS[rows]).all()
        assert (np.bincount(LABELS[rows], minlength=3) <= spare).all()


def test_an_attacker_who_wants_a_class_raises_its_share():
    one, everything = harm_to("width 1, ridge 1", wanted=True), np.ones(N, dtype=bool)
    one.aim = np.zeros_like(one.aim)
    before = one.margins(one.weights @ one.codes[LABELS])[0]
    rows, labels, _ = one.worst(6, everything, everything, np.array([13, 13, 13]))
    new = LABELS.copy()
    new[rows] = labels
    after = one.margins(one.weights @ one.codes[new])[0]
    assert (labels == 0).mean() > 0.8
    assert (after < 0).sum() > (before < 0).sum()


def test_of_many_rows_a_sample_is_smoothed_and_its_neighbours_follow():
    x = np.linspace(-1, 1, 3 * LARGEST)[:, None]
    labels = np.zeros(len(x), dtype=int)
    labels[x[:, 0] > 0] = 1
    sample = sampled(labels, np.random.default_rng(0))
    assert len(sample) == LARGEST
    assert abs(labels[sample].mean() - 0.5) < 0.01
    rows = sample[(x[sample, 0] > 0.5)]
    k, among = 3 * len(rows), np.arange(len(x))
    picked, new = extended((rows, np.zeros(len(rows), dtype=int)), x, labels, sample, k, among)
    assert len(picked) == len(set(picked.tolist())) == k
    assert np.mean(x[picked, 0] > 0.49) > 0.99
    assert not new.any()


@pytest.mark.parametrize("name", ["linear, ridge 1, features", "width 0.5, mean, features"])
def test_the_smoother_that_errs_as_the_estimator_does_comes_first(name):
    labels, x = (X[:, 0] * X[:, 1] > 0).astype(int), X
    view = View(x, None, labels, np.full((N, 2), 0.5), np.arange(N))
    kernels = Kernels(view, (HELD, None, TRUTH % 2), np.array([0.5, 0.5]), None, 0)
    own = dict(kernels.smoothers)[name]
    seen = []
    for _ in range(8):
        new = np.where(DRAW.random(N) < 0.2, 1 - labels, labels)
        seen.append(Seen(new, np.ones(N, dtype=bool), kernels.smoothed(own).lost(new)[:N]))
    assert kernels.smoothers[kernels.ranked(seen)[0]][0] == name
    first = next(kernels.flips(seen, 6, view.among))
    assert len(first.rows) == 6
    assert first.name.startswith(name)
