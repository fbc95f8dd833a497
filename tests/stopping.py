"""A small audit, what it takes to stop it, and to see that two results are the same."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

import mithridate as mi
from mithridate.results.records import LISTS

TINY: dict[str, Any] = dict(train=24, valid=24, points=5, batch=3, splits=2, inner_steps=30, epochs=5)  # noqa: C408
TINY |= {"hyperiterations": 10, "joint_hyperiterations": 10, "policies": ("cv-clean", "learned"), "folds": 2}
TINY |= {"attack": "bilevel", "budget": "replaced"}
CELLS = 2 * 2 * 3
DATA = "digits-0v8"
FLAGS = [f"--{name.replace('_', '-')}={value}" for name, value in TINY.items() if name != "policies"] + [
    f"--policy={policy}" for policy in TINY["policies"]
]


def assert_same(one: mi.AuditResult, two: mi.AuditResult):
    numbers = [name for name in one.frame if name not in (*LISTS, "seconds")]
    pd.testing.assert_frame_equal(one.frame[numbers], two.frame[numbers], check_exact=True)
    for name in LISTS:
        np.testing.assert_array_equal(one.frame[name].to_list(), two.frame[name].to_list())
    assert one.poison.keys() == two.poison.keys()
    for cell, arrays in one.poison.items():
        assert arrays.keys() == two.poison[cell].keys()
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, two.poison[cell][name])
    for said in (ours := one.summary(), theirs := two.summary()):
        said["config"] = said["config"] | {"execution": "any"}
    assert json.dumps(ours) == json.dumps(theirs)


def after(calls: int) -> Callable[[], bool]:
    """Something that says stop from the nth time on that it is asked."""
    left = iter(range(calls))
    return lambda: next(left, None) is None
