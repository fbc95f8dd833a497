"""Where an audit's data come from: the catalogue, a file of the user's own, or a `Dataset` made in Python."""

import glob
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mithridate.configuration.config import FILE_OPTIONS, AuditConfig, named
from mithridate.configuration.presets import setting
from mithridate.configuration.reading import parts
from mithridate.data.catalogue import load_dataset
from mithridate.data.datasets import Dataset
from mithridate.data.kinds import ARRAYS, TABLES, called, ending
from mithridate.data.restricting import some
from mithridate.data.tables import dataset_of, read_dataset
from mithridate.errors import DataError, InputError

SIZES, ALL = ("train", "valid"), "all"
"""The options that may say to take all rows of a file: a half and a quarter, however many these are."""
PLENTY = 2**30
"""Rows enough for every option that is right for some file."""


def names_file(dataset: str) -> bool:
    """Return whether a data set's name is that of a file or of several: by its ending, or because it is there."""
    path = Path(dataset)
    return ending(path) in TABLES | ARRAYS or len(path.parts) > 1 or _is_pattern(dataset) or path.is_file()


def files_of(dataset: str) -> list[Path]:
    """Return the files that a data set's name means: one, several with commas between, all that are like a pattern.

    Raises `DataError` for a pattern that nothing is like.
    """
    if Path(dataset).exists():
        return [Path(dataset)]
    found: list[Path] = []
    for part in parts(dataset):
        like = sorted(map(Path, glob.glob(part, recursive=True))) if _is_pattern(part) else [Path(part)]
        if not like:
            raise DataError(f"{part}: there is no such file")
        found += like
    return found


def place_of(dataset: str) -> str:
    """Return a data set's name in the catalogue, or where its files are, wherever this is asked."""
    return named([path.resolve() for path in files_of(dataset)]) if names_file(dataset) else dataset


def _is_pattern(text: str) -> bool:
    return any(sign in text for sign in "*?[")


def prepared(
    dataset: str | Path | Sequence[str | Path] | Dataset | pd.DataFrame,
    config: AuditConfig | None,
    options: dict[str, Any],
) -> tuple[Dataset, AuditConfig]:
    """Return the data set, loaded, and the configuration of its audit: the one given, or that with these options.

    Of a data frame a data set is made as `dataset_of` does, with its options among these.

    Own data have sizes of their own (`Dataset.sizes`), and their evaluation as many epochs as give η·steps of the
    tabular setting. Raises `InputError` or `DataError`.
    """
    if isinstance(dataset, pd.DataFrame):
        if config is not None:
            raise InputError("a data frame and a config: make a data set of it by mi.dataset_of(frame, 'target')")
        if options.get("target") is None:
            raise InputError(
                f"a data frame: say which column holds the labels, target = one of {some(list(map(str, dataset)))}"
            )
        own = {option: options.pop(option) for option in FILE_OPTIONS if options.get(option) is not None}
        if options.get("estimators"):
            own.setdefault("missing", "keep")
        dataset = dataset_of(dataset, own.pop("target"), name="frame", **own)
    name = (
        dataset.name
        if isinstance(dataset, Dataset)
        else named([dataset] if isinstance(dataset, str | Path) else dataset)
    )
    if config is not None:
        if options:
            raise InputError(f"give a config or options, not both: {', '.join(options)}")
        if name != config.dataset and (not names_file(config.dataset) or name != called(files_of(config.dataset))):
            raise InputError(f"the configuration is for {config.dataset!r}, the data set is {name!r}")
        return _agreed(dataset if isinstance(dataset, Dataset) else loaded(name, config), config)
    options = {key: _counted(value) if key in SIZES else value for key, value in options.items() if value is not None}
    options["dataset"] = name
    known = {key: value for key, value in options.items() if key not in SIZES or value != ALL}
    # Wrong options are refused before a large file is read. How many rows it has is not known yet, nor how many points
    # follow from them: no number of validation rows is too small for these.
    own = not dataset.balanced if isinstance(dataset, Dataset) else names_file(name)
    plenty = dict.fromkeys(SIZES, PLENTY) if own else {}
    first = plenty | known
    if plenty and first["train"] == PLENTY and isinstance(first["valid"], int) and first["valid"] > 0:
        first["valid"] = max(PLENTY, first["valid"])
    asked = AuditConfig.of(**first)
    data = dataset if isinstance(dataset, Dataset) else loaded(name, asked)
    return _agreed(data, AuditConfig.of(**_sizes(data, options) | known))


def _counted(value: Any) -> Any:
    """Return a number of rows that was given as text as a number."""
    return int(value) if isinstance(value, str) and re.fullmatch(r"[0-9]{1,15}", value) else value


def _agreed(data: Dataset, config: AuditConfig) -> tuple[Dataset, AuditConfig]:
    if data.schema and data.schema.reading.missing == "keep" and not config.estimators:
        raise InputError("missing = 'keep': only with estimator; a model needs numbers: use impute")
    if data.schema and config.bounds:
        raise InputError(
            f"bounds = {list(config.bounds)}: what the columns of {data.name} may hold is said in their own units, by "
            "feasible = COLUMN=LOW:HIGH; rows within such bounds might be none that the table can hold"
        )
    return data, config


def loaded(name: str, config: AuditConfig) -> Dataset:
    """Return the data set of this name, or in this file, read as the configuration says; raises as `prepared`."""
    own = {option: getattr(config, option) for option in FILE_OPTIONS}
    if names_file(name):
        return read_dataset(files_of(name), **own)
    usual = {option: AuditConfig.model_fields[option].default for option in own}
    if config.estimators:
        usual["missing"] = "keep"
    for option, value in own.items():
        if value != usual[option]:
            raise InputError(f"{option} = {value!r}: only for a file of your own; {name} is in the catalogue")
    return load_dataset(name)


def _sizes(data: Dataset, options: dict[str, Any]) -> dict[str, int]:
    """Return the sizes and epochs of own data; nothing for a data set with a setting of its own."""
    everything = [name for name in SIZES if options.get(name) == ALL]
    if data.balanced:
        if everything:
            raise InputError(f"{everything[0]} = {ALL}: only for a file of your own; give a number of rows")
        return {}
    (train, valid), whole = data.sizes, data.whole if everything else data.sizes
    train, valid = whole[0] if "train" in everything else train, whole[1] if everything else valid
    model, rows = options.get("model", "logistic"), train if "train" in everything else options.get("train", train)
    usual = setting(options["dataset"], model if isinstance(model, str) else "own")
    epochs = math.ceil(usual.epochs * usual.train / rows) if isinstance(rows, int) and rows > 0 else usual.epochs
    return {"train": train, "valid": valid, "epochs": epochs}
