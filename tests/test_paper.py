"""What the paper reports of Fig. 2, at full size: an attack that is too weak fails here. `make test-slow`, minutes."""

import numpy as np
import pytest

import mithridate as mi
from conftest import SHARED

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not SHARED.is_dir(), reason="the public data files are not at hand")]


@pytest.fixture(scope="module", params=[("mnist-0v8", "fixed=log(200)"), ("fashion-mnist-0v2", "fixed=log(500)")])
def means(request):
    """Means over three splits by policy and number of points."""
    name, large = request.param
    result = mi.audit(name, preset="paper", splits=3, policies=("fixed=-8", large, "learned"))
    assert set(result.frame["status"]) == {"ok"}, result.verdict.warnings
    cells = ["policy", "n_poison"]
    found = result.frame.groupby(cells)[["test_error", "valid_loss", "log_strength", "weight_norm_sq"]].mean()
    found["flips"] = (
        result.candidates[result.candidates["attack"] == "random flips"].groupby(cells)["test_error"].mean()
    )
    return {policy.partition("=log")[0]: found.loc[policy] for policy in ("fixed=-8", large, "learned")}


def test_a_small_fixed_strength_is_ruined_and_flipped_labels_would_not_tell(means):
    curve = means["fixed=-8"]
    assert curve["test_error"][0] < 0.06
    assert curve["test_error"][85] >= 0.12
    assert curve["test_error"][85] > 2 * curve["flips"][85]


def test_tuning_under_attack_blunts_it(means):
    assert means["learned"]["test_error"][85] < 0.95 * means["fixed=-8"]["test_error"][85]
    assert (means["learned"]["valid_loss"] <= means["fixed=-8"]["valid_loss"] + 1e-3).all()


def test_the_learned_strength_rises_and_the_norm_falls(means):
    learned = means["learned"]
    assert (np.diff(learned["log_strength"]) > -0.2).all()
    assert learned["log_strength"][85] > learned["log_strength"][0] + 3
    assert learned["weight_norm_sq"][85] < 0.5 * learned["weight_norm_sq"][0]


def test_a_very_large_strength_is_steady_but_worst_when_clean(means):
    large = means["fixed"]
    assert large["test_error"][0] > max(means[p]["test_error"][0] for p in ("fixed=-8", "learned"))
    assert large["test_error"][85] < means["learned"]["test_error"][85]
