"""A table such as people have, made from scikit-learn's breast-cancer data: columns of all kinds, cells left empty."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import sklearn.datasets

WARDS = ("east", "north", "north-east", "west")


def patients(n: int = 569, empty: float = 0.0, seed: int = 0) -> pd.DataFrame:
    """The first n patients: two measurements, a count, a year, a flag, a category, and the diagnosis in the middle.

    `empty` is the share of the features' cells that are left empty.
    """
    loaded: Any = sklearn.datasets.load_breast_cancer(as_frame=True)
    data = loaded["frame"].iloc[:n]
    draw, ill = np.random.default_rng(seed), (data["target"] == 0).to_numpy()
    frame = pd.DataFrame(
        {
            "radius [mm]": data["mean radius"].to_numpy(),
            "nodes": draw.poisson(1 + 3 * ill),
            "born": 1930 + draw.integers(0, 50, n) - 5 * ill,
            "diagnosis": np.where(ill, "malignant", "benign"),
            "smoker": draw.random(n) < 0.2 + 0.3 * ill,
            "ward": np.array(WARDS)[(draw.random(n) * 3 + ill).astype(int)],
            "texture": data["mean texture"].to_numpy(),
        }
    )
    for column in frame.columns.drop("diagnosis") if empty else []:
        frame[column] = frame[column].astype(object).where(draw.random(n) >= empty, None).convert_dtypes()
    return frame


def written(folder: Path, name: str, frame: pd.DataFrame) -> Path:
    """The frame as a file of the kind that its name says."""
    path = folder / name
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep={".tsv": "\t"}.get(path.suffix, ","))
    return path
