"""Flags: those made from `AuditConfig`, so that flags, file and Python cannot differ, and those that commands share."""

import inspect
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import typer

from mithridate.configuration.config import FILE_OPTIONS, AuditConfig
from mithridate.configuration.parts import BUILT_IN, SEVERAL
from mithridate.configuration.reading import LISTS, asked_by
from mithridate.errors import InputError

if TYPE_CHECKING:
    from mithridate.data.datasets import Dataset

REPEATED = SEVERAL | {"surrogates": "surrogate"}
"""The options that may be given several times, and the flag of one."""

AsJson = Annotated[bool, typer.Option("--json", help="print audit.json instead of the table")]
MLflow = Annotated[
    str | None, typer.Option(metavar="URI", help="also log the run to this MLflow store, as sqlite:///mlflow.db")
]
Gate = Annotated[
    str | None,
    typer.Option(
        metavar="ERROR@SHARE",
        help="exit with code 1 if the error exceeds ERROR at a share of poison up to SHARE, such as 10%@5%",
    ),
]
AllowConstant = Annotated[
    bool, typer.Option("--allow-constant", help="let an uninformative model (marked constant) pass the gate")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="print nothing but warnings and errors")]


def with_flags(command: Callable[..., None], shown: Collection[str] = AuditConfig.model_fields) -> Callable[..., None]:
    """Give `command`, which takes `**given`, one flag per field of `AuditConfig`; its help lists only those `shown`."""
    signature = inspect.signature(command)
    fixed = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    made = []
    for name, info in AuditConfig.model_fields.items():
        kind, flag, choices = info.annotation, f"--{name.replace('_', '-')}", ()
        if name in REPEATED:
            kind, flag = list[str], f"--{REPEATED[name]}"
        elif name in LISTS:
            kind = list[str]
        elif name in (*BUILT_IN, "hidden", "initial", "train", "valid", "poison"):
            kind = str
        elif choices := get_args(kind) if get_origin(kind) is Literal else ():
            kind = str  # the configuration checks it
        elif kind is bool:
            flag = f"{flag}/--no-{flag[2:]}"
        panel = "Your own data" if name in FILE_OPTIONS else None
        usual = ", ".join(map(str, info.default)) if isinstance(info.default, tuple) else info.default
        default = f" [default: {usual}]" if info.default and not info.is_required() else ""
        text = f"{info.description}{default}"
        option = typer.Option(
            flag,
            help=text,
            show_default=False,
            hidden=name not in shown,
            metavar="|".join(choices) or None,
            rich_help_panel=panel,
        )
        if name == "dataset":
            text = "A data set (see `mithridate datasets`), or a file, or several files with the same columns: CSV and "
            text += "other text, ARFF, Parquet, Excel, NPZ or svmlight."
            kind, option = list[str], typer.Argument(metavar="[DATASET]...", help=text, show_default=False)
        annotation = Annotated[kind | None, option]
        made.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation))
    command.__signature__ = signature.replace(parameters=[*fixed, *made])
    command.__annotations__ = {p.name: p.annotation for p in [*fixed, *made]}
    return command


def asked_for(file: Path | None, given: dict[str, Any]) -> tuple["Dataset", AuditConfig]:
    """Return the data set and the configuration that a TOML file and flags ask for; flags override the file.

    Raises `InputError` or `DataError`.
    """
    from mithridate.data.sources import prepared

    options = AuditConfig.read(file) if file else {}
    flags = {name: value for name, value in given.items() if value not in (None, [])}
    for one, other in (("points", "poison"), ("poison", "points")):
        if one in flags:
            options.pop(other, None)
    options |= flags
    if "dataset" not in options:
        raise InputError("no data set named; `mithridate datasets` lists them")
    with asked_by("toml" if file else "flags"):
        return prepared(options.pop("dataset"), None, options)
