"""Reads numbers as people write them: plain, with a decimal comma, marks between thousands, or units."""

import re
from dataclasses import dataclass
from typing import Any

import pandas as pd

from mithridate.configuration.reading import FileOptions

# Text with a leading zero is a code, not a number.
NUMBER = r"(?i)[+-]?(?:(?:0|[1-9]\d*)(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?|[+-]?inf(?:inity)?"
MONEY = "$€£¥₹₽"
ENOUGH = 0.9
"""The least share of cells that shows how a column is written."""


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
        """Return the spelling that the options give."""
        return cls(options.decimal, options.thousands, tuple(options.entries["units"]))

    def read(self, cells: pd.Series) -> pd.Series:
        """Return cells of text (n,): numbers with this spelling become plain numbers, other cells stay.

        A column of plain numbers stays unless one of them could also be read with the mark between thousands.
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
        """Return which cells (n,) have marks between thousands."""
        if not self.thousands:
            return pd.Series(False, index=cells.index)
        return cells.str.fullmatch(rf"[+-]?\d{{1,3}}(?:[{self._marks}]\d{{3}})+(?:{re.escape(self.decimal)}\d*)?")

    @property
    def _marks(self) -> str:
        return _GAPS if self.thousands in (" ", "'") else re.escape(self.thousands or "")


THOUSANDS = "numbers with marks between thousands"
SPELLINGS = ((".", None), (".", ","), (",", None), (",", "."), (".", " "), (",", " "))
"""Pairs of a decimal mark and a mark between thousands, the more likely ones first."""


def spelled(present: pd.Series, given: Spelling) -> tuple[str, str, dict[str, Any]] | None:
    """Find a spelling with which the text in a column is numbers, if it is not with the given one.

    Return the name of the spelling, a cell that shows it, and the options to read it; None if the cells are words.
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
    """Return the signs of money and of per cent that stand beside numbers."""
    number = r"[+-]?[\d.,' \u00a0]*\d[\d.,' \u00a0]*"
    found = present.str.extract(rf"^(?:[+-]?\s?([{MONEY}])\s?{number}|{number}([{MONEY}%‰]))$")
    return set(pd.concat([found[0], found[1]]).dropna().unique())
