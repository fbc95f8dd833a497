"""What the poison looks like: pictures before and after, or the features that changed most."""

import base64
import io
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.image import imsave

from mithridate.results.report.source import Audited

SHOWN = 8
"""The most points in a gallery."""
CHANGES = 5
"""The most changes that are shown of a point."""
CELLS = 12
"""The most cells that are shown of a row that did not change."""


class Picture(NamedTuple):
    """A poisoning point as images, in data URIs; `change` is the largest change of a pixel, in raw units."""

    number: int
    label: str
    before: str
    after: str
    difference: str
    change: str


class Changed(NamedTuple):
    """A poisoning point of a table: its label, and its largest changes as (name, before, after).

    If no feature changed, `cells` are the first cells of the row as (name, value), and `more` is the number of others.
    """

    number: int
    label: str
    changes: list[tuple[str, str, str]]
    cells: list[tuple[str, str]]
    more: int


class Gallery(NamedTuple):
    """Evenly spaced points against one policy in split 0, as `pictures` or as `rows`; the other is empty.

    `points`: the number of all points; `moved`: the features that changed most over all points.
    """

    policy: str
    points: int
    pictures: list[Picture]
    rows: list[Changed]
    moved: list[str]


def galleries(result: Audited) -> list[Gallery]:
    """Return a gallery for each policy that has points."""
    found = []
    for (split, policy), arrays in result.poison.items():
        if split or not len(arrays["y_poison"]):
            continue
        classes = result.dataset["classes"]
        pairs = zip(arrays["y_start"].tolist(), arrays["y_poison"].tolist(), strict=True)
        labels = [_relabelled(classes, *pair) for pair in pairs]
        count = len(labels)
        picked = np.linspace(0, count - 1, min(SHOWN, count)).round().astype(int).tolist()
        if shape := result.dataset["image_shape"]:
            found.append(Gallery(policy, count, _pictures(arrays, labels, picked, tuple(shape)), [], []))
        else:
            before, after = result.rows.get((split, policy)) or _named(arrays, result.dataset["feature_names"])
            target = [column["name"] for column in result.dataset["columns"] if column["kind"] == "target"]
            before, after = (rows.drop(columns=target, errors="ignore") for rows in (before, after))
            found.append(Gallery(policy, count, [], *_changes(before, after, labels, picked)))
    return found


def _relabelled(classes: list[str], before: int, after: int) -> str:
    """Return a point's label, with the label before if that is known and different."""
    return f"{classes[before]} → {classes[after]}" if before not in (-1, after) else classes[after]


def _raw(arrays: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the points as they started and as they ended, in the data's own units."""
    start, end = (arrays[name] * arrays["scale"] + arrays["offset"] for name in ("x_start", "x_poison"))
    return start, end


def _pictures(arrays: Mapping[str, np.ndarray], labels: list[str], picked: list[int], shape: Any) -> list[Picture]:
    before, after = (np.nan_to_num(points).reshape(-1, *shape) for points in _raw(arrays))
    low, top = min(0.0, float(before.min()), float(after.min())), float(max(before.max(), after.max()))
    change = float(np.abs(after - before).max()) or 1.0
    return [
        Picture(
            point + 1,
            labels[point],
            _png(before[point], "gray", low, top),
            _png(after[point], "gray", low, top),
            _png(after[point] - before[point], "PuOr", -change, change),
            _quantity(np.abs(after[point] - before[point]).max()),
        )
        for point in picked
    ]


def _png(image: np.ndarray, colours: str, low: float, high: float) -> str:
    """Return an image as a PNG in a data URI."""
    file = io.BytesIO()
    imsave(file, image, cmap=colours, vmin=low, vmax=high, format="png")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def _named(arrays: Mapping[str, np.ndarray], names: list[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return plain features, before and after, as tables in the data's own units; unnamed features are numbered."""
    before, after = _raw(arrays)
    columns = names or [f"feature {i + 1}" for i in range(before.shape[1])]
    return pd.DataFrame(before, columns=columns), pd.DataFrame(after, columns=columns)


def _changes(
    before: pd.DataFrame, after: pd.DataFrame, labels: list[str], picked: list[int]
) -> tuple[list[Changed], list[str]]:
    """Return the picked points' largest changes, and the columns that changed most over all points.

    The change of a number is divided by the standard deviation of its column, so that units do not matter. A changed
    word counts as 1.
    """
    sizes = pd.DataFrame({name: _sizes(before[name], after[name]) for name in before.columns})
    mean = sizes.mean().sort_values(ascending=False, kind="stable")
    rows = []
    for point in picked:
        largest = sizes.iloc[point].sort_values(ascending=False, kind="stable")[:CHANGES]
        changes = [
            (str(name), _quantity(before[name].iloc[point]), _quantity(after[name].iloc[point]))
            for name, size in largest.items()
            if size > 0
        ]
        row = after.iloc[point] if not changes else pd.Series(dtype=object)
        cells = [(str(name), _quantity(value)) for name, value in list(row.items())[:CELLS]]
        rows.append(Changed(point + 1, labels[point], changes, cells, len(row) - len(cells)))
    return rows, [str(name) for name, size in mean[:CHANGES].items() if size > 0]


def _sizes(before: pd.Series, after: pd.Series) -> np.ndarray:
    if not (pd.api.types.is_numeric_dtype(before) and pd.api.types.is_numeric_dtype(after)):
        return (before.astype(str).to_numpy() != after.astype(str).to_numpy()).astype(float)
    both = np.concatenate([before.to_numpy(float), after.to_numpy(float)])
    sizes = np.abs(after.to_numpy(float) - before.to_numpy(float)) / (np.nanstd(both) or 1.0)
    return np.nan_to_num(sizes)


def _quantity(value: Any) -> str:
    """Return a value of a table as text: numbers have four digits, large ones are whole."""
    if value == "" or pd.isna(value):
        return "(empty)"
    if isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return str(value)
