"""The options for reading the user's own data: files and data frames.

A refusal names the options that mend the data, in the form in which the user gives options, so that they can be pasted.
"""

import csv
import io
import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from mithridate.configuration.parts import nearest, one_of
from mithridate.errors import InputError
from mithridate.files.limits import OPTION, check_plain

LISTS = ("drop", "keep", "categorical", "units", "na_values", "feasible", "rule")
"""The options that may be given several times."""
COMMAS = ("drop", "keep", "categorical", "units", "na_values")
"""The options of `LISTS` whose entries may be lists separated by commas."""
_FORM: ContextVar[Literal["flags", "toml", "python"]] = ContextVar("form", default="python")

Options = TypeVar("Options", bound="FileOptions")


class FileOptions(BaseModel):
    """How the user's own data are read. Make one with `of`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    target: str | None = Field(
        None, description="the column that holds the labels: its name, or its place, such as 5, -1 or last"
    )
    positive: str | None = Field(
        None,
        description="the label to be found: it becomes class 1; if there are several others, they become one class",
    )
    drop: tuple[str, ...] = Field(
        (),
        description="columns to leave out, such as row numbers: names, places (3) or patterns ('id_*'), separated by "
        "commas; repeatable",
    )
    drop_constant: bool = Field(False, description="leave out all columns that are empty or have a single value")
    keep: tuple[str, ...] = Field(
        (), description="the only features to use; all other columns are left out; written as for drop; repeatable"
    )
    categorical: tuple[str, ...] = Field(
        (), description="columns to read as categories although they hold numbers; written as for drop; repeatable"
    )
    header: Literal["first", "none"] | None = Field(
        None,
        description="none: the text file has no header, and its columns are called 1, 2, …; first: the first line is "
        "the header; by default it is the header, but it is refused if it looks like data",
    )
    separator: str | None = Field(
        None,
        description="what separates the cells of a text file: a character, tab, or space (one or more); by default "
        "it is found in the file",
    )
    encoding: Literal[
        "utf-8", "utf-16", "latin-1", "cp1252", "cp1250", "cp1251", "koi8-r", "shift_jis", "euc_kr", "gb18030", "big5"
    ] = Field("utf-8", description="encoding of a text file")
    decimal: Literal[".", ","] = Field(".", description="the decimal mark in text: a point or a comma")
    thousands: Literal[",", ".", "'", " ", "_"] | None = Field(
        None, description="the mark between thousands in text, as in 1,000"
    )
    units: tuple[str, ...] = Field(
        (), description="units before or after numbers, which are not read, such as %, $ or kg; repeatable"
    )
    na_values: tuple[str, ...] = Field(
        (), description="further texts that mean an empty cell, such as unknown or -999; repeatable"
    )
    keep_default_na: bool = Field(
        True,
        description="whether ?, NA, null, None and the like mean an empty cell in a text file",
    )
    missing: Literal["refuse", "drop", "impute", "keep", "category", "category,impute", "category,drop"] = Field(
        "refuse",
        description="what to do with empty cells: refuse the file, drop their rows, impute the training rows' median "
        "or most frequent category, or make them a category of their own. Numbers have no categories: use "
        "category,impute or category,drop. Keep them empty (keep) for an estimator, which is its default",
    )
    max_categories: int = Field(50, ge=2, le=10_000, description="the most different categories in a column")
    join_rare: bool = Field(
        False, description="join the rarest categories of a column that has more than max-categories of them"
    )
    feasible: tuple[str, ...] = Field(
        (),
        description="what poisoned cells of a column may hold, as COLUMN=LOW:HIGH or COLUMN=A|B, in the file's "
        "units; repeatable; by default the range in the training rows, or any category",
    )

    rule: tuple[str, ...] = Field(
        (),
        description="a rule between two columns that poisoned rows keep, as 'A <= B' or 'A + 5 < B'; repeatable",
    )
    group: str | None = Field(
        None,
        description="the column that says which rows belong together, such as those of a person: a group is in one "
        "of training, validation and test rows, and in one fold; or rows (rows with the same features belong "
        "together), or none; by default rows for a table in which some rows are alike",
    )

    @classmethod
    def of(cls: type[Options], **options: Any) -> Options:
        """Return the configuration with these options; an option that is None counts as not given.

        Raises `InputError`: it names the first option that is unknown or wrong, its value and what is allowed.
        """
        for name, value in options.items():
            try:
                check_plain(value, OPTION)
            except ValueError as error:
                raise InputError(f"{name[:100]!r} cannot be used: {error}") from None
        try:
            found = cls(**{name: value for name, value in options.items() if value is not None})
            check_plain([value for _, value in found], OPTION)
        except ValidationError as error:
            raise InputError(_first(error, cls.model_fields)) from None
        except (ValueError, OverflowError):
            raise InputError("an option is a number with too many digits; at most 100 are read") from None
        return found

    @field_validator("target", "positive", mode="before")
    @classmethod
    def _text(cls, value: Any) -> Any:
        return _numbered(value)

    @field_validator(*LISTS, mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        entries = [value] if isinstance(value, str | int) else value
        return [_numbered(entry) for entry in entries] if isinstance(entries, list | tuple) else entries

    @field_validator("separator")
    @classmethod
    def _one(cls, value: str | None) -> str | None:
        named = {"tab": "\t", "\\t": "\t", "space": " "}.get(value or "", value)
        if named is not None and (len(named) != 1 or named in "\"'\n\r\0" or not named.isascii()):
            raise ValueError(f"separator = {value!r}: give one character, tab or space")
        return named

    @property
    def entries(self) -> dict[str, list[str]]:
        """The entries of `units` and `na_values`, with lists divided."""
        return {
            name: [part for entry in getattr(self, name) for part in parts(entry)] for name in ("units", "na_values")
        }

    def mended(self: Options, more: dict[str, Any]) -> Options:
        """Return these options with `more` of them; lists get longer, other options are replaced."""
        joined = {name: (*getattr(self, name), *value) if name in LISTS else value for name, value in more.items()}
        return self.model_copy(update=joined)


def _numbered(value: Any) -> Any:
    """Return a place or a label as text if it is given as a number."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _first(error: ValidationError, fields: Mapping[str, Any]) -> str:
    """Return the first error in one line: the option, its value and what is allowed."""
    fault = error.errors()[0]
    name = ".".join(map(str, fault["loc"]))
    if fault["type"] == "extra_forbidden":
        return f"unknown option {name!r}{nearest(name, tuple(fields))}; the options are {', '.join(fields)}"
    if fault["type"] == "value_error":
        return str(fault["msg"]).removeprefix("Value error, ")
    if fault["type"] == "literal_error":
        own = fields[name.partition(".")[0]].annotation
        kinds = [kind for kind in (own, *get_args(own)) if is_literal(kind)]
        return one_of(name.partition(".")[0], fault["input"], get_args(kinds[0]))
    if fault["type"] == "missing":
        return f"{name} is missing"
    return f"{name} = {fault['input']!r}: {fault['msg'][0].lower()}{fault['msg'][1:]}"


def is_literal(kind: Any) -> bool:
    """Return whether a type is a `Literal`."""
    return get_origin(kind) is Literal


def parts(text: str) -> list[str]:
    """Return the entries of a list separated by commas; an entry that contains a comma is in double quotes.

    Example:
        >>> parts('age,"height, cm",id_*')
        ['age', 'height, cm', 'id_*']
    """
    lines = list(csv.reader([text], skipinitialspace=True)) if "\n" not in text and "\r" not in text else [[text]]
    return [part for part in (entry.strip() for line in lines for entry in line) if part]


def joined(entries: Iterable[str]) -> str:
    """Return the text that `parts` divides into these entries.

    Example:
        >>> joined(["age", "height, cm"])
        'age,"height, cm"'
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(list(entries))
    return text.getvalue()


@contextmanager
def asked_by(form: Literal["flags", "toml", "python"]) -> Iterator[None]:
    """Have `told` write options as flags, as lines of a TOML file or, which is the default, as Python arguments."""
    before = _FORM.set(form)
    try:
        yield
    finally:
        _FORM.reset(before)


def told(options: dict[str, Any], given: FileOptions | None = None) -> str:
    """Return these options in the form in which the user gives options, to be pasted.

    In a TOML file and in Python a list replaces the list that is there, so it starts with the entries of the `given`
    options.

    Example:
        >>> told({"drop": ["row id"], "decimal": ","})
        "drop=['row id'], decimal=','"
    """
    form = _FORM.get()
    if form == "flags":
        return " ".join(_flag(name, value) for name, value in options.items())
    whole = {
        name: [*getattr(given, name, ()), *value] if isinstance(value, list | tuple) else value
        for name, value in options.items()
    }
    if form == "toml":
        lines = [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in whole.items()]
        return lines[0] if len(lines) == 1 else "".join(f"\n  {line}" for line in lines)
    return ", ".join(f"{name}={value!r}" for name, value in whole.items())


def _flag(name: str, value: Any) -> str:
    flag = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        return flag if value else f"--no-{flag[2:]}"
    if name in ("feasible", "rule"):
        return " ".join(f"{flag} {shlex.quote(entry)}" for entry in value)
    if isinstance(value, list | tuple):
        # A single name is read as it is, with its commas.
        value = value[0] if len(value) == 1 and not re.search(r'[\r\n"]', value[0]) else joined(value)
    return f"{flag} {shlex.quote(str(value))}"
