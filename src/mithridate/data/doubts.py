"""What can be read and is likely not meant: a row taken for a header, numbers taken for words, a column that tells all.

What would make another table of the user's is refused with the remedy; what may be meant is warned of.
"""

import shlex
import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.tree import DecisionTreeClassifier

from mithridate.data.encoding import Column
from mithridate.data.groups import ROWS, Grouping
from mithridate.data.readers import Source, leave_out
from mithridate.errors import DataError

LARGEST = 1e30
"""Of a number in a table; beyond are infinity, and what float32 cannot hold."""
FEWEST = 20
"""Rows from which on a pattern in a column is no accident."""
ALIKE = 0.05
"""The share of rows with a twin that goes without saying."""
WRITTEN = {
    r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?": "numbers with a comma between thousands, or a decimal comma",
    r"[+-]?(?:\d+|\d{1,3}(?:[. ]\d{3})+),\d+": "numbers with a decimal comma",
    r"[+-]?\d{1,3}(?:[ '’\u00a0]\d{3})+(?:\.\d+)?": "numbers with marks between thousands",
    r"[+-]?\s?[$€£¥]\s?[+-]?[\d.,]+|[+-]?[\d.,]+\s?[$€£¥]": "amounts of money",
    r"[+-]?\d+(?:[.,]\d+)?\s?%": "percentages",
}
"""Ways of writing numbers that are not read as numbers, and what they are."""
OFFERED = 3
"""How many rules between columns are told of."""
PLAIN = r"[+-]?\d+"


def check_written(present: pd.Series, what: str) -> None:
    """Raise `DataError` where the cells of a column, as text, are numbers in a way of writing that is not read."""
    for pattern, meaning in WRITTEN.items():
        found = present.str.fullmatch(pattern)
        if found.any() and (found | present.str.fullmatch(PLAIN)).mean() >= 0.9:
            raise DataError(
                f"{what} holds {meaning} ({present[found].iloc[0]!r}), and they would be taken for words; write plain "
                "numbers with a decimal point, such as 1234.5; pandas reads such files, and a "
                "frame can be audited too"
            )


def check_header(frame: pd.DataFrame, target: str, source: Source) -> None:
    """Raise `DataError` where the first line of a CSV file looks like one of its rows and not like names of columns."""
    if not source.separator:
        return
    names = pd.Series([str(name) for name in frame.columns])
    broken = names.str.fullmatch(r"[+-]?\d*\.\d+").sum()
    own = sum(name in set(frame.iloc[:, place].dropna()) for place, name in enumerate(names))
    labels = set(frame.loc[:, [target]].iloc[:, 0].dropna().astype(str)) if target in set(names) else set()
    if 2 * broken >= len(names) or 2 * own > len(names) or (target in labels and 2 * own >= len(names)):
        raise DataError(
            f"{source.name}: the first line looks like data and not like a header ({', '.join(names[:4])}, …); put the "
            "columns' names above it"
        )


def check_spelling(labels: Sequence[str], what: str) -> None:
    """Raise `DataError` where two labels differ by nothing but capitals."""
    alike: dict[str, list[str]] = {}
    for label in labels:
        alike.setdefault(label.casefold(), []).append(label)
    several = [" and ".join(map(repr, same)) for same in alike.values() if len(same) > 1]
    if several:
        raise DataError(f"{what} holds the labels {'; '.join(several)}, alike but for capitals; join them")


def warn_of(
    columns: Sequence[Column], raw: np.ndarray, labels: np.ndarray, source: Source, grouping: Grouping | None = None
) -> None:
    """Warn of columns that number the rows, of those that alone tell the label of every row, and of rows alike.

    Arguments: raw numbers (n, columns), NaN where a cell is empty, and the target's (n,); the groups of the rows.
    """
    known = ~np.isnan(labels)
    if known.sum() < FEWEST:
        return
    alike = pd.DataFrame(raw).duplicated(keep=False).mean()
    if alike > ALIKE:
        kept = (
            "rows alike are kept together, so that none is trained and tested on; use group = none to draw each row on "
            "its own"
            if grouping and grouping.name == ROWS
            else "some are trained and tested on, so that errors on new rows may be higher; use group = rows to keep "
            "rows alike together, if they are the same case"
        )
        _warn(f"{source.name}: {alike:.0%} of the rows have the same features as another; {kept}")
    if grouping and grouping.name != ROWS and len(grouping.numbers) == grouping.numbers.max() + 1:
        _warn(f"{source.name}: group = {grouping.name!r}: no two rows have the same, so it keeps nothing together")
    for place, column in enumerate(columns):
        cells = raw[:, place]
        if column.kind == "integer" and (np.diff(cells) == 1).all():
            _warn(f"{source.name}: column {column.name!r} numbers the rows; {leave_out(column.name)}")
            continue
        own, y = np.nan_to_num(cells[known], nan=-LARGEST)[:, None], labels[known]
        # Four values at most decide: more would learn the rows by heart.
        if DecisionTreeClassifier(max_leaf_nodes=4, random_state=0).fit(own, y).score(own, y) == 1:
            _warn(
                f"{source.name}: column {column.name!r} alone tells the label of every row; if it is known only "
                f"afterwards, {leave_out(column.name)}"
            )


def offer_rules(found: Sequence[str], source: Source) -> None:
    """Warn of rules that all rows keep and poison need not, with the flags that make it keep them."""
    if found:
        flags = " ".join(f"--rule {shlex.quote(text)}" for text in found[:OFFERED])
        more = f" (and {len(found) - OFFERED} more)" if len(found) > OFFERED else ""
        _warn(f"{source.name}: in every row {'; '.join(found[:OFFERED])}{more}; if it has to be so, use {flags}")


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=4)
