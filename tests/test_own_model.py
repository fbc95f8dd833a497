"""A model of the user's own: the same numbers as a built-in twin, by object and by name; every fault is named."""

import json
import sys
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mithridate as mi
from problems import SEED, Arrays, M, bilevel, draw, jit, pair, point

WIDTH = 5
BUILT_IN = mi.MLP(M, (WIDTH,))
LAYERS = np.array([-1.0, 1.0])
"""One λ for each layer."""


class Twin(eqx.Module):
    """The network of `mi.MLP`, for one row."""

    first: eqx.nn.Linear
    last: eqx.nn.Linear

    def __call__(self, x):
        return self.last(jax.nn.leaky_relu(self.first(x)))


def twin(n_features: int) -> mi.FunctionModel:
    """An Equinox module that starts from the w0 of `mi.MLP`."""

    def parts(net):
        return net.first.weight, net.first.bias, net.last.weight, net.last.bias

    def make(key):
        (first, b), (last, c) = mi.MLP(n_features, (WIDTH,)).init(key)
        net = Twin(eqx.nn.Linear(n_features, WIDTH, key=key), eqx.nn.Linear(WIDTH, 1, key=key))
        return eqx.tree_at(parts, net, (first.T, b, last.T, c))

    return mi.from_equinox(make)


def apply(params, x):
    """The same network as a function of the built-in's own parameters."""
    (first, b), (last, c) = params
    return jax.nn.leaky_relu(x @ first + b[None]) @ last + c[None]


OWN = {"module": twin(M), "functions": mi.FunctionModel(BUILT_IN.init, apply)}
DESCENT = mi.GradientDescent(0.1, 20)
RULES = {"Implicit": mi.GradientDescent(0.1, 50), "heavy ball": mi.HeavyBall(0.1, 0.9, 20)}
METHODS = {
    "Reverse": mi.Reverse(),
    "Checkpointed": mi.Checkpointed(),
    "Reversible": mi.Reversible(),
    "heavy ball": mi.Reversible(),
    "Forward": mi.Forward(),
    "Implicit": mi.Implicit(),
}


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    return draw(np.random.default_rng(SEED), log_strength=LAYERS)


def found_by(method: str, model: Any, rule: Any, arrays: Arrays) -> tuple[np.ndarray, np.ndarray]:
    problem = bilevel(arrays, mi.Learner(model, rule, space="plain"))
    return pair(jit(METHODS[method])(problem, *point(arrays)))


@pytest.fixture(scope="module")
def steps_of_the_twin(arrays) -> tuple[np.ndarray, np.ndarray]:
    """The built-in network's hypergradient through gradient descent, on which methods that keep every step agree."""
    with jax.enable_x64(True):
        return found_by("Reverse", BUILT_IN, DESCENT, arrays)


OTHERS = [pytest.param(method, marks=pytest.mark.slow) for method in ("Checkpointed", "heavy ball", "Forward")]
"""They ask a model for no more than these do."""


@pytest.mark.parametrize("method", ["Reverse", "Reversible", "Implicit", *OTHERS])
def test_every_hypergradient_is_that_of_the_built_in_twin(arrays, method, steps_of_the_twin):
    rule = RULES.get(method, DESCENT)
    with jax.enable_x64(True):
        keeps = rule == DESCENT and method != "Reversible"  # which is off where it runs back over a kink
        truth = steps_of_the_twin if keeps else found_by(method, BUILT_IN, rule, arrays)
        own = OWN if method == "Reverse" else {"module": OWN["module"]}
        found = {name: found_by(method, model, rule, arrays) for name, model in own.items()}
    assert min(np.linalg.norm(part) for part in truth) > 1e-4
    assert truth[1].shape == (2,)
    rounding = 1e-6 if method == "Implicit" else 1e-9  # conjugate gradient stops at 1e-8
    for name, parts in found.items():
        for part, expected in zip(parts, truth, strict=True):
            floor = rounding * np.abs(expected).max()
            np.testing.assert_allclose(part, expected, rtol=rounding, atol=floor, err_msg=name)


def test_a_smooth_model_agrees_with_central_differences(arrays, rng):
    def init(key):
        first, last = jax.random.split(key)
        return {"in": jax.random.normal(first, (M, 3)), "out": jax.random.normal(last, (3, 1)), "bias": 0.1}

    model = mi.FunctionModel(init, lambda w, x: jnp.tanh(x @ w["in"] + w["bias"]) @ w["out"])
    with jax.enable_x64(True):
        problem = bilevel(arrays, mi.Learner(model, mi.GradientDescent(0.2, 30)))
        x, strengths, key = point(arrays)
        found = jit(mi.Reverse())(problem, x, strengths, key)
        value = jit(problem.value)
        for _ in range(3):
            d, e, h = rng.normal(size=x.shape), rng.normal(size=2), 1e-5
            high, low = (value(x + sign * h * d, strengths + sign * h * e, key) for sign in (1, -1))
            slope = float(jnp.vdot(found.poison, d) + jnp.vdot(found.hyper, e))
            assert abs(slope) > 1e-4
            assert slope == pytest.approx(float(high - low) / (2 * h), rel=1e-6)


def test_every_layer_has_its_own_strength_and_biases_none(arrays):
    for model in OWN.values():
        leaves = jax.tree.leaves(model.weights(model.init(jax.random.key(0))))
        assert [{*leaf.shape} for leaf in leaves] == [{M, WIDTH}, {WIDTH, 1}]
    named = mi.FunctionModel(lambda key: {"w": jnp.ones((2, 1)), "bias": jnp.ones((1, 1))}, lambda w, x: x @ w["w"])
    assert [leaf.shape for leaf in jax.tree.leaves(named.weights(named.init(jax.random.key(0))))] == [(2, 1)]
    one = mi.FunctionModel(BUILT_IN.init, apply, weights=lambda w: [w[1].weight])
    with jax.enable_x64(True):
        learner = mi.Learner(one, mi.GradientDescent(0.1, 5))
        weak, strong = (learner.fit(arrays.x, arrays.y, s)[0].weight for s in (-8.0, 2.0))
        penalised = mi.Learner(OWN["functions"], mi.GradientDescent(0.1, 5)).fit(arrays.x, arrays.y, 2.0)[0].weight
    assert np.linalg.norm(strong) > np.linalg.norm(penalised)
    assert not np.array_equal(weak, strong), "through the last layer"
    grouped = mi.Learner(OWN["module"], mi.GradientDescent(0.1, 5), penalty=mi.L2((0, 0)))
    with pytest.raises(mi.InputError, match="2 λ for 2 layers in groups"):
        grouped.train((mi.Rows.of(arrays.x, arrays.y),), jnp.zeros(2), jax.random.key(0))


def test_w0_is_in_the_precision_in_force():
    pretrained = eqx.nn.MLP(M, "scalar", 3, 1, key=jax.random.key(1))
    model = mi.from_equinox(lambda key: pretrained)
    for wide in (False, True):
        with jax.enable_x64(wide):
            params = model.init(jax.random.key(0))
            kinds = {leaf.dtype for leaf in jax.tree.leaves(params)}
            assert kinds == {jnp.dtype("float64" if wide else "float32")}
            np.testing.assert_array_equal(params.layers[0].weight, pretrained.layers[0].weight)


def test_gram_space_is_refused_and_not_chosen():
    with pytest.raises(mi.InputError, match="FunctionModel does not have a linear first layer"):
        mi.Learner(OWN["module"], mi.GradientDescent(0.1, 5), space="gram")
    wide = mi.Rows.of(np.ones((2, 4000)), np.array([0, 1]))
    assert mi.Learner(twin(4000), mi.GradientDescent(0.1, 500)).chosen_space((wide,)) == "plain"


# ---- Audits and checks ----

SMALL: dict[str, Any] = {"splits": 1, "points": 4, "batch": 2, "inner_steps": 20, "epochs": 5, "hyperiterations": 5}
SMALL |= {"attack": "bilevel", "precision": "float64", "strengths": "layers", "policies": ("fixed=-2",)}
NETS = """
import test_own_model

network = test_own_model.twin
"""


@pytest.fixture(scope="module")
def audited() -> mi.AuditResult:
    return mi.audit("synthetic", model=twin(2), **SMALL)


@pytest.mark.slow
def test_an_audit_is_that_of_the_built_in_twin(audited):
    """The same seeds, the same w0, the same numbers, at every ratio and in every column."""
    truth = mi.audit("synthetic", model="mlp", hidden=(WIDTH,), space="plain", **SMALL)
    assert (audited.frame["valid_loss_after"] > audited.frame["valid_loss_before"]).sum() == 2
    for column in truth.frame.columns.drop(["model", "seconds"]):
        own, expected = (frame[column].explode().tolist() for frame in (audited.frame, truth.frame))
        if isinstance(expected[0], float):
            np.testing.assert_allclose(own, expected, rtol=1e-6, atol=1e-9, err_msg=column)
        else:
            assert own == expected, column


@pytest.mark.usefixtures("undrawn")
def test_records_and_threat_model_name_the_model(audited, tmp_path):
    assert set(audited.frame["model"]) == {"Twin"}
    assert audited.threat_model["model"] == "Twin"
    told = json.loads(json.dumps(audited.summary()))
    assert told["config"]["model"] == "Twin"
    assert told["config"]["initial"] == "fresh"
    assert "drawn again at every outer step" in told["threat_model"]["inner_training"]
    again = mi.load_result(audited.save(tmp_path / "run"))
    assert again.frame["model"].tolist() == audited.frame["model"].tolist()


def test_the_command_line_finds_a_model_by_name(mithridate, audited, tmp_path, monkeypatch):
    """In the current folder, where Python does not search by itself."""
    assert not {"", str(tmp_path)} & {*sys.path}
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "audit.toml").write_text(
        'dataset = "synthetic"\nmodel = "nets:network"\nsplits = 1\npoints = 4\nbatch = 2\ninner_steps = 20\n'
        'epochs = 5\nhyperiterations = 5\nattack = "bilevel"\nprecision = "float64"\nstrengths = "layers"\n'
        'policies = ["fixed=-2"]\n'
    )
    done = mithridate("audit", "--config", "audit.toml", "--out", "run", "--json")
    assert done.returncode == 0, done.stderr
    found = mi.load_result(tmp_path / "run")
    assert set(found.frame["model"]) == {found.threat_model["model"]} == {"nets:network"}
    np.testing.assert_allclose(found.frame["test_error"], audited.frame["test_error"])
    np.testing.assert_allclose(found.frame["valid_loss"], audited.frame["valid_loss"])
    failed = mithridate("audit", "synthetic", "--model", "nets:nothing", "--out", "other")
    assert failed.returncode == 2
    assert failed.stderr == "mithridate: model = nets:nothing: module nets has no attribute 'nothing'\n"
    assert failed.stdout == ""
    assert not (tmp_path / "other").exists()
    monkeypatch.delitem(sys.modules, "nets")


def test_a_check_takes_a_model_and_runs_it_the_plain_way():
    found = mi.check(
        "synthetic", model=twin, points=2, inner_steps=10, precision="float64", methods={"r": mi.Reverse()}
    )
    assert found.ok
    assert found.frame[["space", "verdict"]].to_numpy().tolist() == [["plain", "agrees"]]
    assert found.setting["model"] == "Twin"
    assert found.config["model"] == "twin"


# ---- Faults ----


def of(apply, init=lambda key: {"w": jnp.ones((2, 1))}, **options):
    return mi.FunctionModel(init, apply, name="mine", **options)


def linear(w, x):
    return x @ w["w"]


class TwoAxes(eqx.Module):
    """A model by the protocol whose logits are (n, 1)."""

    def init(self, key):
        return jnp.ones((2, 1))

    def logits(self, params, x):
        return x @ params

    def weights(self, params):
        return params


def until_small(w, x):
    return jax.lax.while_loop(lambda z: jnp.max(z) > 1, lambda z: z / 2, linear(w, x))


ONE = r"\(32,\), \(32, 1\) or \(32, K\)"
FAULTS = {
    "three logits a row": (
        of(lambda w, x: jnp.tile(linear(w, x), (1, 3))),
        r"logits have shape \(32, 3\); expected \(32,\) or \(32, 2\)",
    ),
    "one logit in all": (of(lambda w, x: jnp.sum(linear(w, x))), rf"logits have shape \(\); .*{ONE}"),
    "a pair": (of(lambda w, x: (linear(w, x), 1)), rf"logits have the type tuple; .*{ONE}"),
    "integers": (
        of(lambda w, x: (linear(w, x) > 0).astype(int)),
        "model = mine: the model's logits are int32; expected floating numbers",
    ),
    "(n, 1) of a class": (
        TwoAxes(),
        r"TwoAxes: the model's logits have shape \(32, 1\); expected \(32,\) or \(32, 2\)",
    ),
    "NaN": (of(lambda w, x: linear(w, x) / 0 * 0), "logits of 32 of 32 training rows are NaN or infinite"),
    "a steep root": (
        of(lambda w, x: linear(w, x) + jnp.sqrt(w["w"][:1] - 1)),
        "derivative of the logits in the parameters is NaN or infinite",
    ),
    "rounding": (of(lambda w, x: jnp.round(linear(w, x))), "derivative of the logits in every parameter is 0"),
    "a loop without reverse mode": (of(until_small), "differentiating its logits twice failed: ValueError"),
    "NumPy": (
        of(lambda w, x: jnp.asarray(np.asarray(linear(w, x)))),
        "applying it to rows of 2 features failed: TracerArrayConversionError",
    ),
    "other features": (
        of(linear, lambda key: {"w": jnp.ones((3, 1))}),
        "applying it to rows of 2 features failed: TypeError: dot_general",
    ),
    "init fails": (of(linear, lambda key: {"w": 1 / 0}), "init failed: ZeroDivisionError: division by zero"),
    "a counter": (
        of(linear, lambda key: {"w": jnp.ones((2, 1)), "count": jnp.zeros((), int)}),
        r"parameter 'count' is int32 \(\); only floating arrays can be trained",
    ),
    "a word": (of(linear, lambda key: {"w": jnp.ones((2, 1)), "kind": "relu"}), "parameter 'kind' is str"),
    "a width of zero": (
        of(linear, lambda key: {"w": jnp.ones((2, 0))}),
        r"parameter 'w' is float32 \(2, 0\); every width must be at least 1",
    ),
    "no parameters": (of(lambda w, x: x[:, 0], lambda key: {}), "the model has no parameters"),
    "no weights": (
        of(lambda w, x: x @ w["w"], lambda key: {"w": jnp.ones(2)}),
        "no weights to penalise; say with weights=",
    ),
    "weights that are not there": (of(linear, weights=lambda w: w["v"]), "weights failed: KeyError: 'v'"),
    "a function that fails": (lambda m: 1 / 0, "calling it with 2 features failed: ZeroDivisionError"),
    "a function of something else": (lambda m: m + 1, "int is not a model; give a FunctionModel"),
    "an unwrapped module": (eqx.nn.Identity(), "model = Identity: int is not a model"),
    "a number": (3, "model = 3: use logistic, mlp, or module:attribute"),
    "no hidden width": (lambda m: mi.MLP(m, (0,)), r"<lambda>: hidden = \(0,\): give at least one layer"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("command", ["audit", "check"])
def test_what_cannot_be_a_victim_is_named_before_anything_is_run(fault, command):
    model, message = FAULTS[fault]
    seen = []
    with pytest.raises(mi.InputError, match=message) as error:
        getattr(mi, command)("synthetic", model=model, on_progress=seen.append)
    assert "\n" not in str(error.value)
    assert seen == []


def test_a_wrong_output_is_named_without_an_audit_too(arrays):
    model = of(lambda w, x: x[1:, 0] * w["w"][0])
    with pytest.raises(mi.InputError, match=r"the model's logits have shape \(19,\)"):
        mi.Learner(model, mi.GradientDescent(0.1, 5)).fit(arrays.x, arrays.y, 0.0)


MODULES = {
    "missing": (None, "importing own_net failed: ModuleNotFoundError: No module named 'own_net'"),
    "unfinished": ("def f(:\n", "importing own_net failed: SyntaxError"),
    "raising": ("raise RuntimeError('first line\\nsecond')\n", "importing own_net failed: RuntimeError: first line$"),
    "empty": ("", "module own_net has no attribute 'net'$"),
    "a number": ("net = 3\n", "int is not a model"),
    "a class": ("class net:\n    def __init__(self, m): pass\n", "net is not a model"),
}


@pytest.mark.parametrize("fault", MODULES)
def test_what_cannot_be_imported_is_named(fault, tmp_path, monkeypatch):
    text, message = MODULES[fault]
    if text is not None:
        (tmp_path / "own_net.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_net", raising=False)
    with pytest.raises(mi.InputError, match=f"^model = own_net:net: {message}") as error:
        mi.audit("synthetic", model="own_net:net")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["svm", "nets:", ":net", "nets.net", "nets:net:w", "a b:c"])
def test_names_that_cannot_be_one_are_refused(name):
    with pytest.raises(mi.InputError, match=f"model = '{name}': use logistic, mlp, or module:attribute"):
        mi.AuditConfig.of(dataset="synthetic", model=name)


class Counting(eqx.Module):
    index: eqx.nn.StateIndex

    def __init__(self, key):
        self.index = eqx.nn.StateIndex(jnp.zeros(()))

    def __call__(self, x):
        return jnp.sum(x)


def dropping(inference: bool) -> Any:
    return lambda key: eqx.nn.Sequential(
        [eqx.nn.Linear(2, 3, key=key), eqx.nn.Dropout(0.5, inference=inference), eqx.nn.Linear(3, "scalar", key=key)]
    )


MADE = {
    "dropout": (dropping(False), "Sequential: it holds a Dropout, which draws at random at every call"),
    "state": (Counting, "Counting: it holds a StateIndex, which keeps state"),
    "state beside": (eqx.nn.make_with_state(Counting), r"make\(key\) returned tuple, not an Equinox module"),
    "no call": (lambda key: Uncallable(), r"make\(key\) returned Uncallable, not an Equinox module that can be called"),
    "a fault": (lambda key: 1 / 0, r"make\(key\) failed: ZeroDivisionError: division by zero"),
}


class Uncallable(eqx.Module):
    weight: float = 0.0


@pytest.mark.parametrize("fault", MADE)
def test_modules_that_are_no_function_of_their_parameters_are_refused(fault):
    make, message = MADE[fault]
    with pytest.raises(mi.InputError, match=message) as error:
        mi.from_equinox(make)
    assert "\n" not in str(error.value)


def test_dropout_that_is_off_is_no_obstacle():
    model = mi.from_equinox(dropping(True), name="mine")
    assert model.name == "mine"
    assert model.logits(model.init(jax.random.key(0)), jnp.ones((3, 2))).shape == (3,)
