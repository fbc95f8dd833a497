"""The 95 % interval of a mean over random splits of the same rows.

Two splits have rows in common, so their figures are correlated, and Student's interval for independent draws is too
narrow: with ten splits of 200 rows it contains the truth only three times of four. We take the correlation to be the
share of rows that two random draws have in common, for training and for test rows. This holds for any statistic that
is a mean over rows. (Nadeau and Bengio, 2003, correct by the ratio of test to training rows instead.)
"""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

ERRORS = ("test_error", "attack_success", "fpr", "fnr")
"""The metrics that are shares of test rows: they vary with the rows that are drawn to test on."""


MOST = 0.99
"""The largest share that is used: splits with all rows in common say nothing about other rows."""


class Shared(NamedTuple):
    """What two splits have in common: `train` and `test`, the shares of their rows, and `n_test`, how many test rows.

    If the test rows are the same in all splits, they are part of the question, and `test` is 0.
    """

    train: float = 0.0
    test: float = 0.0
    n_test: float = np.inf

    @classmethod
    def of(cls, frame: pd.DataFrame, metric: str = "test_error") -> "Shared":
        """Return what splits share for a metric of an audit's records; nothing for a frame without these columns.

        The attacker's success is measured on the rows that he aims at: a part of the test rows, or rows of his own. If
        splits have different numbers of them, the smallest counts.
        """
        if "shared_train" not in frame:
            return cls()
        tested = ("shared_goal", "n_goal") if metric == "attack_success" else ("shared_test", "n_test")
        train, test = (float(frame[name].iloc[0]) for name in ("shared_train", tested[0]))
        return cls(min(train, MOST), min(test, MOST), max(float(frame[tested[1]].min()), 1.0))


def paired(errors: pd.DataFrame, one: str, other: str, shared: Shared) -> tuple[float, float]:
    """Return how many points the errors of `one` lie above those of `other`, and half the 95 % interval.

    `errors` has a row for each split and a column for each defender, shares from 0 to 1. All defenders of a split have
    the same rows, so the difference of two varies less than each of them. The interval of one split is NaN.
    """
    difference, mean = errors[one] - errors[other], errors[[one, other]].mean()
    sampled = float((mean * (1 - mean)).sum()) / shared.n_test
    return 100 * float(difference.mean()), 100 * float(half_width(difference.std(), len(errors), shared, sampled))


def half_width(std: Any, counts: Any, shared: Shared, sampled: Any = 0.0) -> Any:
    """Return half the 95 % interval of means over splits.

    `std` and `counts`: for each mean, the sample deviation over the splits and their number; `sampled`: the part of the
    variance of one split that comes from the choice of test rows, p(1 − p)/n_test for an error p. The sample variance
    s² lacks the variance that the splits have in common, which is added here.
    """
    seen = np.asarray(std, float) ** 2
    tested = np.minimum(sampled, seen / (1 - shared.test))
    trained = np.maximum(seen - tested * (1 - shared.test), 0) / (1 - shared.train)
    variance = seen / counts + shared.test * tested + shared.train * trained
    return stats.t.ppf(0.975, np.maximum(np.asarray(counts) - 1, 1)) * np.sqrt(variance)
