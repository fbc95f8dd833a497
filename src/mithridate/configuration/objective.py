"""What the attacker wants, as it is written; see `attacks.objectives`."""

import re
from collections.abc import Sequence

from mithridate.configuration.parts import nearest
from mithridate.errors import InputError

FORMS = "indiscriminate, target-class A, misclassify A-as-B or rows FILE"
KINDS = ("indiscriminate", "target-class", "misclassify", "rows")
_NAMED = re.compile(r"(?P<kind>target-class|misclassify|rows)[ =](?P<what>.+)")


def parse_objective(text: str, classes: Sequence[str]) -> tuple[str, tuple[int, ...] | str]:
    """Return the kind of objective that `text` names, and its classes by number or its file.

    Raises `InputError` for another form and for unknown classes.
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
    # A class's name may itself hold “-as-”.
    for cut in re.finditer("-as-", what) if kind == "misclassify" else ():
        pair = what[: cut.start()], what[cut.end() :]
        if set(pair) <= set(classes) and pair[0] != pair[1]:
            return kind, (list(classes).index(pair[0]), list(classes).index(pair[1]))
    form = "target-class A" if kind == "target-class" else "misclassify A-as-B, with A and B two"
    meant = nearest(what, list(classes)) if kind == "target-class" else ""
    raise InputError(f"objective = {text!r}: use {form} of the classes {', '.join(classes)}{meant}")
