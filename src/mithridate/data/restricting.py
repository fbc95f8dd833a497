"""Reads the option `feasible`: what poisoned cells of a column may hold."""

import difflib
import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from mithridate.data.doubts import LARGEST, warn
from mithridate.data.encoding import Column, nothing_between
from mithridate.data.kinds import Source
from mithridate.data.numbers import NUMBER
from mithridate.errors import InputError

EDGE = 1e-9


def restricted(columns: list[Column], feasible: Sequence[str]) -> list[Column]:
    """Return the columns with the ranges and categories that `COLUMN=LOW:HIGH` and `COLUMN=A|B` give.

    Raises `InputError` for an unknown column or category, and for a range that is empty or that the column cannot hold.
    """
    found = {column.name: column for column in columns}
    done = set()
    for text in feasible:
        # Names and categories may contain an equals sign.
        cuts = [cut.start() for cut in re.finditer("=", text)]
        cut = next((cut for cut in cuts if text[:cut] in found), None)
        if not cuts:
            raise InputError(f"feasible {text!r}: give it as COLUMN=LOW:HIGH or COLUMN=A|B")
        if cut is None:
            wanted = text[: cuts[0]]
            raise InputError(f"feasible {text!r}: no column {wanted!r}; {nearest(wanted, list(found))}")
        name, value = text[:cut], text[cut + 1 :]
        if name in done:
            raise InputError(f"feasible {text!r}: column {name!r} is given twice")
        done.add(name)
        found[name] = (_chosen if found[name].categories else _bounded)(found[name], text, value)
    return list(found.values())


def check_reach(columns: Sequence[Column], raw: np.ndarray, source: Source) -> None:
    """Warn of ranges with both ends given that hold no row (n, columns); raise `InputError` if one end is given."""
    for column, cells in zip(columns, raw.T, strict=True):
        known = cells[~np.isnan(cells)]
        if column.kind not in ("number", "integer") or not len(known):
            continue
        least, most = known.min(), known.max()
        low, high = (end if given is None else given for given, end in ((column.low, least), (column.high, most)))
        if low <= most and high >= least:
            continue
        if low > high:
            raise InputError(nothing_between(column, (low, high), (least, most), "rows"))
        warn(
            f"{source.name}: feasible {column.feasible!r} contains no row of the data: {column.name!r} goes from "
            f"{least:g} to {most:g}, so poison is easy to tell from other rows; widen the range if this is not meant"
        )


def _bounded(column: Column, text: str, value: str) -> Column:
    ends = [end.strip() for end in value.split(":")]
    if len(ends) != 2 or not any(ends) or not all(re.fullmatch(NUMBER, end) for end in ends if end):
        raise InputError(f"feasible {text!r}: {column.name!r} holds numbers; give LOW:HIGH, LOW: or :HIGH")
    low, high = (float(end) if end else None for end in ends)
    if low is not None and high is not None and low > high:
        raise InputError(f"feasible {text!r}: {low:g} lies above {high:g}; give the lower end first")
    if any(end is not None and abs(end) > LARGEST for end in (low, high)):
        raise InputError(f"feasible {text!r}: the ends must be finite")
    if column.grid:
        # Ends that differ from a grid point only by rounding stay where they are.
        low = None if low is None else float(np.ceil(low / column.grid - EDGE) * column.grid)
        high = None if high is None else float(np.floor(high / column.grid + EDGE) * column.grid)
        if low is not None and high is not None and low > high:
            what = "whole numbers" if column.whole else f"numbers of {column.decimals} decimals"
            raise InputError(f"feasible {text!r}: {column.name!r} holds {what}, and none lies between")
    kind = pd.Series([1], dtype=column.dtype).to_numpy().dtype
    if kind.kind in "iu":
        least, most = np.iinfo(kind).min, np.iinfo(kind).max
        if any(end is not None and not least <= end <= most for end in (low, high)):
            raise InputError(f"feasible {text!r}: {column.name!r} holds {kind}, from {least} to {most}")
    return replace(column, low=low, high=high)


def _chosen(column: Column, text: str, value: str) -> Column:
    wanted = [label.strip() for label in value.split("|")]
    for label in wanted:
        if label not in column.labels:
            near = nearest(label, list(column.labels), "categories")
            raise InputError(f"feasible {text!r}: {column.name!r} has no category {label!r}; {near}")
    allowed = tuple(sorted({column.labels.index(label) for label in wanted}))
    if column.kind == "boolean":
        return replace(column, low=float(allowed[0]), high=float(allowed[-1]))
    return replace(column, allowed=allowed)


def nearest(name: str, known: list[str], what: str = "there are") -> str:
    """Return in words the known names that are similar, whatever their capitals, or some names if none is."""
    folded = [text.casefold() for text in known]
    close = difflib.get_close_matches(name.strip().casefold(), list(dict.fromkeys(folded)), n=3, cutoff=0.5)
    near = [text for each in close for text, own in zip(known, folded, strict=True) if own == each]
    if near:
        return f"did you mean {', '.join(map(repr, near))}?"
    return f"{what if what == 'there are' else f'the {what} are'} {some(known)}"


def some(names: Sequence[str]) -> str:
    """Return the first ten of these names for a message, and how many more there are."""
    return ", ".join(map(repr, names[:10])) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
