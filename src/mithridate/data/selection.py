"""Finds the columns that options name: by name, place or pattern."""

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass

from mithridate.configuration.reading import FileOptions, parts, told
from mithridate.data.groups import NONE, ROWS
from mithridate.data.restricting import nearest, some
from mithridate.errors import InputError


@dataclass(frozen=True)
class Selection:
    """The columns that are used, by their places in the table, counted from 0.

    `categorical`: the names of columns to be read as categories; `group`: the column that groups rows, or None.
    """

    target: int
    features: tuple[int, ...]
    categorical: tuple[str, ...]
    group: int | None

    @property
    def places(self) -> tuple[int, ...]:
        """All these places, in the order of the table."""
        grouped = () if self.group is None else (self.group,)
        return tuple(sorted((self.target, *self.features, *grouped)))


def selected(names: Sequence[str], options: FileOptions, source: str) -> Selection:
    """Return the columns that the options `target`, `keep`, `drop`, `categorical` and `group` select.

    Raises `InputError` for a column that does not exist, options that contradict each other, or no features.
    """
    if options.target is None:
        raise InputError(
            f"{source}: say which column holds the labels, as {told({'target': 'last'})} or its name; there are "
            f"{some(names)}"
        )
    targets = _places(options.target, names, "target", source)
    if len(targets) > 1:
        places = ", ".join(str(place + 1) for place in targets)
        raise InputError(f"{source}: several columns are called {options.target!r}; give its place, one of {places}")
    (target,) = targets
    group = _group(names, options.group, source)
    if group == target:
        raise InputError(f"group = {options.group!r}: this is the target")
    others = [place for place in range(len(names)) if place not in (target, group)]
    kept = _all(options.keep, names, "keep", source, others) if options.keep else others
    dropped = _all(options.drop, names, "drop", source, others)
    if target in dropped:
        raise InputError(f"drop = {names[target]!r}: this is the target")
    if group is not None and group in dropped:
        raise InputError(f"group = {names[group]!r}: this is dropped as well")
    features = tuple(place for place in others if place in kept and place not in dropped)
    if not features:
        raise InputError(f"{source}: no column besides the target {names[target]!r}; there is nothing to learn from")
    categorical = _all(options.categorical, names, "categorical", source, others)
    return Selection(target, features, tuple(names[place] for place in sorted(categorical)), group)


def _group(names: Sequence[str], group: str | None, source: str) -> int | None:
    """Return the place of the column that says which rows belong together; None if no column is named."""
    if group is None or (group in (ROWS, NONE) and group not in names):
        return None
    if group in (ROWS, NONE):
        raise InputError(
            f"group = {group!r}: this word has its own meaning, and a column has it as a name; rename the column"
        )
    if group not in names:
        raise InputError(f"{source}: group = {group!r}: no such column; {nearest(group, list(names))}")
    return list(names).index(group)


def _all(entries: Sequence[str], names: Sequence[str], option: str, source: str, features: Sequence[int]) -> set[int]:
    """Return the places that the entries of an option name. Patterns match features only."""
    found: set[int] = set()
    for entry in entries:
        for part in [entry] if entry in names else parts(entry):
            places = _places(part, names, option, source)
            found.update(set(places) & set(features) if _is_pattern(part) and part not in names else places)
    return found


def _is_pattern(text: str) -> bool:
    return any(sign in text for sign in "*?[")


def _places(text: str, names: Sequence[str], option: str, source: str) -> list[int]:
    """Return the places of the columns with this name, place (counted from 1, or −1 from the last) or pattern."""
    if text in names:
        return [place for place, name in enumerate(names) if name == text]
    if counted := re.fullmatch(r"#?(-?[1-9]\d{0,5})|(first|last)", text):
        number = {"first": 1, "last": -1}.get(counted[2]) or int(counted[1])
        if abs(number) <= len(names):
            return [number - 1 if number > 0 else number + len(names)]
        raise InputError(f"{source}: {option} = {text!r}: there are {len(names)} columns")
    if _is_pattern(text) and option != "target":
        if found := [place for place, name in enumerate(names) if fnmatch.fnmatchcase(name, text)]:
            return found
        raise InputError(f"{source}: {option} = {text!r}: no column's name matches; there are {some(names)}")
    raise InputError(f"{source}: no column {text!r}; {nearest(text, list(names))}")
