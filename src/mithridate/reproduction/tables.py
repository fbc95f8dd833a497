"""Tables 1 to 3 (App. D.2): the data sets, the settings of the attack, the settings of training.

The tables print what the program uses: its presets, its data sets, and the inner training as an audit runs it. Where
the paper states something else, they print that too.
"""

import functools
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mithridate.auditing.audit import Progress
from mithridate.auditing.scenario import Scenario
from mithridate.configuration.config import AuditConfig
from mithridate.configuration.presets import setting
from mithridate.data.catalogue import CATALOGUE, Entry, load_dataset
from mithridate.data.datasets import Dataset
from mithridate.reproduction.outcome import Claim
from mithridate.results.results import written_whole

Interval = tuple[float, float]
Row = dict[str, Any]
"""A row of a table, by column name: numbers, pairs of numbers, or None if nothing is stated."""


@dataclass(frozen=True)
class Stated:
    """What the paper states about one victim: its name there, and its row in each table by column name.

    `where`: the place in the paper; the tables are in App. D.2.
    """

    name: str
    rows: Mapping[str, Row]
    where: str = "the paper"


_CLASSES = {"training rows": (256, 256), "validation rows": (256, 256)}
_LR = {"T_Dp": 100, "T_λ": 50, "T_mult": 100, "α": 0.99, "β": 0.99}
_UNIT, _HALF, _TWO_HUNDRED = (0.0, 1.0), (-0.5, 0.5), (-8.0, math.log(200))

PAPER = {
    ("mnist-0v8", "logistic"): Stated(
        "MNIST ('0' vs '8')",
        {
            "table1": {**_CLASSES, "test rows": (980, 974), "features": 784},
            "table2": {**_LR, "Φ(X_p)": _UNIT, "Φ(λ)": _TWO_HUNDRED, "η": 0.10, "T": 150},
            "table3": {"η_tr": 1e-2, "batch size": 64, "epochs": 200},
        },
    ),
    ("fashion-mnist-0v2", "logistic"): Stated(
        "FMNIST (T-shirt vs pullover)",
        {
            "table1": {**_CLASSES, "test rows": (1000, 1000), "features": 784},
            "table2": {**_LR, "Φ(X_p)": _UNIT, "Φ(λ)": _TWO_HUNDRED, "η": 0.10, "T": 180},
            "table3": {"η_tr": 1e-2, "batch size": 64, "epochs": 200},
        },
    ),
    ("dogfish", "logistic"): Stated(
        "ImageNet (dog vs fish)",
        {
            "table1": {**_CLASSES, "test rows": (300, 300), "features": 2048},
            "table2": {"T_Dp": 100, "T_λ": 50, "T_mult": 200, "α": 0.90, "β": 0.40}
            | {"Φ(X_p)": _HALF, "Φ(λ)": (-8.0, math.log(20000)), "η": 0.05, "T": 200},
            "table3": {"η_tr": 1e-3, "batch size": 64, "epochs": 300},
        },
    ),
    ("dogfish", "mlp"): Stated(
        "ImageNet (dog vs fish)",
        {
            "table2": {"T_Dp": 100, "T_λ": 75, "T_mult": 150, "α": 0.99, "β": 0.05}
            | {"Φ(X_p)": _HALF, "Φ(λ)": (-8.0, math.log(60)), "η": 0.01, "T": 600},
            "table3": {"η_tr": 1e-4, "batch size": 64, "epochs": 4000},
        },
    ),
    ("synthetic", "logistic"): Stated(
        "Synthetic example",
        {
            "table1": {"training rows": (16, 16), "validation rows": (32, 32), "features": 2},
            "table2": {"T_Dp": 50, "α": 0.4, "Φ(X_p)": (-9.5, 9.5), "η": 0.2, "T": 500},
            "table3": {"η_tr": 0.2, "batch size": 32, "epochs": 100},
        },
        "App. D.1",
    ),
}
OTHERS = (
    ("springer-tench", "logistic"),
    ("springer-tench", "mlp"),
    ("digits-0v8", "logistic"),
    ("breast-cancer", "logistic"),
)
"""Victims of this program that are not in the paper."""

TITLES = {
    "table1": "Characteristics of the data sets (paper, Table 1); rows by class",
    "table2": "Settings of the attack (paper, Table 2)",
    "table3": "Settings for training the victim that is evaluated (paper, Table 3)",
}
NOTES = {
    "table1": "Training and validation rows are drawn again for each split.",
    "table2": "T_Dp: hyperiterations with fixed λ, T_mult with learned λ, each per batch of points. Here α and β are "
    "step lengths: every point's hypergradient is divided by its norm, λ moves by Rprop with steps of at most β, and "
    "each round ends with λ's best response. In the paper α and β multiply the hypergradients (Eq. 5). λ on clean data "
    "is solved for, so there is no T_λ. Inner training is full-batch gradient descent, in the paper SGD; where its "
    "steps would come near divergence they are cut, with the same η·T. The penalty is e^λ/(2n)·‖w‖², in the paper "
    "e^λ/2·‖w‖² (Eq. 6).",
    "table3": "SGD with a fixed step, from scratch, on the poisoned training set.",
}


@dataclass(frozen=True)
class Table:
    """One table of the paper, as used by the program.

    `name`, such as table1; `frame`, the cells as text, one row per victim, with every difference from the paper in the
    last column; `caption`; `settings`, the same numbers for programs. A table has no claims.
    """

    name: str
    frame: pd.DataFrame = field(repr=False)
    caption: str
    settings: dict[str, Any] = field(repr=False)
    claims: tuple[Claim, ...] = ()

    def report(self) -> str:
        """Return the table in Markdown, and its caption."""
        cells = [list(self.frame.columns), *self.frame.to_numpy().tolist()]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in cells]
        rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
        return "\n".join([lines[0], rule, *lines[1:], "", self.caption])

    def save(self, directory: str | Path) -> Path:
        """Write `NAME.parquet`, `NAME.md` and `settings.json`; return the directory.

        It appears completely or not at all. Raises `StorageError` if it exists and is not empty, or cannot be written.
        """
        return written_whole(Path(directory), self._write)

    def _write(self, directory: Path) -> None:
        self.frame.to_parquet(directory / f"{self.name}.parquet", index=False)
        (directory / f"{self.name}.md").write_text(self.report() + "\n", encoding="utf-8", newline="\n")
        text = json.dumps(self.settings, indent=2, ensure_ascii=False, allow_nan=False)
        (directory / "settings.json").write_text(text + "\n", encoding="utf-8", newline="\n")


def run(
    name: str,
    dataset: str | None = None,
    *,
    preset: str = "quick",
    splits: int | None = None,
    seed: int = 0,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Table:
    """Return the table `name`: table1, table2 or table3.

    Arguments: `dataset`, to print only its rows (default: the paper's data sets and the program's own); the others as
    for a figure: `preset` and `splits` change nothing in a table, `seed` draws the split whose rows are counted.
    Missing data are not downloaded for a table, unless named. Raises `InputError` or `DataError`.
    """
    victims = [*PAPER, *OTHERS]
    if dataset is not None:
        models = [model for own, model in victims if own == dataset]
        victims = [(dataset, model) for model in models or ["logistic"]]
    if name == "table1":
        victims = [victim for victim in victims if victim[1] == "logistic"]
    rows, settings = [], []
    for number, (own, model) in enumerate(victims):
        data = load_dataset(own) if dataset is not None or at_hand(own) else None
        on_progress(Progress(number, len(victims), f"{own} ({model})"))
        ours = ROWS[name](own, model, data, seed)
        stated = PAPER.get((own, model))
        rows.append(_as_text(own, model, name, ours, stated))
        settings.append({"dataset": own, "model": model, "ours": ours, "paper": stated and stated.rows[name]})
    on_progress(Progress(len(victims), len(victims), "done"))
    caption = f"{TITLES[name]}. {NOTES[name]}"
    return Table(name, pd.DataFrame(rows), caption, {"table": name, "seed": seed, "rows": settings})


def at_hand(dataset: str) -> bool:
    """Return whether a data set can be loaded without a download."""
    return _entry(dataset).available in ("bundled", "at hand")


def _entry(dataset: str) -> Entry:
    return CATALOGUE.get(dataset) or CATALOGUE[dataset.rpartition("-")[0]]


def characteristics(dataset: str, model: str, data: Dataset | None, seed: int) -> Row:
    """Return a row of Table 1: rows by class, as drawn for the first split, and features.

    Without the data, it uses the presets and the catalogue: equal halves, and no test rows by class.
    """
    if data is None:
        own = setting(dataset)
        halves = {"training rows": (own.train // 2,) * 2, "validation rows": (own.valid // 2,) * 2}
        return {**halves, "test rows": _entry(dataset).test_rows, "features": _entry(dataset).features}
    split = data.split(seed=seed)
    counts = {
        f"{kind} rows": tuple(np.bincount(labels.astype(int), minlength=2).tolist())
        for kind, labels in (("training", split.y_train), ("validation", split.y_valid), ("test", split.y_test))
    }
    return {**counts, "features": split.x_train.shape[1]}


def attack_settings(dataset: str, model: str, data: Dataset | None, seed: int) -> Row:
    """Return a row of Table 2, and η and T as an audit that learns λ runs them on the first split."""
    own = setting(dataset, model)
    bounds = data.bounds or "range in the training rows" if data else None
    row = {
        "T_Dp": own.hyperiterations,
        "T_λ": "solved",
        "T_mult": own.joint_hyperiterations,
        "α": own.poison_step,
        "β": own.hyper_step,
        "Φ(X_p)": bounds,
        "Φ(λ)": own.strength_bounds,
        "η": own.learning_rate,
        "T": own.inner_steps,
        "η run": None,
        "T run": None,
    }
    if data is not None:
        config = AuditConfig.of(
            attack="bilevel", budget="replaced", dataset=dataset, model=model, seed=seed, policies=("learned",)
        )
        rule = Scenario.of(data, config).attacks[0].learner.rule
        row |= {"η run": rule.learning_rate, "T run": rule.steps}
    return row


def training_settings(dataset: str, model: str, data: Dataset | None, seed: int) -> Row:
    """Return a row of Table 3."""
    own = setting(dataset, model)
    return {"η_tr": own.train_learning_rate, "batch size": own.batch_size, "epochs": own.epochs}


ROWS: dict[str, Callable[[str, str, Dataset | None, int], Row]] = {
    "table1": characteristics,
    "table2": attack_settings,
    "table3": training_settings,
}
"""The function that makes the program's row of each table."""


def _as_text(dataset: str, model: str, name: str, ours: Row, stated: Stated | None) -> dict[str, str]:
    """Return a row as text."""
    kind = "" if name == "table1" else " (DNN)" if model == "mlp" else " (LR)"
    title = {"victim" if kind else "data set": dataset + kind, "in the paper": stated.name + kind if stated else "—"}
    cells = {column: _cell(column, value) for column, value in ours.items() if not column.endswith(" run")}
    said = list(_differences(ours, stated.rows[name], stated.where)) if stated else ["not in the paper"]
    if ours.get("T run") not in (None, ours.get("T")):
        said.append(f"η and T: run as {ours['η run']:.4g} and {ours['T run']:,}")
    return title | cells | {"differences": "; ".join(said) or "none"}


def _differences(ours: Row, paper: Row, where: str) -> Iterator[str]:
    for column, value in paper.items():
        own = ours[column]
        if own is None:
            yield f"{column}: unknown, the data are not at hand; {_cell(column, value)} in {where}"
        elif not _same(own, value):
            yield f"{column}: {_cell(column, value)} in {where}"


def _same(ours: Any, paper: Any) -> bool:
    if isinstance(paper, tuple) and not isinstance(ours, tuple):
        return ours == sum(paper)  # rows in all, where the classes were not counted
    return not isinstance(ours, str) and bool(np.allclose(ours, paper))


def _cell(column: str, value: Any) -> str:
    """Return a cell: 256/256, [-8, log(200)], 0.99, 4,000."""
    if value is None:
        return "—"
    if isinstance(value, tuple) and column.startswith("Φ"):
        return f"[{', '.join(_bound(v, of_strength=column == 'Φ(λ)') for v in value)}]"
    if isinstance(value, tuple):
        return "/".join(f"{v:,}" for v in value)
    return value if isinstance(value, str) else f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _bound(value: float, of_strength: bool) -> str:
    return f"log({round(math.exp(value)):,})" if of_strength and value > 0 else f"{value:g}"


table1, table2, table3 = (functools.partial(run, name) for name in TITLES)
"""Each table as a function of the data set, like a figure's `run`."""
