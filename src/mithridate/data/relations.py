"""Rules between two columns of a table, such as A ≤ B: those that are given, and those that all rows keep."""

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from mithridate.data.encoding import Column
from mithridate.data.kinds import Source
from mithridate.data.restricting import nearest, some
from mithridate.data.rules import EDGE, Rule
from mithridate.errors import DataError, InputError

FINE = 1e-6
"""The gap that < requires between numbers without a grid, as a share of the larger of the two columns' ranges."""
SEARCHED = 64
"""How many columns are searched for rules that all rows keep."""
BROKEN = 0.05
"""A rule is no accident if at least this share of values from different rows would break it."""

_OPERATOR = re.compile(r"<=|>=|<|>|≤|≥")
_PLUS = re.compile(r"(?P<name>.+)\+\s*(?P<gap>\d+(?:\.\d+)?)")


def read_rules(
    texts: Sequence[str], columns: Sequence[Column], raw: Float[np.ndarray, "n columns"], source: Source
) -> tuple[Rule, ...]:
    """Return the rules that these texts describe. Every row of `raw` without an empty cell (NaN) there keeps them.

    Raises `InputError` for a text that is no rule between two columns of numbers, `DataError` for a rule that rows
    break.
    """
    rules = tuple(_read(text, columns, raw) for text in texts)
    for rule in rules:
        broken = raw[:, rule.a] + rule.gap > raw[:, rule.b] + EDGE * (1 + np.abs(raw[:, rule.b]))
        if broken.any():
            raise DataError(
                f"{source.name}: rule {rule.text!r}: {broken.sum()} row(s) break it, the first in "
                f"{source.at(int(broken.argmax()))}; mend or remove them, or leave the rule out"
            )
    return rules


def _read(text: str, columns: Sequence[Column], raw: np.ndarray) -> Rule:
    names, form = [column.name for column in columns], "give it as 'A <= B', with two columns of features"
    # A name may contain such a sign itself: of all signs, take the first with the most names beside it.
    cuts = [_cut(text, sign, names) for sign in _OPERATOR.finditer(text)]
    if not cuts:
        raise InputError(f"rule {text!r}: {form}; there are {some(names)}")
    low, high, gap, strict = min(cuts, key=lambda cut: sum(name not in names for name in cut[:2]) + (cut[0] == cut[1]))
    if unknown := [name for name in (low, high) if name not in names]:
        asked = "; ".join(f"no column {name!r} among the features; {nearest(name, names)}" for name in unknown)
        raise InputError(f"rule {text!r}: {form}: {asked}")
    if low == high:
        raise InputError(f"rule {text!r}: {form}: both are {low!r}")
    a, b = names.index(low), names.index(high)
    for column in (columns[a], columns[b]):
        if column.kind not in ("number", "integer"):
            raise InputError(f"rule {text!r}: column {column.name!r} does not hold numbers")
    if strict:
        grids = columns[a].grid, columns[b].grid
        gap += min(grids) or FINE * float(max(np.ptp(cells[~np.isnan(cells)]) for cells in (raw[:, a], raw[:, b])))
    return Rule(a, b, gap, text)


def _cut(text: str, sign: re.Match[str], names: Sequence[str]) -> tuple[str, str, float, bool]:
    """Return what a rule with this sign says: the smaller column, the larger one, the gap, whether it is strict."""
    low, high, gap = text[: sign.start()].strip(), text[sign.end() :].strip(), 0.0
    if sign[0] in (">=", ">", "≥"):
        low, high = high, low
    if low not in names and (plus := _PLUS.fullmatch(low)):
        low, gap = plus["name"].strip(), float(plus["gap"])
    return low, high, gap, sign[0] in "<>"


def found_rules(
    columns: Sequence[Column], raw: Float[np.ndarray, "n columns"], given: Sequence[Rule] = ()
) -> tuple[str, ...]:
    """Return rules A <= B that all rows keep and that are not among the given ones, the least accidental first.

    A rule counts if values of A and B from different rows would break it often: in a share of at least `BROKEN`, and
    often enough that chance does not explain why no row breaks it. Rules that follow from two others are left out.
    """
    numbers = [place for place, column in enumerate(columns) if column.kind in ("number", "integer")]
    places = [place for place in numbers[:SEARCHED] if not np.isnan(raw[:, place]).all()]
    least = max(BROKEN, np.log(100.0 * max(1, len(places)) ** 2) / max(1, len(raw)))
    shares = {}
    for b in places:
        known = np.sort(raw[:, b][~np.isnan(raw[:, b])])
        for a in places:
            if a == b or (raw[:, a] > raw[:, b]).any():
                continue
            own = raw[:, a][~np.isnan(raw[:, a])]
            share = np.searchsorted(known, own, side="left").mean() / len(known)
            if share >= least:
                shares[a, b] = float(share)
    short = {
        (a, b) for a, b in shares if not any((a, c) in shares and (c, b) in shares for c in places if c not in (a, b))
    }
    short -= {(rule.a, rule.b) for rule in given}
    ordered = sorted(short, key=lambda pair: (-shares[pair], pair))
    return tuple(f"{columns[a].name} <= {columns[b].name}" for a, b in ordered)
