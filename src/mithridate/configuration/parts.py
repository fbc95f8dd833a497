"""The named parts of an audit: built in, or the user's own code, as an object or as `module:attribute`."""

import difflib
import importlib
import importlib.util
import inspect
import math
import operator
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mithridate.errors import InputError, MithridateError

BUILT_IN = {
    "model": ("logistic", "mlp"),
    "attack": ("portfolio", "bilevel", "flips"),
    "penalty": ("l2",),
    "loss": ("logistic", "squared-hinge", "squared"),
}
"""The kinds of parts that an audit has one of, and the names that are built in."""
SEVERAL = {"policies": "policy", "defences": "defence", "estimators": "estimator"}
"""The kinds of parts that an audit may have several of, and the name of a single one. `defences.named` reads them."""
ESTIMATORS = (
    *("random-forest", "hist-gradient-boosting", "svc", "knn", "logistic", "ridge", "gaussian-nb", "linear-svc"),
    *("xgboost", "lightgbm", "catboost"),
)
"""The estimators that have names."""
TUNINGS = ("as-is", "searched", "searched-clean")
"""What can be done about the hyperparameters of an estimator; as policies they stand in place of those for λ."""
USUAL = ("usual",)
"""The policies of an estimator unless others are asked for: both ways to search where it does, else as it is."""
FLIPS = ("random flips", "class flips", "ALFA", "influence flips", "kernel flips", "grown flips")
"""The names in records of the kinds of attack that change labels alone."""
PLAIN = (bool, int, float, bytes, list, tuple, dict, set)
"""Types of plain data, which cannot be a part of an audit."""
_OWN = re.compile(r"(\w+(\.\w+)*|.+\.py):\w+(\.\w+)*")


def name_of(part: Any) -> str:
    """Return the name of a part in results: the text itself, its `name`, its `__name__` or the name of its class."""
    names = (part, getattr(part, "name", None), getattr(part, "__name__", None), type(part).__name__)
    return next(name for name in names if isinstance(name, str))


def described(part: Any) -> str:
    """Return a part's description in plain words: its `words`, a text or a method, or else its name."""
    words = getattr(part, "words", None)
    said = words() if callable(words) else words
    return said if isinstance(said, str) else name_of(part)


def is_path(part: Any) -> bool:
    """Return whether a part is named as `module:attribute` or `file.py:attribute`."""
    return isinstance(part, str) and bool(_OWN.fullmatch(part))


def known(kind: str, part: Any) -> Any:
    """Return a part of this kind as it was given. Raises `ValueError` for what cannot be such a part."""
    own = is_path(part) if isinstance(part, str) else not isinstance(part, PLAIN)
    if own or part in BUILT_IN[kind]:
        return part
    raise ValueError(one_of(kind, part, BUILT_IN[kind], ", or module:attribute for one of your own"))


def one_of(name: str, value: Any, allowed: Sequence[str], others: str = "") -> str:
    """Return the refusal of an option that must be an `allowed` name, or `others`; it asks for the closest name."""
    return f"{name} = {value!r}: use {', '.join(allowed)}{others}{nearest(str(value), allowed)}"


def closest(text: str, names: Sequence[str]) -> str:
    """Return the name that is most similar to the text, whatever its capitals; empty if none is similar."""
    if text in names:
        return text
    known = {name.casefold(): name for name in names}
    found = difflib.get_close_matches(text.strip().casefold(), known, n=1)
    return known[found[0]] if found else ""


def nearest(text: str, names: Sequence[str]) -> str:
    """Return the question whether the most similar name was meant; empty if none is similar."""
    found = closest(text, names)
    return f"; did you mean {found}?" if found else ""


def own_parts(config: Any) -> list[str]:
    """Return the names of the parts that are the user's own code, in a configuration or its plain data."""
    read = config.get if isinstance(config, dict) else lambda name, other=None: getattr(config, name, other)
    single = [part for kind, names in BUILT_IN.items() if (part := read(kind)) is not None and part not in names]
    several = [part for kind in SEVERAL for part in read(kind, ()) or () if is_path(part) or not isinstance(part, str)]
    return [name_of(part) for part in (*single, *several)]


def found(kind: str, part: Any) -> Any:
    """Return the object that a part is or names. Raises `InputError` if it cannot be imported."""
    if not is_path(part):
        return part
    name = f"{kind} = {part}"
    module, _, attribute = part.rpartition(":")
    importing = _of_file if module.endswith(".py") else importlib.import_module
    imported = tried(name, f"importing {module}", importing, module)
    try:
        return operator.attrgetter(attribute)(imported)
    except AttributeError:
        place = f"{'file' if module.endswith('.py') else 'module'} {module}"
        like = nearest(attribute, dir(imported))
        raise InputError(f"{name}: {place} has no attribute {attribute!r}{like}") from None


def _of_file(path: str) -> Any:
    """Return the module in a file. It is known by the file's name, so that what it defines can be sent to processes."""
    file = Path(path)
    if not file.is_file():
        raise InputError(f"there is no file {path}")
    if file.stem in sys.modules and getattr(sys.modules[file.stem], "__file__", None) == str(file.resolve()):
        return sys.modules[file.stem]
    spec = importlib.util.spec_from_file_location(file.stem, file.resolve())
    if spec is None or spec.loader is None:
        raise InputError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[file.stem]
        raise
    return module


def source_of(part: Any) -> str:
    """Return the source code of a part's class or function, in which changes show; its name if there is no source."""
    try:
        return inspect.getsource(part if isinstance(part, type) or hasattr(part, "__code__") else type(part))
    except (OSError, TypeError):
        return name_of(part)


def tried(who: str, doing: str, function: Any, *arguments: Any, **named: Any) -> Any:
    """Return the function's result. Whatever the user's code raises becomes an `InputError` of one line."""
    try:
        return function(*arguments, **named)
    except MithridateError as error:
        raise InputError(f"{who}: {error}") from error
    except Exception as error:
        line = str(error).strip().partition("\n")[0]
        raise InputError(f"{who}: {doing} failed: {type(error).__name__}: {line}") from error


def share_of(text: str) -> float:
    """Return the share that is written as `0.1` or `10%` in plain digits; NaN for any other text."""
    found = re.fullmatch(r"\s*([0-9]+\.?[0-9]*|\.[0-9]+)\s*(%?)\s*", text)
    return float(found[1]) / (100 if found[2] else 1) if found else math.nan
