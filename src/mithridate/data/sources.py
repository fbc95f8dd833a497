"""Finds the data of an audit: in the catalogue, in a file of the user's own, or in a `Dataset` made in Python."""

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
"""The options that can be `ALL`: then all rows of a file are used, a half to train and a quarter to validate."""
PLENTY = 2**30
"""A number of rows with which every option is valid that is valid for some file."""


def names_file(dataset: str) -> bool:
    """Return whether a data set's name means files: by its ending, as a path or pattern, or because it exists."""
    path = Path(dataset)
    return ending(path) in TABLES | ARRAYS or len(path.parts) > 1 or _is_pattern(dataset) or path.is_file()


def files_of(dataset: str) -> list[Path]:
    """Return the files that a data set's name means: one file, several separated by commas, or those of a pattern.

    Raises `DataError` for a pattern that no file matches.
    """
    if Path(dataset).exists():
        return [Path(dataset)]
    found: list[Path] = []
    for part in parts(dataset):
        like = sorted(map(Path, glob.glob(part, recursive=True))) if _is_pattern(part) else [Path(part)]
        if not like:
            raise DataError(f"{part}: no file matches this pattern")
        found += like
    return found


def place_of(dataset: str) -> str:
    """Return a data set's name in the catalogue, or the absolute paths of its files."""
    return named([path.resolve() for path in files_of(dataset)]) if names_file(dataset) else dataset


def _is_pattern(text: str) -> bool:
    return any(sign in text for sign in "*?[")


def prepared(
    dataset: str | Path | Sequence[str | Path] | Dataset | pd.DataFrame,
    config: AuditConfig | None,
    options: dict[str, Any],
) -> tuple[Dataset, AuditConfig]:
    """Return the loaded data set and the configuration of its audit: the given one, or one with these options.

    A data frame becomes a data set by `dataset_of`, whose options are among these. Own data have their own default
    sizes (`Dataset.sizes`), and so many epochs of evaluation that η·steps is that of the tabular setting. Raises
    `InputError` or `DataError`.
    """
    if (one := options.pop("estimator", None)) is not None:
        options["estimators"] = (*options.get("estimators", ()), one)
    if hasattr(options.get("estimators"), "fit") or isinstance(options.get("estimators"), str):
        options["estimators"] = (options["estimators"],)
    if isinstance(dataset, pd.DataFrame):
        if config is not None:
            raise InputError(
                "a data frame and a config: make a data set of the frame, by mi.dataset_of(frame, 'target')"
            )
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
            raise InputError(f"give a config or options, not both; the options are {', '.join(options)}")
        if name != config.dataset and (not names_file(config.dataset) or name != called(files_of(config.dataset))):
            raise InputError(f"the configuration is for {config.dataset!r}, the data set is {name!r}")
        return _agreed(dataset if isinstance(dataset, Dataset) else loaded(name, config), config)
    options = {key: _counted(value) if key in SIZES else value for key, value in options.items() if value is not None}
    options["dataset"] = name
    known = {key: value for key, value in options.items() if key not in SIZES or value != ALL}
    # Wrong options are refused before a large file is read. The number of its rows is not known yet, nor the number of
    # points, which follows from it; so no number of validation rows may be refused as too small for the points.
    own = not dataset.balanced if isinstance(dataset, Dataset) else names_file(name)
    plenty = dict.fromkeys(SIZES, PLENTY) if own else {}
    first = plenty | known
    if plenty and first["train"] == PLENTY and isinstance(first["valid"], int) and first["valid"] > 0:
        first["valid"] = max(PLENTY, first["valid"])
    asked = AuditConfig.of(**first)
    data = dataset if isinstance(dataset, Dataset) else loaded(name, asked)
    return _agreed(data, AuditConfig.of(**_sizes(data, options) | known))


def _counted(value: Any) -> Any:
    """Return the number if `value` is a number of rows written as text; otherwise return `value`."""
    return int(value) if isinstance(value, str) and re.fullmatch(r"[0-9]{1,15}", value) else value


def _agreed(data: Dataset, config: AuditConfig) -> tuple[Dataset, AuditConfig]:
    if data.schema and data.schema.reading.missing == "keep" and not config.estimators:
        raise InputError("missing = 'keep': only with estimator; a model needs numbers: use impute")
    if data.schema and config.bounds:
        raise InputError(
            f"bounds = {list(config.bounds)}: for a table, say in its own units what a column may hold, by feasible = "
            "COLUMN=LOW:HIGH; the table might not be able to hold rows within such bounds"
        )
    return data, config


def loaded(name: str, config: AuditConfig) -> Dataset:
    """Return the data set with this name or in this file, read with the options of the configuration.

    Raises `InputError` or `DataError`.
    """
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
    """Return the default sizes and epochs of own data; nothing for a data set of the catalogue.

    Raises `InputError` for `ALL` with a data set of the catalogue.
    """
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
