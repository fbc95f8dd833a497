"""Reads the option `objective`: what the attacker wants. See `attacks.objectives`."""

import re
from collections.abc import Sequence

from mithridate.configuration.parts import closest, nearest
from mithridate.errors import InputError

FORMS = "indiscriminate, target-class A, misclassify A-as-B or rows FILE"
KINDS = ("indiscriminate", "target-class", "misclassify", "rows")
_NAMED = re.compile(r"(?P<kind>target-class|misclassify|rows)[ =](?P<what>.+)")


def parse_objective(text: str, classes: Sequence[str]) -> tuple[str, tuple[int, ...] | str]:
    """Return the kind of objective that `text` names, and its classes by number, or its file.

    `classes` are the names of the classes. Raises `InputError` for a text of another form and for unknown classes.
    """
    if text == "indiscriminate":
        return text, ()
    if not (found := _NAMED.fullmatch(text)):
        kind, gap, rest = text.partition(" ")
        meant = nearest(kind, KINDS)
        raise InputError(f"objective = {text!r}: use {FORMS}{meant and meant.removesuffix('?') + gap + rest + '?'}")
    kind, what = found["kind"], found["what"]
    if kind == "rows":
        return kind, what
    if kind == "target-class" and what in classes:
        return kind, (list(classes).index(what),)
    # The name of a class may itself contain “-as-”.
    for cut in re.finditer("-as-", what) if kind == "misclassify" else ():
        pair = what[: cut.start()], what[cut.end() :]
        if set(pair) <= set(classes) and pair[0] != pair[1]:
            return kind, (list(classes).index(pair[0]), list(classes).index(pair[1]))
    form = "target-class A" if kind == "target-class" else "misclassify A-as-B, with A and B two"
    meant = _meant(kind, what, classes)
    raise InputError(f"objective = {text!r}: use {form} of the classes {', '.join(classes)}{meant}")


def _meant(kind: str, what: str, classes: Sequence[str]) -> str:
    """Return the question whether the most similar objective was meant; empty if none is similar."""
    if kind == "target-class":
        return nearest(what, classes)
    for cut in re.finditer("[- ]+(as|to|for)[- ]+|->|→", what):
        pair = [closest(part, classes) for part in (what[: cut.start()], what[cut.end() :])]
        if all(pair) and pair[0] != pair[1]:
            return f"; did you mean misclassify {'-as-'.join(pair)}?"
    return ""
