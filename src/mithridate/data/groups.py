"""Rows that belong together, such as those of one person, device or site: each group is in one part of a split.

Which rows do is said by a column, or they are alike: rows with the same features are one row that is there twice.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from mithridate.data.kinds import Source
from mithridate.errors import DataError, InputError
from mithridate.seeds import generator

ROWS, NONE = "rows", "none"
"""Instead of a column's name: rows with the same features belong together, or no rows do."""
DISTINCT = 0.1
"""The share of distinct rows from which on rows alike are taken for copies; below, the columns tell too little."""
TRIES, LARGER = 50, 1.0
"""How often groups are dealt until all parts have what they need, and by how much more is asked for until then."""
TRIALS, MANY = 10, 10_000
"""How often they are dealt to see which sizes can be had; less often where many rows make up for it."""
TESTED = 0.25
"""The share of the rows that is left for testing where groups are dealt."""


class Grouping(NamedTuple):
    """The number of each row's group (n,), from 0 on, and what a group is: a column's name, or `ROWS`."""

    numbers: np.ndarray
    name: str


class Parts(NamedTuple):
    """The numbers of the training and the validation rows, and of those in groups that neither has a row of."""

    train: np.ndarray
    valid: np.ndarray
    rest: np.ndarray


def alike(raw: np.ndarray) -> Int[np.ndarray, " n"]:
    """Return the number of each row's group, rows with the same raw numbers (n, columns) in one; NaN is like NaN."""
    # Adding 0 makes a 0 of -0.
    return np.asarray(pd.factorize(pd.util.hash_pandas_object(pd.DataFrame(raw + 0.0), index=False))[0])


def grouping_of(
    column: np.ndarray | None,
    raw: np.ndarray,
    y: np.ndarray,
    rows: tuple[np.ndarray, np.ndarray],
    classes: Sequence[str],
    group: str | None,
    source: Source,
) -> Grouping | None:
    """Return the groups of the pool's rows, None where each row is on its own.

    Arguments: each row's number by the `column` that was named, if any; raw numbers (n, columns) and classes (n,); the
    numbers of the pool's `rows`, and of the official test rows; the option `group`. Without it rows alike belong
    together, where there are any and the distinct ones are enough to be split. Raises `DataError` for groups that
    cannot be split.
    """
    own, test = rows
    if group == NONE:
        return None
    numbers = alike(raw) if column is None else column
    if (numbers[np.concatenate(rows)] < 0).any():
        empty = np.concatenate(rows)[numbers[np.concatenate(rows)] < 0]
        raise DataError(
            f"{source.name}: {len(empty)} row(s) have no group in column {group!r}, the first in "
            f"{source.at(int(empty.min()))}; fill them in, or use missing = drop"
        )
    found, parts = np.unique(numbers[own], return_inverse=True)[1], 2 if len(test) else 3
    many = [len(np.unique(found[y[own] == label])) for label in range(len(classes))]
    if group is None:
        copied = DISTINCT * len(own) <= found.max() + 1 < len(own) and min(many) >= parts
        return Grouping(found, ROWS) if copied else None
    kind = f"group(s) of {group!r}" if column is not None else "group(s) of rows alike"
    if min(many) < parts:
        told = "train and validate" if len(test) else "train, validate and test"
        raise DataError(
            f"{source.name}: class {classes[int(np.argmin(many))]!r} is in {min(many)} of {found.max() + 1} {kind}; at "
            f"least {parts} are needed to {told} on, since no group is divided; join classes, or use group = none"
        )
    shared = np.isin(numbers[test], numbers[own])
    if shared.any():
        raise DataError(
            f"{source.name}: {shared.sum()} of the {len(test)} test rows are in {kind} that other rows are in as well; "
            "take them out, or use group = none"
        )
    return Grouping(found, group)


def sizes(grouping: Grouping, y: np.ndarray, takes: np.ndarray) -> tuple[int, int]:
    """Return how many training and validation rows can be had, at most those of `takes` (2, classes).

    What the parts hold at least, of several ways in which the groups are dealt.
    """
    draw, held = generator(0, "groups"), []
    for _ in range(max(2, min(TRIALS, MANY // len(y)))):
        part = _dealt(grouping.numbers, y, takes * _stretch(takes, len(y)), draw)
        held.append([np.sum(part == number) for number in range(2)])
    train, valid = np.minimum(np.min(held, axis=0), takes.sum(axis=1))
    return int(train), int(valid)


def drawn(grouping: Grouping, y: np.ndarray, takes: np.ndarray, tested: bool, draw: np.random.Generator) -> Parts:
    """Return training and validation rows of groups apart, as many of each class as `takes` (2, classes) says.

    Where a part has too few of one class it gets more of the others. With `tested` rows of every class are left over.
    Raises `InputError` where this is not to be had: groups that are too large, or too few.
    """
    numbers, stretch = grouping.numbers, _stretch(takes, len(y))
    for attempt in range(TRIES):
        part = _dealt(numbers, y, takes * (stretch + LARGER * attempt / TRIES), draw)
        chosen = [_taken(draw.permutation(np.flatnonzero(part == number)), y, takes[number]) for number in range(2)]
        rest = np.flatnonzero(~np.isin(numbers, numbers[np.concatenate(chosen)]))
        complete = [len(np.unique(y[rows])) == takes.shape[1] for rows in ((*chosen, rest) if tested else chosen)]
        if all(complete) and all(len(rows) == take.sum() for rows, take in zip(chosen, takes, strict=True)):
            return Parts(chosen[0], chosen[1], rest)
    what = "rows alike" if grouping.name == ROWS else f"the groups of {grouping.name!r}"
    (train, valid), had = takes.sum(axis=1), sizes(grouping, y, takes)
    raise InputError(
        f"train = {train} and valid = {valid}: {what} cannot be divided so, with whole groups in each part and rows of "
        f"every class; about {had[0]} and {had[1]} can be had"
    )


def _stretch(takes: np.ndarray, n: int) -> float:
    """Return by how much parts may be larger than what is taken of them: a sample is to come from many groups."""
    return max(1.0, (1 - TESTED) * n / takes.sum())


def _dealt(
    groups: np.ndarray, y: np.ndarray, wanted: Float[np.ndarray, "2 classes"], draw: np.random.Generator
) -> np.ndarray:
    """Return each row's part (n,), 0 and 1 about as large as `wanted`, 2 with the rest, no group divided.

    The largest groups first, each at random to one of the parts that have room for it, in proportion to the room, or
    else to the one that lacks the largest share of such rows. Groups of one row fill up what is left.
    """
    counts = np.zeros((int(groups.max()) + 1, wanted.shape[1]))
    np.add.at(counts, (groups, y), 1)
    asked = np.minimum(wanted, counts.sum(axis=0))
    asked = np.vstack([asked, np.maximum(counts.sum(axis=0) - asked.sum(axis=0), 0)])
    left, part, size = asked.copy(), np.zeros(len(counts), dtype=int), counts.sum(axis=1)
    order = draw.permutation(len(counts))
    order = order[np.argsort(-size[order], kind="stable")]
    several = order[size[order] > 1]
    for group, chance in zip(several, draw.random(len(several)), strict=True):
        own = counts[group]
        room = (((left >= own) | (own == 0)).all(axis=1) * left.sum(axis=1)).cumsum()
        if room[-1] > 0:
            chosen = int(np.searchsorted(room, chance * room[-1], side="right"))
        else:
            lacking = (left / np.maximum(asked, 1e-9)) @ own
            chosen = max(range(len(left)), key=lambda at, short=lacking: (round(short[at], 9), asked[at].sum()))
        part[group], left[chosen] = chosen, left[chosen] - own
    for label in range(wanted.shape[1]):
        single = order[(size[order] == 1) & (counts[order, label] > 0)]
        quotas = np.rint(np.maximum(left[:, label], 0)).astype(int)
        quotas[2] += max(0, len(single) - quotas.sum())
        part[single] = draw.permutation(np.repeat(np.arange(3), quotas))[: len(single)]
    return part[groups]


def _taken(rows: np.ndarray, y: np.ndarray, take: np.ndarray) -> np.ndarray:
    """Return so many of these rows of each class, class by class, and others for those that there are too few of."""
    chosen = [rows[y[rows] == label][:many] for label, many in enumerate(take)]
    spare = rows[~np.isin(rows, np.concatenate(chosen))]
    found = np.concatenate([*chosen, spare[: take.sum() - sum(map(len, chosen))]])
    return found[np.argsort(y[found], kind="stable")]
