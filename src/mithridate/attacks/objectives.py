"""What the attacker wants: D_target, and A on it (Eq. 2; Muñoz-González et al., 2017).

    indiscriminate        errors of any kind: D_target = D_val, A = L (Eq. 3)
    target-class A        errors on class A: D_target = D_val's rows of A, A = L      (error-generic)
    misclassify A-as-B    A taken for B: the same rows, labelled B, A = −L            (error-specific)
    rows FILE             the file's rows given the labels that they have there, A = −L

The defender goes on tuning λ on the whole of D_val.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mithridate.configuration.objective import parse_objective
from mithridate.errors import InputError
from mithridate.tasks.scores import ALIKE, Scoring, balanced, check_score

Labelled = tuple[np.ndarray, np.ndarray]
"""Features (n, m) and labels (n,)."""


@dataclass(frozen=True)
class Objective:
    """The attacker's side of Eq. 2 on one split.

    `target`, `valid`, `specific`, `start` and `scoring`: as `Attack` takes them. `goal`: the rows on which the
    retrained victim is measured. Success is the share of them that gets these labels if the objective is `specific`,
    else any other labels; `goal_scoring` weights the rows. `given`: whether these rows are those of a file, the same
    in every split.
    """

    target: Labelled
    goal: Labelled
    valid: Labelled | None = None
    specific: bool = False
    start: Labelled | None = None
    scoring: Scoring = ALIKE
    goal_scoring: Scoring = ALIKE
    given: bool = False


def objective_of(
    text: str,
    classes: Sequence[str],
    valid: Labelled,
    test: Labelled,
    read: Callable[[str], Labelled],
    flip: Callable[[np.ndarray], np.ndarray],
    score: str = "error",
    to_come: np.ndarray | None = None,
) -> Objective:
    """Return the objective that `text` names, for a split's validation and test rows.

    `read` returns the rows of a file as the victim sees them; `flip` returns other labels for given labels; `score`
    names how errors of any kind are scored; `to_come` (K,) are the shares of the classes among future rows (default: as
    in `valid`). Raises `InputError` as `parse_objective` and `check_score` do, and if a class has no rows to aim at.
    """
    check_score(score, len(classes))
    # Rows of class 1 that are missed are errors on class 1.
    text = f"target-class {classes[1]}" if score == "fnr" else text
    kind, what = parse_objective(text, classes)
    if kind == "indiscriminate":
        if score != "error":
            # D_val is given separately: the defender still weights its rows equally.
            even, ranked = np.ones(len(classes)), score == "one-minus-auc"
            own, goal = (Scoring(balanced(y, even), ranked) for _, y in (valid, test))
            return Objective(valid, test, valid, scoring=own, goal_scoring=goal)
        return Objective(valid, test, scoring=ALIKE if to_come is None else Scoring(balanced(valid[1], to_come)))
    if isinstance(what, str):
        target = read(what)
        return Objective(target, target, valid, True, target, given=True)
    (own_x, own_y), (goal_x, goal_y) = (_of_class(rows, what[0]) for rows in (valid, test))
    for name, there in (("validation", own_y), ("test", goal_y)):
        if not len(there):
            raise InputError(f"objective = {text!r}: there are no {name} rows of {classes[what[0]]!r} to aim at")
    if kind == "target-class":
        return Objective((own_x, own_y), (goal_x, goal_y), valid, False, (own_x, flip(own_y)))
    wanted = own_x, np.full_like(own_y, what[1])
    return Objective(wanted, (goal_x, np.full_like(goal_y, what[1])), valid, True, wanted)


def _of_class(rows: Labelled, label: int) -> Labelled:
    x, y = rows
    return x[y == label], y[y == label]
