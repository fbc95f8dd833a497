"""Finds the command that gives a configuration."""

import re
import shlex
from collections.abc import Mapping
from typing import Any

from mithridate.configuration.config import AuditConfig
from mithridate.configuration.parts import SEVERAL
from mithridate.configuration.presets import SETTINGS
from mithridate.configuration.reading import LISTS
from mithridate.errors import InputError

REPEATED = {**SEVERAL, "surrogates": "surrogate", **{name: name.replace("_", "-") for name in LISTS}}
"""The options whose flag is repeated for each entry, and their flags."""
SIZES = ("train", "valid", "epochs")
"""The options whose defaults follow from the data if they are the user's own."""


def in_catalogue(dataset: str) -> bool:
    """Return whether a data set's name, such as mnist-0v8, has its own setting."""
    pair = re.fullmatch(r"(.+)-\w+v\w+", dataset)
    return bool({dataset, pair[1] if pair else dataset} & SETTINGS.keys())


def departures(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the fewest options of `config` that give all others together with the data set and the preset.

    None if options cannot give it, for example if the model was an object in Python.
    """
    given = {name: value for name, value in config.items() if value is not None}
    try:
        whole = AuditConfig.of(**given)
    except InputError:
        return None
    fixed = ("dataset",) if in_catalogue(whole.dataset) else ("dataset", *SIZES)
    for name in config:
        rest = {other: value for other, value in given.items() if other != name}
        try:
            if name not in fixed and AuditConfig.of(**rest) == whole:
                given = rest
        except InputError:
            continue
    return given


def command(config: Mapping[str, Any]) -> str | None:
    """Return the shell command of an audit with this configuration (as in audit.json), or None if there is none.

    It names only options that differ from the defaults of data set and preset.

    Example:
        >>> from mithridate import AuditConfig
        >>> command(AuditConfig.of(dataset="wine", splits=2, policies=("learned", "fixed=log(20)")).model_dump())
        "mithridate audit wine --splits 2 --policy learned --policy 'fixed=log(20)'"
    """
    given = departures(config)
    if given is None:
        return None
    words = ["mithridate", "audit", str(given.pop("dataset"))]
    for name, value in given.items():
        flag = name.replace("_", "-")
        if name in REPEATED:
            words += [word for one in value for word in (f"--{REPEATED[name]}", one)]
        elif isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif name == "hidden":
            words += [f"--{flag}", ",".join(map(str, value))]
        else:
            words += [f"--{flag}", *map(str, value if isinstance(value, list | tuple) else [value])]
    return shlex.join(words)
