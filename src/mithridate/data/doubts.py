"""Tables that can be read but are probably not what the user meant.

Examples are a row that is taken for a header, and a column that tells the label. If reading on would change the user's
table, it is refused, with the remedy. What the user may have meant gives a warning.
"""

import re
import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.tree import DecisionTreeClassifier

from mithridate.configuration.reading import FileOptions, told
from mithridate.data.encoding import Column
from mithridate.data.faults import Unfit, leave_out, merged
from mithridate.data.groups import ROWS, Grouping
from mithridate.data.kinds import Source

LARGEST = 1e30
"""The largest number of a table: beyond it is what results in float32 cannot hold, and infinity."""
FEWEST = 20
"""The fewest rows for which a pattern in a column is hardly an accident."""
ALIKE = 0.05
"""The largest share of rows that are like another row without a warning."""


def check_header(names: Sequence[str], rows: Sequence[Sequence[str]], target: str | None, source: Source) -> None:
    """Raise `Unfit` if the first line of a text file looks like a row and not like names of columns.

    Arguments: `names`, the cells of the first line; the cells of the first `rows`; `target`, as the user calls it.
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
    """Raise `Unfit` if two labels differ by nothing but capitals."""
    alike: dict[str, list[str]] = {}
    for label in labels:
        alike.setdefault(label.casefold(), []).append(label)
    several = [" and ".join(map(repr, same)) for same in alike.values() if len(same) > 1]
    if several:
        raise Unfit(source, f"{what} holds the labels {'; '.join(several)}, alike but for capitals", "join them")


def warn_of_names(names: Sequence[str], order: Sequence[str], source: Source, options: FileOptions) -> None:
    """Warn of columns whose names differ by nothing but capitals and blanks; `order`, all columns of the table."""
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault("".join(name.casefold().split()), []).append(name)
    several = [same for same in alike.values() if len(same) > 1]
    if several:
        shown = "; ".join(" and ".join(map(repr, same)) for same in several[:5])
        more = f" and {len(several) - 5} more" if len(several) > 5 else ""
        others = [name for same in several for name in same[1:]]
        spare = merged([Unfit(source, "", **leave_out(name, order.index(name))) for name in others])
        warn(
            f"{source.name}: some columns have names that differ by nothing but capitals or blanks: {shown}{more}; if "
            f"they hold the same, use {told(spare, options)}"
        )


def warn_of(
    columns: Sequence[Column],
    raw: np.ndarray,
    labels: np.ndarray,
    source: Source,
    order: Sequence[str],
    options: FileOptions,
    grouping: Grouping | None = None,
) -> None:
    """Warn of columns that number the rows, of columns that alone tell every label, and of rows that are alike.

    Arguments: `raw` (n, columns), the raw numbers of the features, NaN where a cell is empty; `labels` (n,), those of
    the target; `order`, the names of all columns of the table; the `options` that are given; the `grouping` of the
    rows.
    """
    known = ~np.isnan(labels)
    if known.sum() < FEWEST:
        return
    alike = pd.DataFrame(raw).duplicated(keep=False).mean()
    if alike > ALIKE:
        kept = (
            "rows alike are kept in one part of a split, so that no row is both trained and tested on; use "
            f"{told({'group': 'none'})} to draw each row on its own"
            if grouping and grouping.name == ROWS
            else "some are both trained and tested on, so errors on new rows may be higher; if they are the same case, "
            f"use {told({'group': ROWS})} to keep them in one part of a split"
        )
        warn(f"{source.name}: {alike:.0%} of the rows have the same features as another; {kept}")
    if grouping and grouping.name != ROWS and len(grouping.numbers) == grouping.numbers.max() + 1:
        warn(f"{source.name}: group = {grouping.name!r}: no two rows have the same value, so no rows are kept together")
    for place, column in enumerate(columns):
        cells = raw[:, place]
        remedy = told(leave_out(column.name, order.index(column.name)), options)
        if column.kind == "integer" and (np.diff(cells) == 1).all():
            warn(f"{source.name}: column {column.name!r} numbers the rows; use {remedy}")
            continue
        own, y = np.nan_to_num(cells[known], nan=-LARGEST)[:, None], labels[known]
        # At most four leaves: a larger tree would learn the rows by heart.
        if DecisionTreeClassifier(max_leaf_nodes=4, random_state=0).fit(own, y).score(own, y) == 1:
            warn(
                f"{source.name}: column {column.name!r} alone tells the label of every row; if it is known only "
                f"after the label, use {remedy}"
            )


def warn(text: str) -> None:
    """Print a warning of one line."""
    warnings.warn(text, stacklevel=4)
