"""Columns of categories: what stands for an empty cell, and which are too rare to stand alone."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mithridate.configuration.reading import FileOptions
from mithridate.data.encoding import Column
from mithridate.data.faults import Unfit
from mithridate.data.kinds import Source, check_text

WIDE = 200
"""The most categories that are offered to be told apart, each of which makes a feature."""
CLASSES = 50
"""The most classes, unless more are allowed."""
MOST_CLASSES = 127


def check_spread(labels: Sequence[Any], rows: int, options: FileOptions) -> bool:
    """Return whether there are too many different cells for categories."""
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
    """Return a column of categories, and each row's (n,), NaN where a cell is empty and that is no category.

    Arguments: `labels`, the cells that stand for `codes` 0, 1, … (n,), NaN where empty; `empty`, how an empty cell is
    written; `drop`, what leaves the column out. Raises `Unfit` where there are too many.
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
        # Before the joined ones, which are the last.
        place = len(labels) - bool(rare)
        labels = (*labels[:place], empty, *labels[place:])
        codes = np.where(known, codes + (codes >= place), place)
        if isinstance(dtype, np.dtype):
            dtype = "object"  # numbers and booleans of NumPy's have no empty cell
    return Column(name, "category", dtype, labels, missing=place, rare=rare), codes


def _joined(
    labels: tuple[Any, ...], codes: np.ndarray, most: int
) -> tuple[tuple[Any, ...], np.ndarray, tuple[str, ...]]:
    """Return the most frequent labels in their order, and last the others as one, written as their most frequent."""
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
        f"column {name!r} holds {len(labels)} different texts in {rows} rows ({shown}, …), too many for categories "
        f"(at most {most}, and half of the rows)"
    )
    if is_target:
        options_so = {"max_categories": len(labels)} if len(labels) <= min(MOST_CLASSES, rows / 2) else {}
        raise Unfit(source, fault, "join classes", **options_so)
    if len(labels) > max(2, rows / 2):
        raise Unfit(source, fault, "join some", **drop)
    options: dict[str, Any] = {"max_categories": len(labels)} if len(labels) <= WIDE else {"join_rare": True}
    raise Unfit(source, fault, "leave it out", **options)
