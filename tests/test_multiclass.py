"""More than two classes, and objectives other than errors of any kind: the ladder, and what an attack reaches."""

from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression as SklearnLogisticRegression

import mithridate as mi
from mithridate.attacks.objectives import objective_of
from mithridate.auditing.threat import aim_of
from mithridate.configuration.objective import parse_objective
from mithridate.defences.tuning import validation_losses
from mithridate.hypergradients import number
from mithridate.seeds import generator
from mithridate.tasks.classification import Classification
from mithridate.victims.losses import cross_entropy

K, M = 3, 4
MODELS = {"softmax": mi.LogisticRegression(M, K), "mlp": mi.MLP(M, (5,), n_classes=K)}
DESCENT = mi.GradientDescent(0.3, 12)


@pytest.fixture
def three(rng) -> tuple[np.ndarray, np.ndarray]:
    """Thirty rows of three classes that overlap."""
    y = np.arange(30) % K
    return rng.normal(size=(30, M)) + np.eye(K, M)[y], y


def problem_of(model, rows, *, rule: Any = DESCENT, space: Any = "plain", specific=False) -> mi.Bilevel:
    x, y = rows
    learner = mi.Learner(model, rule, space=space)
    return mi.Bilevel(
        learner, mi.Rows.of(x[:16], y[:16]), jnp.array([1.0, 2.0]), mi.Rows.of(x[16:], y[16:]), specific=specific
    )


@pytest.mark.parametrize(
    ("model", "method", "space", "specific"),
    [
        ("softmax", mi.Reverse(), "plain", True),
        ("softmax", mi.Reverse(), "gram", False),
        ("softmax", mi.Forward(), "plain", True),
        ("softmax", mi.Implicit(), "exact", True),
        ("mlp", mi.Reverse(), "gram", True),
    ],
)
def test_hypergradients_agree_with_central_differences(three, model, method, space, specific):
    with jax.enable_x64(True):
        rule = mi.Exact(1e-12) if space == "exact" else DESCENT
        plain = "plain" if space == "exact" else space
        problem = problem_of(MODELS[model], three, rule=rule, space=plain, specific=specific)
        at, strength, key = jnp.asarray(three[0][:2] * 0.5), jnp.asarray(0.5), jax.random.key(1)
        memory = eqx.filter_jit(method.start)(problem, at, strength, key)
        found = eqx.filter_jit(method)(problem, at, strength, key, memory)
        assert int(number(found.status)) == 0
        value = eqx.filter_jit(lambda x, s: problem.value(x, s, key))
        along, h = jax.random.normal(jax.random.key(2), at.shape, at.dtype), 1e-5
        for derivative, (dx, ds) in (
            (jnp.vdot(found.poison, along), (along, 0.0)),
            (found.hyper, (jnp.zeros_like(at), 1.0)),
        ):
            ends = [float(value(at + sign * h * dx, strength + sign * h * ds)) for sign in (1, -1)]
            np.testing.assert_allclose(float(derivative), (ends[0] - ends[1]) / (2 * h), rtol=2e-6)


def test_two_softmax_logits_are_one_logit(rng):
    z, y = rng.normal(size=(9, 2)), np.arange(9.0) % 2
    one, two = (cross_entropy(jnp.asarray(logits), jnp.asarray(y)) for logits in (z[:, 1] - z[:, 0], z))
    np.testing.assert_allclose(one, two, rtol=1e-5)


def test_the_exact_softmax_victim_is_scikit_learn_s(three):
    x, y = three
    with jax.enable_x64(True):
        learner = mi.Learner(MODELS["softmax"], mi.Exact(1e-12))
        params = learner.fit(x, y, 1.0)
        logits = np.asarray(learner.model.logits(params, jnp.asarray(x)))
    peer = SklearnLogisticRegression(C=1 / np.exp(1.0), tol=1e-10, max_iter=10_000).fit(x, y).decision_function(x)
    np.testing.assert_allclose(logits - logits.mean(1, keepdims=True), peer - peer.mean(1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize("rule", ["random", "nearest", "farthest"])
def test_flipped_labels_are_others_and_by_rule(rule):
    x, y = np.repeat([[0.0], [1.0], [5.0]], 20, axis=0), np.repeat([0, 1, 2], 20)
    found = Classification(3).flipped(y, rule, generator("flips"), x, y)
    assert not np.any(found == y)
    if rule == "random":
        assert all(set(found[y == k]) == {0, 1, 2} - {k} for k in range(3))
    else:
        assert [set(found[y == k]) for k in range(3)] == ([{1}, {0}, {1}] if rule == "nearest" else [{2}, {2}, {0}])


def test_of_two_classes_the_other_one_is_the_flipped():
    y = np.array([0, 1, 1])
    for rule in ("random", "nearest", "farthest"):
        assert Classification(2).flipped(y, rule, generator(0), y[:, None], y).tolist() == [1, 0, 0]


CLASSES = ("ham", "spam", "b-as-c", "b")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("indiscriminate", ("indiscriminate", ())),
        ("target-class spam", ("target-class", (1,))),
        ("target-class=b-as-c", ("target-class", (2,))),
        ("misclassify spam-as-ham", ("misclassify", (1, 0))),
        ("misclassify b-as-c-as-b", ("misclassify", (2, 3))),
        ("rows some file.npz", ("rows", "some file.npz")),
    ],
)
def test_objectives_are_read(text, found):
    assert parse_objective(text, CLASSES) == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("everything", "use indiscriminate, target-class A, misclassify A-as-B or rows FILE"),
        ("target-class", "use indiscriminate"),
        ("target-class eggs", "use target-class A of the classes ham, spam, b-as-c, b"),
        ("misclassify ham", "two of the classes ham, spam"),
        ("misclassify ham-as-ham", "two of the classes"),
        ("misclassify ham-as-eggs", "two of the classes ham, spam, b-as-c, b$"),
        ("misclassify HAM as spm", r"; did you mean misclassify ham-as-spam\?"),
    ],
)
def test_objectives_that_are_none_are_refused(text, message):
    with pytest.raises(mi.InputError, match=message):
        parse_objective(text, CLASSES)


def test_the_threat_model_names_classes_as_they_are_called():
    def goal(objective: str) -> str:
        config = mi.AuditConfig.of(dataset="wine", objective=objective)
        return aim_of(config, ("a=1", "b-as-c", "b"))[0]

    assert goal("misclassify b-as-c-as-b").startswith("class b-as-c taken for b (error-specific)")
    assert goal("target-class a=1").startswith("errors on class a=1 (error-generic)")
    assert goal("rows my=file.npz").startswith("the labels that my=file.npz gives to its rows")


def test_d_target_is_what_the_objective_says(rng):
    y = np.array([0, 1, 2, 0, 1, 2])
    valid, test = (rng.normal(size=(6, 2)), y), (rng.normal(size=(6, 2)), y)

    def made(text: str):
        return objective_of(text, ("a", "b", "c"), valid, test, lambda path: valid, lambda labels: (labels + 1) % 3)

    plain, generic, specific = (made(text) for text in ("indiscriminate", "target-class b", "misclassify b-as-a"))
    assert plain.target is valid
    assert plain.valid is None
    assert plain.goal is test
    own = valid[0][[1, 4]]
    for aim, labels, start in ((generic, [1, 1], [2, 2]), (specific, [0, 0], [0, 0])):
        assert aim.valid is valid
        np.testing.assert_array_equal(aim.target[0], own)
        assert aim.target[1].tolist() == aim.goal[1].tolist() == labels
        assert aim.start is not None
        assert aim.start[1].tolist() == start
        np.testing.assert_array_equal(aim.goal[0], test[0][[1, 4]])
    assert (generic.specific, specific.specific) == (False, True)
    with pytest.raises(mi.InputError, match="no validation rows of 'c'"):
        objective_of("target-class c", ("a", "b", "c"), (valid[0][:2], y[:2]), test, lambda path: valid, lambda y: y)


@pytest.fixture(scope="module")
def wine() -> mi.Split:
    return mi.load_dataset("wine").split(train=45, valid=45)


@pytest.fixture(scope="module")
def targeted(wine) -> mi.Attack:
    """An attack that wants class 0 taken for 2, against a defender who tunes λ on all validation rows."""
    own = wine.x_valid[wine.y_valid == 0]
    wanted = own, np.full(len(own), 2)
    return mi.Attack(
        learner=mi.Learner(mi.LogisticRegression(13, 3), mi.GradientDescent(0.2, 100)),
        target=wanted,
        valid=(wine.x_valid, wine.y_valid),
        specific=True,
        start=wanted,
        feasible=wine.feasible,
        policy=mi.Learned(),
        points=8,
        steps=25,
    )


def test_an_error_specific_attack_gets_its_label_more_often_than_flipping(targeted, wine):
    found = targeted.poison(wine.x_train, wine.y_train)
    assert set(found.statuses) == {"ok"}
    shares = []
    for x, y in (
        found.apply(wine.x_train, wine.y_train),
        found.apply_start(wine.x_train, wine.y_train),
        (wine.x_train, wine.y_train),
    ):
        params = targeted.learner.fit(x, y, found.log_strength)
        shares.append(np.mean(targeted.learner.predict(params, wine.x_test[wine.y_test == 0]) == 2))
    assert shares[0] > shares[1] + 0.2 > shares[2] + 0.2


def test_the_defender_tunes_on_what_is_his(targeted, wine):
    """λ is the best response to the loss on D_val, which has another minimiser than the attacker's."""
    found = targeted.poison(wine.x_train, wine.y_train)
    rows = targeted.rows(*found.apply(wine.x_train, wine.y_train))
    nothing, key = jnp.zeros((8, 13)), targeted.key(8)
    grid = jnp.linspace(-8, 5, 60)
    own, attacker = (
        np.asarray(validation_losses(problem, nothing, grid, key))
        for problem in (targeted.settled(rows), replace(targeted, valid=None).settled(rows))
    )
    assert abs(float(grid[own.argmin()]) - found.log_strength) < 0.3
    assert abs(float(grid[own.argmin()]) - float(grid[attacker.argmin()])) > 1.0


def test_a_second_backward_pass_is_taken_only_where_goals_differ(targeted, wine):
    calls = []

    class Counted(mi.Reverse):
        def __call__(self, problem, x_poison, log_strength, key, memory=()):
            calls.append(problem.minimax)
            return super().__call__(problem, x_poison, log_strength, key, memory)

    quick = replace(targeted, hypergradient=Counted(), policy=mi.Learned(closing=False), steps=1, rounds=1, points=18)
    found = quick.poison(wine.x_train, wine.y_train)
    assert found.y_poison.tolist() == [2.0] * 18, "more points than rows to clone: each in turn"
    assert calls == [False, True], "A's derivative in X_p, then the defender's loss in λ"
    unset = replace(quick, points=3, start=None).poison(wine.x_train, wine.y_train)
    assert unset.y_poison.tolist() == [2.0] * 3, "by default points have the labels that are wanted"
    calls.clear()
    own = (wine.x_valid, wine.y_valid)
    replace(quick, points=3, target=own, valid=None, specific=False, start=None).poison(wine.x_train, wine.y_train)
    assert calls == [True]


def test_labels_beyond_the_model_s_classes_are_refused(targeted, wine):
    with pytest.raises(mi.InputError, match="labels must be 0 … 2"):
        targeted.run(wine.x_train, wine.y_train + 1)
    with pytest.raises(mi.InputError, match="at least 2"):
        mi.LogisticRegression(3, 1)


@pytest.fixture(scope="module")
def audited() -> mi.AuditResult:
    return mi.audit(
        "wine", attack="bilevel", objective="misclassify cultivar 0-as-cultivar 2", policies=("fixed=-8",), splits=1,
        points=8, batch=4,
        train=45, valid=45, hyperiterations=15, inner_steps=200, epochs=200,
    )  # fmt: skip


def test_an_audit_tells_rates_of_every_class_and_success(audited):
    frame = audited.frame
    assert frame["objective"].unique().tolist() == ["misclassify cultivar 0-as-cultivar 2"]
    for name, mean in (("fprs", "fpr"), ("fnrs", "fnr")):
        rates = np.stack(frame[name].to_list())
        assert rates.shape == (3, 3)
        np.testing.assert_allclose(rates.mean(axis=1), frame[mean])
    sizes = np.bincount(mi.load_dataset("wine").split(45, 45, 0, 0).y_test)
    np.testing.assert_allclose(np.stack(frame["fnrs"].to_list()) @ sizes / sizes.sum(), frame["test_error"], rtol=1e-6)
    last = audited.candidates.groupby("attack")["attack_success"].last()
    assert last["bilevel"] > last["random flips"]
    assert "success of “misclassify cultivar 0-as-cultivar 2”" in audited.verdict.summary[1]
    assert "class cultivar 0 taken for cultivar 2" in audited.threat_model["goal"]
    assert {"error", "classes", "rates"} <= set(audited.plot())


def test_rows_of_a_file_are_a_target(tmp_path):
    data = mi.load_dataset("wine")
    np.savez(tmp_path / "aim.npz", x=data.x[:2], y=np.array([2, 2]))
    small: dict[str, Any] = {"policies": ("fixed=-8",), "splits": 1, "points": 6, "batch": 6, "hyperiterations": 10}
    small |= {"train": 45, "valid": 45, "inner_steps": 200, "epochs": 200, "attack": "bilevel"}
    found = mi.audit(data, objective=f"rows {tmp_path / 'aim.npz'}", **small)
    assert set(found.frame["attack_success"]) <= {0.0, 0.5, 1.0}
    assert found.frame["attack_loss"].iloc[-1] > found.frame["attack_loss"].iloc[0]
    np.savez(tmp_path / "aim.npz", x=data.x[:2, 1:], y=np.array([2, 2]))
    with pytest.raises(mi.DataError, match=r"arrays x \(n, 13\) and y \(n,\) with labels 0 … 2"):
        mi.audit(data, objective=f"rows {tmp_path / 'aim.npz'}", **small)
