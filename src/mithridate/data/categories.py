"""Columns of categories: which category stands for an empty cell, and which rare categories are joined."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mithridate.configuration.reading import FileOptions
from mithridate.data.encoding import Column
from mithridate.data.faults import Unfit
from mithridate.data.kinds import Source, check_text

WIDE = 200
"""A refusal offers `max_categories` up to this number; for more it offers to join the rare ones."""
CLASSES = 50
"""The most classes, unless `max_categories` allows more."""
MOST_CLASSES = 127
"""The most classes in any case: labels are stored in one byte."""


def check_spread(labels: Sequence[Any], rows: int, options: FileOptions) -> bool:
    """Return whether there are too many labels, the different cells of so many rows, for categories."""
    return len(labels) > options.max_categories or len(labels) > max(2, rows / 2)


def grouped(
    name: str,
    dtype: Any,
    labels: tuple[Any, ...],
    codes: np.ndarray,
    source: Source,
    options: FileOptions,
    is_target: bool,
    drop: dict[str, Any],
    empty: str | None = None,
) -> tuple[Column, np.ndarray]:
    """Return a column of categories, and the category of each row (n,); NaN for an empty cell without a category.

    Arguments: `labels`, the cells that codes 0, 1, … stand for; `codes` (n,), NaN where a cell is empty; `empty`, how
    an empty cell is written; `drop`, the option that leaves the column out. Raises `Unfit` if there are too many
    categories.
    """
    for label in map(str, labels):
        check_text(label, f"{source.name}: column {name!r}: the text {label[:40]!r}")
    known = ~np.isnan(codes)
    rare: tuple[str, ...] = ()
    most = min(max(CLASSES, options.max_categories), MOST_CLASSES) if is_target else options.max_categories
    if len(labels) > max(2, known.sum() / 2) or (len(labels) > most and not (options.join_rare and not is_target)):
        _refuse(name, labels, int(known.sum()), source, is_target, drop, most)
    if len(labels) > most:
        labels, codes, rare = _joined(labels, codes, most)
    place = None
    if not known.all() and not is_target and options.missing.startswith("category"):
        # The joined categories stay last.
        place = len(labels) - bool(rare)
        labels = (*labels[:place], empty, *labels[place:])
        codes = np.where(known, codes + (codes >= place), place)
        if isinstance(dtype, np.dtype):
            dtype = "object"  # NumPy's numbers and booleans have no empty cell
    return Column(name, "category", dtype, labels, missing=place, rare=rare), codes


def _joined(
    labels: tuple[Any, ...], codes: np.ndarray, most: int
) -> tuple[tuple[Any, ...], np.ndarray, tuple[str, ...]]:
    """Join rare categories. Return the labels that are left, the codes (n,), and the labels that were joined.

    The most frequent labels keep their order. The last label stands for the joined ones and is the most frequent of
    them.
    """
    known = ~np.isnan(codes)
    counts = np.bincount(codes[known].astype(int), minlength=len(labels))
    ranked = np.argsort(-counts, kind="stable")
    kept, rare = np.sort(ranked[: most - 1]), ranked[most - 1 :]
    places = np.full(len(labels), most - 1)
    places[kept] = np.arange(most - 1)
    found = np.full(len(codes), np.nan)
    found[known] = places[codes[known].astype(int)]
    return (*(labels[place] for place in kept), labels[rare[0]]), found, tuple(str(labels[place]) for place in rare)


def _refuse(
    name: str, labels: Sequence[Any], rows: int, source: Source, is_target: bool, drop: dict[str, Any], most: int
) -> None:
    shown = ", ".join(map(repr, list(map(str, labels))[:3]))
    fault = (
        f"column {name!r} holds {len(labels)} different values in {rows} rows ({shown}, …), too many for categories "
        f"(at most {most}, and at most half of the rows)"
    )
    if is_target:
        options_so = {"max_categories": len(labels)} if len(labels) <= min(MOST_CLASSES, rows / 2) else {}
        raise Unfit(source, fault, "join classes", **options_so)
    if len(labels) > max(2, rows / 2):
        raise Unfit(source, fault, "join some", **drop)
    options: dict[str, Any] = {"max_categories": len(labels)} if len(labels) <= WIDE else {"join_rare": True}
    raise Unfit(source, fault, "leave it out", **options)
