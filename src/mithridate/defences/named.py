"""Policies and sanitisers by the names that configurations, records and figures have for them."""

import math
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import optax

from mithridate.configuration.parts import found, name_of, nearest, tried
from mithridate.data.feasible import Box
from mithridate.defences.base import Folding, Policy, Sanitiser
from mithridate.defences.filters import Sphere
from mithridate.defences.policies import CrossValidated, Fixed, Learned
from mithridate.errors import InputError
from mithridate.tasks.base import Task
from mithridate.victims.rows import Rows

LARGEST = 30.0
"""Fixed λ beyond ±30 mean a strength that float32 cannot tell from 0 or from infinity."""
POLICIES = ("fixed=VALUE", "learned", "cv-clean", "cv-poisoned", "search-clean=BUDGET", "search-poisoned=BUDGET")
DEFENCES = ("none", "sphere=SHARE")
FEWEST = 2
"""How many rows of each class a sanitiser must leave."""

_SEARCH = re.compile(r"search-(?P<data>clean|poisoned)=(?P<budget>[0-9]{1,6})")
_FIXED = re.compile(r"fixed=(?:log\((?P<strength>[^)]+)\)|(?P<value>.+))")


def _made(kind: str, part: Any) -> Any:
    """Return a built-in part's text, or the user's own object; a class is called without arguments."""
    made = found(kind, part)
    return tried(f"{kind} = {name_of(part)}", "making it", made) if isinstance(made, type) else made


def policy_of(part: Any, strengths: Box, descent: optax.GradientTransformation, *others: Any) -> Policy:
    """Return the policy that a configuration holds or names (see `parse_policy`). Raises `InputError`."""
    made = _made("policy", part)
    if isinstance(made, str):
        return parse_policy(made, strengths, descent, *others)
    if not isinstance(made, Policy):
        raise InputError(
            f"policy = {name_of(part)}: {type(made).__name__} is no policy; give an object with name, strengths, "
            "descent, respond and after_clean (see `Policy`)"
        )
    return made


def sanitiser_of(part: Any) -> Sanitiser | None:
    """Return the sanitiser that a configuration holds or names, None for "none". Raises `InputError`."""
    made = _made("defence", part)
    if isinstance(made, str):
        return _parse_defence(made)
    if not isinstance(made, Sanitiser):
        raise InputError(
            f"defence = {name_of(part)}: {type(made).__name__} is no defence; give an object with name and sanitise "
            "(see `Sanitiser`)"
        )
    if made.name == "none":
        raise InputError(f"defence = {name_of(part)}: give it another name than none")
    return made


def check_sanitiser(sanitiser: Sanitiser, rows: Rows, classes: Sequence[str]) -> None:
    """Raise `InputError` unless it gives clean rows weights from 0 to their own, and leaves rows of every class."""
    name = f"defence {sanitiser.name}"
    found = tried(name, "sanitise", jax.jit(sanitiser.sanitise), rows)
    if np.shape(found) != rows.weight.shape:
        raise InputError(f"{name}: it must return {len(rows.y)} weights, one a row; got the shape {np.shape(found)}")
    weights, labels, there = np.asarray(found, dtype=float), np.asarray(rows.y), np.asarray(rows.weight)
    if not ((weights >= 0) & (weights <= there)).all():
        raise InputError(f"{name}: its weights must lie between 0 and those that the rows have")
    for number, label in enumerate(classes):
        before, after = (int((each[labels == number] > 0).sum()) for each in (there, weights))
        if after < min(FEWEST, before):
            raise InputError(f"{name}: it leaves {after} of {before} clean rows of class {label}; {FEWEST} must stay")


def check_folds(
    policy: Policy, y: np.ndarray, classes: Sequence[str], task: Task, groups: np.ndarray | None = None
) -> None:
    """Raise `InputError` if the policy holds out folds and a class has too few training rows, labels y (n,)."""
    if not isinstance(policy, Folding):
        return
    for number, label in enumerate(classes):
        own = y == number
        many = int(own.sum()) if groups is None else len(np.unique(groups[own]))
        if many < FEWEST:
            what = "training row(s)" if groups is None else "group(s) of training rows"
            raise InputError(
                f"policy {policy.name}: class {label} has {many} {what}, and cross-validation needs {FEWEST}, to hold "
                "one out and learn from the other; use more training rows (train), policy learned, or join classes"
            )


def _parse_defence(text: str) -> Sanitiser | None:
    kind, _, value = text.partition("=")
    if text == "none":
        return None
    if kind == "sphere" and value:
        try:
            share = float(value.removesuffix("%")) / (100 if value.endswith("%") else 1)
        except ValueError:
            share = math.nan
        if 0 < share < 1:
            return Sphere(share)
        raise InputError(f"defence = {text}: the share of rows to take out must lie between 0 and 1, as sphere=5%")
    raise InputError(
        f"unknown defence {text!r}; use none, sphere=SHARE (as sphere=5%), or module:attribute for one of your own"
        + nearest(kind, [name.partition("=")[0] for name in DEFENCES])
    )


def parse_policy(
    text: str,
    strengths: Box,
    descent: optax.GradientTransformation,
    closing: bool = True,
    k: int = 5,
    seed: int = 0,
    by: str = "loss",
) -> Policy:
    """Return the policy that `text` names.

    `fixed=VALUE`, `fixed=log(STRENGTH)`, `learned`, `cv-clean`, `cv-poisoned`, `search-clean=BUDGET` or
    `search-poisoned=BUDGET`. Raises `InputError` for any other text.
    """
    match text:
        case "learned":
            return Learned(strengths, descent, closing, by=by)
        case "cv-clean" | "cv-poisoned":
            return CrossValidated(text == "cv-poisoned", strengths, k, seed, by=by)
    if (found := _SEARCH.fullmatch(text)) and int(found["budget"]) > 0:
        return CrossValidated(found["data"] == "poisoned", strengths, k, seed, int(found["budget"]), by=by)
    if found := _FIXED.fullmatch(text):
        try:
            number = float(found["strength"] or found["value"])
            value = math.log(number) if found["strength"] else number
        except ValueError:
            number = value = math.nan
        if abs(value) <= LARGEST:
            return Fixed(value, f"fixed=log({number:g})" if found["strength"] else None)
    raise InputError(
        f"unknown policy {text!r}; use fixed=VALUE with a λ from −{LARGEST:g} to {LARGEST:g} (as fixed=-8 or "
        "fixed=log(200)), learned, cv-clean, cv-poisoned, search-clean=BUDGET or search-poisoned=BUDGET (how many λ to "
        "try, as search-clean=60), or module:attribute for one of your own" + nearest(text, POLICIES)
    )
