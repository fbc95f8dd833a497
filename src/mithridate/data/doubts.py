"""What can be read and is likely not meant: a row taken for a header, numbers taken for words, a column that tells all.

What would make another table of the user's is refused with the remedy; what may be meant is warned of.
"""

import re
import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.tree import DecisionTreeClassifier

from mithridate.configuration.reading import FileOptions, told
from mithridate.data.encoding import Column
from mithridate.data.faults import Unfit, leave_out
from mithridate.data.groups import ROWS, Grouping
from mithridate.data.kinds import Source

LARGEST = 1e30
"""Of a number in a table; beyond are infinity, and what float32 cannot hold."""
FEWEST = 20
"""Rows from which on a pattern in a column is no accident."""
ALIKE = 0.05
"""The share of rows with a twin that goes without saying."""


def check_header(names: Sequence[str], rows: Sequence[Sequence[str]], target: str | None, source: Source) -> None:
    """Raise `Unfit` where the first line of a text file looks like one of its rows and not like names of columns.

    Arguments: the first line's cells, and those of the first `rows`; `target`, as the user calls it.
    """
    columns = [{cell.strip() for cell in column} for column in zip(*rows, strict=True)]
    if not columns:
        return
    broken = sum(re.fullmatch(r"[+-]?\d*\.\d+", name) is not None for name in names)
    own = sum(name in cells for name, cells in zip(names, columns, strict=True))
    labelled = target is not None and target in names and target in columns[list(names).index(target)]
    if 2 * broken >= len(names) or 2 * own > len(names) or (labelled and 2 * own >= len(names)):
        raise Unfit(
            source,
            f"the first line looks like data and not like a header ({', '.join(names[:4])}, …)",
            "put the columns' names above it",
            header="none",
        )


def check_spelling(labels: Sequence[str], what: str, source: Source) -> None:
    """Raise `Unfit` where two labels differ by nothing but capitals."""
    alike: dict[str, list[str]] = {}
    for label in labels:
        alike.setdefault(label.casefold(), []).append(label)
    several = [" and ".join(map(repr, same)) for same in alike.values() if len(same) > 1]
    if several:
        raise Unfit(source, f"{what} holds the labels {'; '.join(several)}, alike but for capitals", "join them")


def warn_of(
    columns: Sequence[Column],
    raw: np.ndarray,
    labels: np.ndarray,
    source: Source,
    order: Sequence[str],
    options: FileOptions,
    grouping: Grouping | None = None,
) -> None:
    """Warn of columns that number the rows, of those that alone tell the label of every row, and of rows alike.

    Arguments: raw numbers (n, columns), NaN where a cell is empty, and the target's (n,); `order`, all columns there
    are; `options`, those that are given; the groups of the rows.
    """
    known = ~np.isnan(labels)
    if known.sum() < FEWEST:
        return
    alike = pd.DataFrame(raw).duplicated(keep=False).mean()
    if alike > ALIKE:
        kept = (
            "rows alike are kept together, so that none is trained and tested on; use "
            f"{told({'group': 'none'})} to draw each row on its own"
            if grouping and grouping.name == ROWS
            else "some are trained and tested on, so that errors on new rows may be higher; use "
            f"{told({'group': ROWS})} to keep rows alike together, if they are the same case"
        )
        warn(f"{source.name}: {alike:.0%} of the rows have the same features as another; {kept}")
    if grouping and grouping.name != ROWS and len(grouping.numbers) == grouping.numbers.max() + 1:
        warn(f"{source.name}: group = {grouping.name!r}: no two rows have the same, so it keeps nothing together")
    for place, column in enumerate(columns):
        cells = raw[:, place]
        remedy = told(leave_out(column.name, order.index(column.name)), options)
        if column.kind == "integer" and (np.diff(cells) == 1).all():
            warn(f"{source.name}: column {column.name!r} numbers the rows; use {remedy}")
            continue
        own, y = np.nan_to_num(cells[known], nan=-LARGEST)[:, None], labels[known]
        # Four values at most decide: more would learn the rows by heart.
        if DecisionTreeClassifier(max_leaf_nodes=4, random_state=0).fit(own, y).score(own, y) == 1:
            warn(
                f"{source.name}: column {column.name!r} alone tells the label of every row; if it is known only "
                f"afterwards, use {remedy}"
            )


def warn(text: str) -> None:
    """Warn in one line."""
    warnings.warn(text, stacklevel=4)
