"""The records of an audit: one row per split, policy, ratio and attack, as plain data."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import pandas as pd

from mithridate.configuration.parts import FLIPS


@dataclass(frozen=True)
class Record:
    """What one attack achieved in one cell: the victim is retrained from scratch. Errors and rates are from 0 to 1.

    Arguments:
        dataset: Name of the data set.
        model: Name of the victim's model in the configuration; likewise `loss` and `penalty`.
        task: What the victim is trained to do.
        split: Number of the split, counted from 0.
        policy: Name of the defender: the policy, with the defence if there is one.
        defence: Name of what the defender does to the rows, or "none".
        attack: How the poison was made.
        begun: Which rows the attack started from.
        objective: What the attacker wants.
        score: How errors of any kind are scored (see `SCORES`).
        budget: Which rows are the attacker's.
        edits: What the attacker changes in them.
        n_train: Number of training rows, poison included; `n_test`: number of test rows.
        shared_train: Share of the training rows that two splits have in common; `shared_test`: the same for test rows,
            0 if they are always the same.
        n_goal: Number of rows that the attacker aims at, and `shared_goal` the share of them that two splits have in
            common. For an indiscriminate attacker these are the test rows, counted as `Scoring.rows` does.
        n_poison: Number of poisoning points; `ratio`: their share of the training set.
        test_error: Error on the test rows.
        constant_error: Score of an uninformative model, such as the error of always giving the most frequent answer.
        attack_success: Share of the rows aimed at that the victim classifies as the attacker wants; for an
            indiscriminate attacker the score.
        fpr: False positive rate and `fnr` false negative rate: of class 1 if there are two classes, otherwise the mean
            over the classes; `fprs` and `fnrs`: those of each class against the rest.
        valid_loss: Mean loss of the retrained victim on the validation rows.
        attack_loss: A of the retrained victim.
        target_success: The attacker's success on D_target, the rows that he sees. Attacks are ranked by it.
        log_strengths: The defender's λ for each group of layers; `log_strength`: their mean.
        weight_norm_sq: ‖w‖²; `weight_norms`: for each layer its ‖w‖² divided by its number of weights.
        inner_steps: T of inner training as it was run, 0 if the victim is solved to optimality.
        space: Coordinates in which inner training ran.
        status: "ok", or the faults joined by "+" (see `FAULTS`).
        reason: Why the cell failed, otherwise "".
        seconds: Time that the cell took. It is the only column that differs between equal runs.
        valid_loss_before: The attack's own objective at the starting points of the batch, by inner training;
            `valid_loss_after`: the same at its end.
        descended_log_strength: Mean λ at which the descent inside the attack ended.
        best_log_strengths: The best response on a fine grid along each axis (learned policies only);
            `best_log_strength`: their mean.
        hypergradients: How many hypergradients of the attack had which status, such as "ok:700".
        stability: η·curvature.

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
        said |= {"tuned": "", "fits": 0}
        return cls(**{**unknown, **said, **known})


NOISE = 1e-6
"""Errors are counts over counts, measured in float32: a smaller difference is rounding."""

LISTS = ("fprs", "fnrs", "log_strengths", "best_log_strengths", "weight_norms")
"""The columns whose entries are lists: one number for each class, group of layers or layer."""

FAULTS = {
    "failed": "they could not be computed or trained (column reason); `mithridate resume` on the run directory tries "
    "them again",
    "non-finite": "a hypergradient or the retrained victim is NaN: lower the learning rates or λ, or use float64",
    "unsound": "some of the attack's hypergradients carried a warning (column hypergradients): it may be too weak",
    "unstable": "the inner training diverges on the poisoned set: lower the inner learning rate",
    "off-response": "λ is more than 0.1 from the defender's best response: use closing = True; if there are several "
    "λ, one of them may hardly change the loss, so that it cannot be found as precisely",
    "few-folds": "a class has fewer training rows, or groups of them, than there should be folds, so there were fewer "
    "folds; with fewer than two rows λ stayed as it was. Use more training rows, or policy learned",
    "constant": "if this is so without poison, nothing can be said of what the model tolerates; if it is so only with "
    "poison, the poison has ruined the model",
    "weak": "the attack does less harm than the worst label flips; the worse of the two on the validation rows "
    "counts; use more hyperiterations if the attack takes any",
}


def flips_of(frame: pd.DataFrame, candidates: pd.DataFrame) -> pd.DataFrame:
    """Return the records of the worst label flips of each cell, and the clean cells, in the order of `frame`."""
    own = candidates[candidates["attack"].isin(FLIPS) & (candidates["n_poison"] > 0)]
    ranked = own.sort_values(["target_success", "attack_loss"], kind="stable", na_position="first")
    own = ranked.groupby(["split", "policy", "n_poison"], sort=False).tail(1)
    order = {policy: number for number, policy in enumerate(frame["policy"].unique())}
    both = pd.concat([frame[frame["n_poison"] == 0], own])
    at = both["policy"].map(order)
    return both.assign(_at=at).sort_values(["split", "_at", "n_poison"], kind="stable").drop(columns="_at")


def file_name(policy: str) -> str:
    """Return a policy's name with `_` for characters that file names should not contain."""
    return re.sub(r"[^A-Za-z0-9.+-]+", "_", policy).strip("_")


def to_frame(records: Iterable[Record]) -> pd.DataFrame:
    """Return the records as a data frame with one column per field, in the order of the fields."""
    names = [f.name for f in fields(Record)]
    return pd.DataFrame([[getattr(r, name) for name in names] for r in records], columns=names)
