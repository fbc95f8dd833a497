"""What is wrong with a table, told at once, with the options that mend it, to be pasted."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from mithridate.configuration.reading import LISTS, FileOptions, told
from mithridate.data.kinds import Source
from mithridate.errors import DataError, MithridateError

Found = TypeVar("Found")
ROUNDS = 10
"""How often faults are looked for behind others."""


class Unfit(DataError):  # noqa: N818 (what it is said of is a column)
    """A column, or a table, that cannot be used: the `fault`, and the `options` that mend it, if there are any.

    `or_else` is what the user can do without them.
    """

    def __init__(self, source: Source, fault: str, or_else: str = "", **options: Any):
        self.source, self.fault, self.or_else, self.options = source, fault, or_else, options
        super().__init__(self.said(None))

    def said(self, given: FileOptions | None) -> str:
        """Return all of it in one line; `given` are the options that there are already."""
        remedies = [self.or_else, f"use {told(self.options, given)}" if self.options else ""]
        remedy = ", or ".join(filter(None, remedies))
        return f"{self.source.name}: {self.fault}{'; ' * bool(remedy)}{remedy}"


class Constant(Unfit):
    """A column that tells nothing apart."""

    def __init__(self, source: Source, name: str, what: str):
        self.name, self.what = name, what
        super().__init__(source, f"column {name!r} {what}", "remove it", drop_constant=True)


def leave_out(name: str, place: int) -> dict[str, Any]:
    """Return the option that leaves out a column of this name and place, from 0 on; by place if it cannot be pasted."""
    plain = name.isprintable() and name == name.strip() and '"' not in name
    return {"drop": [name if plain else str(place + 1)]}


def merged(faults: Sequence[MithridateError]) -> dict[str, Any]:
    """Return the options that mend all of these faults that an option mends."""
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


class Several(DataError):  # noqa: N818 (faults)
    """All faults of a table that were found at once."""

    def __init__(self, faults: Sequence[DataError]):
        self.faults = tuple(faults)
        super().__init__("; ".join(map(str, faults)))


def mended(read: Callable[[FileOptions], Found], given: FileOptions, name: str) -> Found:
    """Return what `read` makes of the given options, or raise one error for all that stands in the way.

    What an option mends is mended and read on, so that faults behind the first are told with it, and the options that
    are told are those with which it can be read.
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
        faults += [fault for fault in new if str(fault) not in map(str, faults)]
        mending = asked.mended(merged(new))
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
        text += f"\nTo mend {'this' if whole else 'what can be mended so'}, use {told(options, given)}"
    return text


def _line(fault: MithridateError, name: str) -> str:
    if isinstance(fault, Unfit):
        return fault.fault if fault.options else f"{fault.fault}; {fault.or_else}"
    return str(fault).removeprefix(f"{name}: ")
