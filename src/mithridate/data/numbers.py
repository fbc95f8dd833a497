"""How numbers are written: plainly, or with a decimal comma, marks between thousands, and units beside them."""

import re
from dataclasses import dataclass
from typing import Any

import pandas as pd

from mithridate.configuration.reading import FileOptions

# A leading zero is a code's, not a number's.
NUMBER = r"(?i)[+-]?(?:(?:0|[1-9]\d*)(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?|[+-]?inf(?:inity)?"
MONEY = "$€£¥₹₽"
ENOUGH = 0.9
"""The share of cells that makes a way of writing the column's."""


_GAPS = " '’\u00a0\u202f"
"""Blanks and apostrophes between thousands come in several kinds."""


@dataclass(frozen=True)
class Spelling:
    """How numbers are written in text."""

    decimal: str = "."
    thousands: str | None = None
    units: tuple[str, ...] = ()

    @classmethod
    def of(cls, options: FileOptions) -> "Spelling":
        """Return what the user says."""
        return cls(options.decimal, options.thousands, tuple(options.entries["units"]))

    def read(self, cells: pd.Series) -> pd.Series:
        """Return cells of text, numbers in this way of writing written plainly, the others as they are.

        A column of plain numbers, none of which can be meant otherwise, stays as it is.
        """
        if self == Spelling() or (cells.str.fullmatch(NUMBER).all() and not self._grouped(cells).any()):
            return cells
        found = cells
        for unit in sorted(self.units, key=len, reverse=True):
            sign = re.escape(unit)
            found = found.str.replace(rf"^([+-]?)\s*{sign}\s*(?=[+\-\d.,])", r"\1", regex=True)
            found = found.str.replace(rf"(?<=[\d.,])\s*{sign}$", "", regex=True)
        if self.thousands:
            bare = found.str.replace(f"[{self._marks}]", "", regex=True)
            found = found.where(~self._grouped(found), bare)
        if self.decimal == ",":
            with_comma = found.str.fullmatch(r"(?i)[+-]?(?:\d+,\d*|,\d+)(?:e[+-]?\d+)?")
            found = found.where(~with_comma, found.str.replace(",", ".", regex=False))
        return found.where(found.str.fullmatch(NUMBER), cells)

    def _grouped(self, cells: pd.Series) -> pd.Series:
        """Return which cells have the mark between thousands."""
        if not self.thousands:
            return pd.Series(False, index=cells.index)
        return cells.str.fullmatch(rf"[+-]?\d{{1,3}}(?:[{self._marks}]\d{{3}})+(?:{re.escape(self.decimal)}\d*)?")

    @property
    def _marks(self) -> str:
        return _GAPS if self.thousands in (" ", "'") else re.escape(self.thousands or "")


THOUSANDS = "numbers with marks between thousands"
SPELLINGS = ((".", None), (".", ","), (",", None), (",", "."), (".", " "), (",", " "))
"""Decimal marks and marks between thousands, the likelier first."""


def spelled(present: pd.Series, given: Spelling) -> tuple[str, str, dict[str, Any]] | None:
    """Return in which way of writing the cells of a column, as text, are numbers, where in the given one they are not.

    What it is called, a cell that shows it, and the options by which they are read; None if they are words.
    """
    units = tuple(sorted({*given.units, *_units(present)}))
    tried = [Spelling(decimal, thousands, units) for decimal, thousands in SPELLINGS]
    shares = [spelling.read(present).str.fullmatch(NUMBER).mean() for spelling in tried]
    best = tried[shares.index(max(shares))]
    if max(shares) < ENOUGH or best == given:
        return None
    changed = best.read(present) != given.read(present)
    if not changed.any():
        return None
    names = [name for name in ("decimal", "thousands", "units") if getattr(best, name) != getattr(given, name)]
    options = {name: getattr(best, name) for name in names} | (
        {"units": [unit for unit in units if unit not in given.units]} if "units" in names else {}
    )
    kinds = [("percentages" if unit in "%‰" else "amounts of money") for unit in options.get("units", ())]
    if "thousands" in options:
        kinds.append("numbers with a comma between thousands" if best.thousands == "," else THOUSANDS)
    if "decimal" in options:
        kinds.append("numbers with a decimal comma" if best.decimal == "," else "numbers with a decimal point")
    return " and ".join(dict.fromkeys(kinds)), present[changed].iloc[0], options


def _units(present: pd.Series) -> set[str]:
    """Return the signs of money and per cent beside numbers."""
    number = r"[+-]?[\d.,' \u00a0]*\d[\d.,' \u00a0]*"
    found = present.str.extract(rf"^(?:[+-]?\s?([{MONEY}])\s?{number}|{number}([{MONEY}%‰]))$")
    return set(pd.concat([found[0], found[1]]).dropna().unique())
