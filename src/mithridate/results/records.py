"""One row per split, policy and ratio: plain data out."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import pandas as pd


@dataclass(frozen=True)
class Record:
    """What was measured in one cell. Errors and rates are shares of the test rows, retrained from scratch.

    `model`: the victim's, by the name in the configuration; `objective`: the attacker's. `ratio`: poison's share of the
    training set. `attack_success`: the share of what the attacker aims at that goes his way, for an indiscriminate one
    the test error; `attack_loss`: A of the retrained victim. `fprs`, `fnrs`: of each class against the rest; `fpr`,
    `fnr`: class 1's of two, their means of more. `valid_loss`: mean loss of the retrained victim on the validation
    rows; `valid_loss_before` and `valid_loss_after`: the attack's own objective at the batch's starting points and at
    its end, by the inner training. `log_strengths`: the defender's λ for each group of layers, `log_strength` their
    mean; `descended_log_strength`: the mean of where λ's descent inside the attack had ended; `best_log_strengths` and,
    their mean, `best_log_strength`: the best response on a fine grid, each along its own axis (learned policies only,
    else NaN). `weight_norm_sq`: ‖w‖²; `weight_norms`: each layer's, over its number of weights. `baseline_*`: the same
    ratio with the starting points, labels flipped and nothing optimised, as the policy answers it. `inner_steps`: T of
    the inner training as run, 0 where it is solved to optimality; `space`: the coordinates it ran in; `hypergradients`:
    how many of the attack's had which status, as "ok:700"; `stability`: η·curvature. `status`: "ok", or the faults
    joined by "+" (see `FAULTS`); `reason`: why a cell has failed, else "". `seconds`: what the cell
    took; the one column that differs between equal runs.
    """

    dataset: str
    model: str
    split: int
    policy: str
    objective: str
    budget: str
    n_train: int
    n_poison: int
    ratio: float
    test_error: float
    attack_success: float
    fpr: float
    fnr: float
    fprs: list[float]
    fnrs: list[float]
    valid_loss: float
    attack_loss: float
    valid_loss_before: float
    valid_loss_after: float
    log_strength: float
    log_strengths: list[float]
    descended_log_strength: float
    best_log_strength: float
    best_log_strengths: list[float]
    weight_norm_sq: float
    weight_norms: list[float]
    baseline_test_error: float
    baseline_attack_success: float
    baseline_valid_loss: float
    baseline_attack_loss: float
    baseline_log_strength: float
    inner_steps: int
    space: str
    hypergradients: str
    stability: float
    status: str
    reason: str
    seconds: float

    @classmethod
    def failed(cls, reason: str, lengths: Mapping[str, int], **known: Any) -> "Record":
        """Return the record of a cell that could not be computed: NaN for what is measured, lists as long as said."""
        unknown = {
            field.name: [math.nan] * lengths[field.name] if field.name in LISTS else math.nan for field in fields(cls)
        }
        said = {"space": "", "hypergradients": "", "status": "failed", "reason": reason, "seconds": 0.0}
        return cls(**{**unknown, **said, **known})


LISTS = ("fprs", "fnrs", "log_strengths", "best_log_strengths", "weight_norms")
"""The columns whose entries are lists: one number for each class, group of layers or layer."""

FAULTS = {
    "failed": "they could not be computed or trained (column reason); `mithridate resume` on the run directory tries "
    "them again",
    "non-finite": "a hypergradient or the retrained victim is NaN: lower the learning rates or λ, or use float64",
    "unsound": "some of the attack's hypergradients carried a warning (column hypergradients): it may be too weak",
    "unstable": "the inner training diverges on the poisoned set: lower the inner learning rate",
    "off-response": "λ is more than 0.1 from the defender's best response: use the closing solve; of several λ one "
    "may matter so little that it is not found as closely",
    "weak": "the attack does no more harm, in loss or in errors, than its own starting points with flipped labels: the "
    "worse of the two counts; raise its steps",
}


def file_name(policy: str) -> str:
    """Return a policy's name with nothing in it that a file name should not hold."""
    return re.sub(r"[^A-Za-z0-9.+-]+", "_", policy).strip("_")


def to_frame(records: Iterable[Record]) -> pd.DataFrame:
    """Return the records as a data frame with one column per field, in order."""
    names = [f.name for f in fields(Record)]
    return pd.DataFrame([[getattr(r, name) for name in names] for r in records], columns=names)
