"""One schema: file, flags and Python agree, and every wrong option is named with what is allowed."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mithridate as mi
from mithridate.configuration.presets import SETTINGS


def test_what_is_not_given_comes_from_tables_1_to_3():
    config = mi.AuditConfig.of(dataset="mnist-0v8", preset="paper")
    assert (config.train, config.valid, config.points, config.batch) == (512, 512, 85, 13)
    assert (config.learning_rate, config.inner_steps, config.hyperiterations) == (0.1, 150, 100)
    assert (config.train_learning_rate, config.batch_size, config.epochs) == (0.01, 64, 200)
    assert config.strength_bounds == pytest.approx((-8, 5.298), abs=1e-3)
    assert config.policies == ("fixed=-8", "fixed=log(200)", "cv-clean", "learned", "cv-poisoned")
    assert config.splits == 10
    assert config.most_poison == pytest.approx(0.166, abs=1e-3)


@pytest.mark.parametrize("family", SETTINGS)
def test_every_setting_makes_a_whole_configuration(family):
    config = mi.AuditConfig.of(dataset=f"{family}-0v1")
    assert mi.AuditConfig.of(**config.model_dump()) == config
    assert 0.15 < config.most_poison < 0.18


def test_none_counts_as_not_given():
    assert mi.AuditConfig.of(dataset="digits-0v8", points=None) == mi.AuditConfig.of(dataset="digits-0v8")


@given(train=st.integers(10, 10000), share=st.floats(0.01, 0.5), budget=st.sampled_from(["replaced", "added"]))
def test_a_share_is_reached_by_the_fewest_points(train, share, budget):
    config = mi.AuditConfig.of(dataset="digits-0v8", train=train, valid=20000, poison=share, budget=budget)
    assert share - 1e-9 <= config.most_poison <= share + 1 / train
    assert mi.AuditConfig.of(**config.model_dump()) == config


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"policy": ["learned"]}, "unknown option 'policy'; did you mean policies?; the options are target, positive"),
        ({"model": "svm"}, "model = 'svm': use logistic, mlp, or module:attribute"),
        ({"model": 3}, "model = 3: use logistic, mlp, or module:attribute"),
        ({"initial": "random"}, "initial = 'random': use fixed, fresh, or how many draws to average"),
        ({"initial": 0}, "initial = 0"),
        ({"initial": 2.5}, "initial = 2.5"),
        ({"hyperiterations": 0}, "hyperiterations = 0: input should be greater than or equal to 1"),
        ({"hyperiterations": -5}, "hyperiterations = -5"),
        ({"inner_steps": 0}, "inner_steps = 0"),
        ({"learning_rate": 0}, "learning_rate = 0"),
        ({"poison_step": -1}, "poison_step = -1"),
        ({"poison_step": float("nan")}, "poison_step = nan"),
        ({"epochs": "many"}, "epochs = 'many'"),
        ({"train": "all"}, "train = 'all'"),
        ({"bounds": (1.0, 0.0)}, "bounds = (1.0, 0.0): the wrong way round"),
        ({"strength_bounds": (5, -8)}, "strength_bounds = (5.0, -8.0): the wrong way round"),
        ({"points": 200}, "points = 200: more than the 128 training rows (156.2% poison); lower"),
        (
            {"attack": "bilevel", "points": 100, "valid": 50},
            ": more than the 50 validation rows that points are cloned from",
        ),
        ({"points": 5, "batch": 6}, "batch = 6: more than all 5 points"),
        ({"points": 5, "poison": 0.1}, "give one"),
        ({"poison": 1.5}, "poison = 1.5"),
        ({"poison": 1.0, "budget": "added"}, "poison = 1.0"),
        ({"policies": ()}, "policies = ()"),
        ({"poison": float("inf")}, "poison = inf"),
        ({"preset": ["quick"]}, "preset = ['quick']"),
        ({"folds": 70, "policies": ("cv-clean",)}, "folds = 70"),
        ({"seed": -1}, "seed = -1"),
        ({"tune_by": "accuracy"}, "tune_by = 'accuracy': use loss, error"),
        ({"edits": "label"}, "edits = 'label': use both, labels, features; did you mean labels?"),
        ({"execution": "seral"}, "ray:HOST:PORT; did you mean serial?"),
        ({"initial": "fxed"}, "at least 1; did you mean fixed?"),
        ({"strengths": "layer"}, "strengths = 'layer': use one, layers, or the group of each layer, as 0,0,1; did you"),
        ({"tune_by": "error", "policies": ("learned",), "closing": False}, "tune_by = error: with closing = False"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(mi.InputError) as error:
        mi.AuditConfig.of(dataset="digits-0v8", **options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_holds_the_same_options(tmp_path):
    file = tmp_path / "audit.toml"
    file.write_text('dataset = "synthetic"\nsplits = 2\npolicies = ["learned"]\nbounds = [-1, 1]\n')
    read = mi.AuditConfig.of(**mi.AuditConfig.read(file))
    assert read == mi.AuditConfig.of(dataset="synthetic", splits=2, policies=("learned",), bounds=(-1, 1))


@pytest.mark.parametrize("content", [b"splits = ", b"\xff\xfe", None])
def test_files_that_cannot_be_read_are_named(tmp_path, content):
    file = tmp_path / "audit.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(mi.InputError, match=r"audit\.toml"):
        mi.AuditConfig.read(file)


def test_importing_the_package_is_quick():
    """Nothing heavy is loaded before it is used."""
    code = "import sys, mithridate; print([m for m in ('jax', 'pandas', 'matplotlib', 'sklearn') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_every_public_name_is_there():
    assert "audit" in mi.__all__
    for name in mi.__all__:
        assert getattr(mi, name) is not None
    assert callable(mi.audit), "the function, not the module"
    assert Path(mi.__file__).with_suffix(".pyi").exists()
