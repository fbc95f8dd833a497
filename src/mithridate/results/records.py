"""One row per split, policy, ratio and attack: plain data out."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import pandas as pd

from mithridate.configuration.parts import FLIPS


@dataclass(frozen=True)
class Record:
    """What one attack came to in one cell. Errors and rates are shares of the test rows, retrained from scratch.

    `model`, `loss`, `penalty`: the victim's, by their names in the configuration; `task`: what it is trained to do;
    `policy`: the defender's name, of which `defence` is what is done to the rows; `attack`: how the poison was made,
    begun from which rows (`begun`); `budget`, `edits`: which rows are the attacker's, and what he changes; `objective`:
    what he wants; `score`: how errors of any kind are scored (see `SCORES`). `n_train`, `n_test`: rows trained and
    tested on; `shared_train`, `shared_test`: the shares of them that two splits have in common, 0 of test rows that are
    always the same; `n_goal`, `shared_goal`: the same of the rows that the attacker aims at, for an indiscriminate one
    the test rows, as many as would tell as much if all counted alike. `ratio`: poison's share of the training set.
    `attack_success`: the share of what the attacker aims at that goes his way, for an indiscriminate one the score;
    `constant_error`: the score of a model that tells nothing, such as the error of always giving the most frequent
    answer; `attack_loss`: A of the retrained victim; `target_success`: the attacker's success on the rows that he sees,
    by which attacks are ranked. `fprs`, `fnrs`: of each class against the rest; `fpr`, `fnr`: class 1's of two, their
    means of more. `valid_loss`: mean loss of the retrained victim on the validation rows. `log_strengths`: the
    defender's λ for each group of layers, `log_strength` their mean. `weight_norm_sq`: ‖w‖²; `weight_norms`: each
    layer's, over its number of weights. `inner_steps`: T of the inner training as run, 0 where it is solved to
    optimality; `space`: the coordinates it ran in. `status`: "ok", or the faults joined by "+" (see `FAULTS`);
    `reason`: why a cell has failed, else "". `seconds`: what it took; the one column that differs between equal runs.

    Of the attack that an audit is about, and unknown (NaN or "") of the others: `valid_loss_before` and
    `valid_loss_after`, the attack's own objective at the batch's starting points and at its end, by the inner training;
    `descended_log_strength`, the mean of where λ's descent inside the attack had ended; `best_log_strengths` and, their
    mean, `best_log_strength`, the best response on a fine grid, each along its own axis (learned policies only);
    `hypergradients`, how many of the attack's had which status, as "ok:700"; `stability`, η·curvature.

    Of an estimator: `tuned`, what its own search has found, as JSON (else ""); `fits`, how often the attacker has
    fitted it for this cell. What it does not have is NaN: λ, the weights, and without probabilities `valid_loss`.
    """

    dataset: str
    model: str
    loss: str
    penalty: str
    task: str
    split: int
    policy: str
    defence: str
    attack: str
    begun: str
    objective: str
    score: str
    budget: str
    edits: str
    n_train: int
    n_test: int
    shared_train: float
    shared_test: float
    n_goal: float
    shared_goal: float
    n_poison: int
    ratio: float
    test_error: float
    constant_error: float
    attack_success: float
    fpr: float
    fnr: float
    fprs: list[float]
    fnrs: list[float]
    valid_loss: float
    attack_loss: float
    target_success: float
    log_strength: float
    log_strengths: list[float]
    weight_norm_sq: float
    weight_norms: list[float]
    inner_steps: int
    space: str
    status: str
    reason: str
    seconds: float
    valid_loss_before: float = math.nan
    valid_loss_after: float = math.nan
    descended_log_strength: float = math.nan
    best_log_strength: float = math.nan
    best_log_strengths: list[float] = field(default_factory=list)
    hypergradients: str = ""
    stability: float = math.nan
    tuned: str = ""
    fits: int = 0

    def __repr__(self) -> str:
        at = f"split {self.split}, {self.policy}, {self.attack}, {self.n_poison} points ({self.ratio:.1%})"
        return f"Record({at}: test error {self.test_error:.1%}, success {self.attack_success:.1%}, {self.status})"

    @classmethod
    def failed(cls, reason: str, lengths: Mapping[str, int], **known: Any) -> "Record":
        """Return the record of a cell that could not be computed: NaN for what is measured, lists as long as said."""
        unknown = {one.name: [math.nan] * lengths[one.name] if one.name in LISTS else math.nan for one in fields(cls)}
        said = {"space": "", "hypergradients": "", "status": "failed", "reason": reason, "seconds": 0.0}
        return cls(**{**unknown, **said, **known})


NOISE = 1e-6
"""Errors are counts over counts, measured in float32: by less than this none is above another."""

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
    "few-folds": "a class has too few training rows, or groups of them, for as many folds as were asked for: there "
    "were fewer, and none with less than two, where λ stays as it was. Use more training rows, or policy learned",
    "constant": "the model is no better than one that tells nothing, such as by always giving the most frequent "
    "answer. If it is so clean, nothing can be said of what it tolerates: look at the rates of errors, count classes "
    "alike by --score balanced-error, or audit --objective 'target-class CLASS'. "
    "If only poisoned, the poison has ruined it",
    "weak": "the attack does less harm than the worst flips of labels alone: the worse of the two on the validation "
    "rows counts; raise its steps if it takes any",
}


def flips_of(frame: pd.DataFrame, candidates: pd.DataFrame) -> pd.DataFrame:
    """Return the records of the worst flips of labels alone, `frame`'s clean cells among them, in the cells' order."""
    own = candidates[candidates["attack"].isin(FLIPS) & (candidates["n_poison"] > 0)]
    ranked = own.sort_values(["target_success", "attack_loss"], kind="stable", na_position="first")
    own = ranked.groupby(["split", "policy", "n_poison"], sort=False).tail(1)
    order = {policy: number for number, policy in enumerate(frame["policy"].unique())}
    both = pd.concat([frame[frame["n_poison"] == 0], own])
    at = both["policy"].map(order)
    return both.assign(_at=at).sort_values(["split", "_at", "n_poison"], kind="stable").drop(columns="_at")


def file_name(policy: str) -> str:
    """Return a policy's name with nothing in it that a file name should not hold."""
    return re.sub(r"[^A-Za-z0-9.+-]+", "_", policy).strip("_")


def to_frame(records: Iterable[Record]) -> pd.DataFrame:
    """Return the records as a data frame with one column per field, in order."""
    names = [f.name for f in fields(Record)]
    return pd.DataFrame([[getattr(r, name) for name in names] for r in records], columns=names)
