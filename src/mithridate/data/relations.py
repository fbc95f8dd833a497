"""Rules between two columns of a table, such as A ≤ B: as they are given, and as rows keep them."""

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from mithridate.data.encoding import Column
from mithridate.data.kinds import Source
from mithridate.data.rules import EDGE, Rule
from mithridate.errors import DataError, InputError

FINE = 1e-6
"""The gap of a < between numbers of any kind, as a share of the larger of the columns' ranges."""
SEARCHED = 64
"""Among how many columns rules are looked for that all rows keep."""
BROKEN = 0.05
"""How often a rule has to be broken by values of other rows to be no accident."""

_OPERATOR = re.compile(r"<=|>=|<|>|≤|≥")
_PLUS = re.compile(r"(?P<name>.+)\+\s*(?P<gap>\d+(?:\.\d+)?)")


def read_rules(
    texts: Sequence[str], columns: Sequence[Column], raw: Float[np.ndarray, "n columns"], source: Source
) -> tuple[Rule, ...]:
    """Return the rules that these texts say between columns, and that every row keeps where no cell is empty (NaN).

    Raises `InputError` for a text that says no rule, `DataError` for one that rows break.
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
    names = [column.name for column in columns]
    # Names may hold such signs themselves.
    for sign in _OPERATOR.finditer(text):
        low, high = text[: sign.start()].strip(), text[sign.end() :].strip()
        if sign[0] in (">=", ">", "≥"):
            low, high = high, low
        gap, plus = 0.0, _PLUS.fullmatch(low)
        if low not in names and plus:
            low, gap = plus["name"].strip(), float(plus["gap"])
        if low in names and high in names and low != high:
            break
    else:
        told = ", ".join(map(repr, names[:10])) + (", …" if len(names) > 10 else "")
        raise InputError(f"rule {text!r}: give it as 'A <= B', with two columns of features; there are {told}")
    a, b = names.index(low), names.index(high)
    for column in (columns[a], columns[b]):
        if column.kind not in ("number", "integer"):
            raise InputError(f"rule {text!r}: column {column.name!r} holds no numbers")
    if sign[0] in "<>":
        grids = columns[a].grid, columns[b].grid
        gap += min(grids) or FINE * float(max(np.ptp(cells[~np.isnan(cells)]) for cells in (raw[:, a], raw[:, b])))
    return Rule(a, b, gap, text)


def found_rules(
    columns: Sequence[Column], raw: Float[np.ndarray, "n columns"], given: Sequence[Rule] = ()
) -> tuple[str, ...]:
    """Return rules A <= B between columns of numbers that all rows keep and nobody has given, the most telling first.

    Those that are an accident are left out: if the values of A and B were drawn from different rows, a share of the
    pairs would break the rule, at least `BROKEN`, and so often that chance does not explain that no row does. So are
    rules that follow from two others.
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
