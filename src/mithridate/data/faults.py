"""The faults of a table: all of them are told at once, with the options that mend them, to be pasted."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from mithridate.configuration.reading import LISTS, FileOptions, told
from mithridate.data.kinds import Source
from mithridate.errors import DataError, MithridateError

Found = TypeVar("Found")
ROUNDS = 10
"""How often a table is read again to find faults behind others."""


class Unfit(DataError):  # noqa: N818 (a column is unfit)
    """A column or a table that cannot be used.

    `fault`: what is wrong; `options`: those that mend it, if any; `or_else`: what the user can do without options.
    """

    def __init__(self, source: Source, fault: str, or_else: str = "", **options: Any):
        self.source, self.fault, self.or_else, self.options = source, fault, or_else, options
        super().__init__(self.said(None))

    def said(self, given: FileOptions | None) -> str:
        """Return fault and remedies in one line; `given` are the options that the user has given."""
        remedies = [self.or_else, f"use {told(self.options, given)}" if self.options else ""]
        remedy = ", or ".join(filter(None, remedies))
        return f"{self.source.name}: {self.fault}{'; ' * bool(remedy)}{remedy}"


class Empty(Unfit):
    """Empty cells that no option says how to handle."""


class Constant(Unfit):
    """A column that is empty or has a single value."""

    def __init__(self, source: Source, name: str, what: str):
        self.name, self.what = name, what
        super().__init__(source, f"column {name!r} {what}", "remove it", drop_constant=True)


def leave_out(name: str, place: int) -> dict[str, Any]:
    """Return the option that leaves out a column: by name, or by place (given from 0) if it cannot be pasted."""
    plain = name.isprintable() and name == name.strip() and '"' not in name
    return {"drop": [name if plain else str(place + 1)]}


def merged(faults: Sequence[MithridateError]) -> dict[str, Any]:
    """Return all options that mend these faults."""
    found: dict[str, Any] = {}
    for fault in faults:
        for name, value in fault.options.items() if isinstance(fault, Unfit) else ():
            if name in LISTS:
                found[name] = list(dict.fromkeys([*found.get(name, ()), *value]))
            elif name == "max_categories":
                found[name] = max(value, found.get(name, 0))
            else:
                found[name] = value
    return dict(sorted(found.items(), key=lambda item: list(FileOptions.model_fields).index(item[0])))


class Several(DataError):  # noqa: N818 (several faults)
    """All faults that were found in a table in one reading."""

    def __init__(self, faults: Sequence[DataError]):
        self.faults = tuple(faults)
        super().__init__("; ".join(map(str, faults)))


def mended(read: Callable[[FileOptions], Found], given: FileOptions, name: str) -> Found:
    """Return what `read` returns for the given options, or raise one `DataError` for all faults.

    If options mend a fault, the table is read again with them, to find the faults behind it. So the message names all
    faults, and options with which the table can be read. Empty cells are mended last, because columns may have been
    left out by then. `name` is what the message calls the table.
    """
    faults, asked = [], given
    for _ in range(ROUNDS):
        try:
            with warnings.catch_warnings():
                if faults:
                    warnings.simplefilter("ignore")
                found = read(asked)
        except Several as error:
            new = list(error.faults)
        except MithridateError as error:
            new = [error]
        else:
            if not faults:
                return found
            break
        others = [fault for fault in new if not isinstance(fault, Empty)]
        mending = asked.mended(merged(others))
        if mending == asked:
            others, mending = new, asked.mended(merged(new))
        faults += [fault for fault in others if str(fault) not in map(str, faults)]
        if mending == asked:
            break
        asked = mending
    if len(faults) == 1:
        raise DataError(faults[0].said(given)) if isinstance(faults[0], Unfit) else faults[0]
    raise DataError(_together(faults, name, given))


def _together(faults: Sequence[MithridateError], name: str, given: FileOptions) -> str:
    alike = [fault for fault in faults if isinstance(fault, Constant)]
    folded = alike if len(alike) > 3 else []
    lines = [_line(fault, name) for fault in faults if fault not in folded]
    if folded:
        names = ", ".join(repr(fault.name) for fault in folded[:5])
        more = f" and {len(folded) - 5} more" if len(folded) > 5 else ""
        lines.append(f"{len(folded)} columns are empty or hold a single value: {names}{more}")
    text = "\n".join([f"{name}: it cannot be used as it is:", *(f"  {line}" for line in lines)])
    if options := merged(faults):
        whole = all(isinstance(fault, Unfit) and fault.options for fault in faults)
        text += f"\nTo mend {'this' if whole else 'what options can mend'}, use {told(options, given)}"
    return text


def _line(fault: MithridateError, name: str) -> str:
    if isinstance(fault, Unfit):
        return fault.fault if fault.options else f"{fault.fault}; {fault.or_else}"
    return str(fault).removeprefix(f"{name}: ")
