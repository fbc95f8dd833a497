"""Rows that belong together, such as those of one person, device or site: each group is in one part of a split.

A column says which rows belong together, or they are alike: rows with the same features are probably copies of one row.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from mithridate.data.faults import Unfit
from mithridate.data.kinds import Source
from mithridate.errors import InputError
from mithridate.seeds import generator

ROWS, NONE = "rows", "none"
"""Values of `group` that name no column: rows with the same features belong together, or no rows do."""
DISTINCT = 0.1
"""The least share of distinct rows for which rows alike are taken for copies; below it, the columns tell too little."""
TRIES, LARGER = 50, 1.0
"""How often groups are dealt until all parts have what they need, and how much larger the wanted parts grow."""
TRIALS, MANY = 10, 10_000
"""How often groups are dealt to see which sizes are possible; at most `MANY` rows are dealt in all."""
TESTED = 0.25
"""The share of the rows that is left for testing when groups are dealt."""


class Grouping(NamedTuple):
    """The number of each row's group (n,), counted from 0, and what makes a group: a column's name, or `ROWS`."""

    numbers: np.ndarray
    name: str


class Parts(NamedTuple):
    """The numbers of the training rows, of the validation rows, and of all rows in groups that neither of them uses."""

    train: np.ndarray
    valid: np.ndarray
    rest: np.ndarray


def alike(raw: np.ndarray) -> Int[np.ndarray, " n"]:
    """Return the number of each row's group (n,): a group is rows with equal raw numbers (n, columns), NaN or not."""
    # Adding 0 turns −0 into 0.
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
    """Return the groups of the pool's rows, or None if each row is on its own.

    Arguments: `column` (n,), each row's number by the column that is named, if any; `raw` (n, columns) and `y` (n,),
    raw numbers and classes; `rows`, the numbers of the pool's rows and of the official test rows; `classes`, their
    names; `group`, the option. If it is None, rows alike belong together, provided that there are some and enough
    distinct rows are left to be split. Raises `Unfit` for groups that cannot be split.
    """
    own, test = rows
    if group == NONE:
        return None
    numbers = alike(raw) if column is None else column
    if (numbers[np.concatenate(rows)] < 0).any():
        empty = np.concatenate(rows)[numbers[np.concatenate(rows)] < 0]
        fault = f"{len(empty)} row(s) have no group in column {group!r}, the first in {source.at(int(empty.min()))}"
        raise Unfit(source, fault, "fill them in", missing="drop")
    found, parts = np.unique(numbers[own], return_inverse=True)[1], 2 if len(test) else 3
    many = [len(np.unique(found[y[own] == label])) for label in range(len(classes))]
    if group is None:
        copied = DISTINCT * len(own) <= found.max() + 1 < len(own) and min(many) >= parts
        return Grouping(found, ROWS) if copied else None
    kind = f"group(s) of {group!r}" if column is not None else "group(s) of rows alike"
    if min(many) < parts:
        told = "train and validate" if len(test) else "train, validate and test"
        raise Unfit(
            source,
            f"class {classes[int(np.argmin(many))]!r} is in {min(many)} of {found.max() + 1} {kind}; at least {parts} "
            f"are needed to {told} on, because no group is divided",
            "join classes",
            group=NONE,
        )
    shared = np.isin(numbers[test], numbers[own])
    if shared.any():
        fault = f"{shared.sum()} of the {len(test)} test rows are in {kind} that other rows are in as well"
        raise Unfit(source, fault, "take them out", group=NONE)
    return Grouping(found, group)


def sizes(grouping: Grouping, y: np.ndarray, takes: np.ndarray) -> tuple[int, int]:
    """Return how many training and validation rows are possible, at most those of `takes` (2, classes).

    The groups are dealt several times; the smallest parts count.
    """
    draw, held = generator(0, "groups"), []
    for _ in range(max(2, min(TRIALS, MANY // len(y)))):
        part = _dealt(grouping.numbers, y, takes * _stretch(takes, len(y)), draw)
        held.append([np.sum(part == number) for number in range(2)])
    train, valid = np.minimum(np.min(held, axis=0), takes.sum(axis=1))
    return int(train), int(valid)


def drawn(grouping: Grouping, y: np.ndarray, takes: np.ndarray, tested: bool, draw: np.random.Generator) -> Parts:
    """Return training and validation rows from different groups, with `takes` (2, classes) rows of each class.

    A part with too few rows of one class gets more of the others. If `tested`, rows of every class are left over.
    Raises `InputError` if this is impossible because groups are too large or too few.
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
        f"train = {train} and valid = {valid}: {what} cannot be divided into such parts with whole groups and rows of "
        f"every class; about {had[0]} and {had[1]} are possible"
    )


def _stretch(takes: np.ndarray, n: int) -> float:
    """Return how much larger parts may be than the rows taken of them, so that a sample comes from many groups."""
    return max(1.0, (1 - TESTED) * n / takes.sum())


def _dealt(
    groups: np.ndarray, y: np.ndarray, wanted: Float[np.ndarray, "2 classes"], draw: np.random.Generator
) -> np.ndarray:
    """Return each row's part (n,): 0 and 1 are about as large as `wanted`, 2 is the rest; no group is divided.

    The largest groups are dealt first. A group goes to a random part among those with room for it, with probability in
    proportion to the room. If none has room, it goes to the part that lacks the largest share of such rows. Groups of
    one row fill what is left.
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
    """Return `take` (classes,) of these rows, sorted by class; other classes make up for rows that are missing."""
    chosen = [rows[y[rows] == label][:many] for label, many in enumerate(take)]
    spare = rows[~np.isin(rows, np.concatenate(chosen))]
    found = np.concatenate([*chosen, spare[: take.sum() - sum(map(len, chosen))]])
    return found[np.argsort(y[found], kind="stable")]
