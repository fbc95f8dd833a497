"""The 95 % interval of a mean over random splits of the same rows.

Two splits have rows in common, so that their figures go together, and Student's interval of independent draws is too
narrow (of ten splits of 200 rows it holds the truth three times of four). How much they go together is told by what
they share: of two random draws the share of the rows, for training and for testing alike, as for any statistic that is
a mean over rows. (Nadeau and Bengio, 2003, correct the same by the ratio of test to training rows.)
"""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

ERRORS = ("test_error", "attack_success", "fpr", "fnr")
"""Shares of test rows, which vary with the rows that are drawn to test on."""


MOST = 0.99
"""The largest share that is reckoned with: splits that have all rows in common tell nothing of other rows."""


class Shared(NamedTuple):
    """What two splits have in common: the shares of their training and of their test rows, and how many test rows are.

    Test rows that are the same in all splits are part of the question, and count as none.
    """

    train: float = 0.0
    test: float = 0.0
    n_test: float = np.inf

    @classmethod
    def of(cls, frame: pd.DataFrame, metric: str = "test_error") -> "Shared":
        """Return it for a metric of an audit's records; of a frame without such columns the splits share nothing.

        The attacker's success is measured on the rows that he aims at, which can be few of the test rows, or rows of
        his own. Of splits that have not equally many the fewest count.
        """
        if "shared_train" not in frame:
            return cls()
        tested = ("shared_goal", "n_goal") if metric == "attack_success" else ("shared_test", "n_test")
        train, test = (float(frame[name].iloc[0]) for name in ("shared_train", tested[0]))
        return cls(min(train, MOST), min(test, MOST), max(float(frame[tested[1]].min()), 1.0))


def paired(errors: pd.DataFrame, one: str, other: str, shared: Shared) -> tuple[float, float]:
    """Return by how many points `one`'s errors lie above `other`'s, and half the 95 % interval, NaN of one split.

    `errors`: a row for each split, a column for each defender. Splits draw other rows, defenders of a split have the
    same: their difference varies less than each of the two.
    """
    difference, mean = errors[one] - errors[other], errors[[one, other]].mean()
    sampled = float((mean * (1 - mean)).sum()) / shared.n_test
    return 100 * float(difference.mean()), 100 * float(half_width(difference.std(), len(errors), shared, sampled))


def half_width(std: Any, counts: Any, shared: Shared, sampled: Any = 0.0) -> Any:
    """Return half the 95 % interval of means, from the sample deviations over so many splits, one each.

    `sampled`: how much of one split's variance is known to come from which rows are tested on, p(1 − p)/n_test for an
    error p. The variance s² of what was seen lacks what the splits have in common.
    """
    seen = np.asarray(std, float) ** 2
    tested = np.minimum(sampled, seen / (1 - shared.test))
    trained = np.maximum(seen - tested * (1 - shared.test), 0) / (1 - shared.train)
    variance = seen / counts + shared.test * tested + shared.train * trained
    return stats.t.ppf(0.975, np.maximum(np.asarray(counts) - 1, 1)) * np.sqrt(variance)
