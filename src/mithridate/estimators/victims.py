"""The victims of an audit by refits: an estimator, and what is done about its hyperparameters.

as-is            they stay as they are given
searched         the estimator's own search runs again on the poisoned rows, as people do
searched-clean   its search has run on clean rows, and what it found is fixed
"""

import copy
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from sklearn.base import clone

from mithridate.configuration.parts import USUAL, name_of, tried
from mithridate.data.encoding import Schema
from mithridate.errors import InputError
from mithridate.estimators.named import estimator_of
from mithridate.estimators.tuned import settled

WORDS = {
    "as-is": "its hyperparameters as they are given",
    "searched": "its own search for hyperparameters, run again on the poisoned rows",
    "searched-clean": "the hyperparameters that its own search finds on the clean rows, then fixed",
}
"""What each policy does, in words."""
ALONE = ("LogisticRegressionCV", "RidgeClassifierCV", "TunedThresholdClassifierCV")
"""Estimators that search by themselves, without one inside that could be fitted as it is."""


class Victim(NamedTuple):
    """An estimator (not fitted) with one of the policies; `model` is its name."""

    model: str
    policy: str
    estimator: Any

    @property
    def name(self) -> str:
        """The defender's name in records and figures."""
        return f"{self.model}, {self.policy}"

    @property
    def fixed(self) -> bool:
        """Whether poison changes no hyperparameter."""
        return self.policy != "searched"

    def words(self) -> str:
        """Return what is done, in words."""
        return f"{self.model} with {WORDS[self.policy]}"

    def seeded(self, seed: int) -> "Victim":
        """Return the victim with this seed wherever nothing else says what is drawn at random."""
        return self._replace(estimator=_seeded(self.estimator, seed))

    def fitted_for(self, clean: Any) -> Any:
        """Return what is to be fitted on poisoned rows, given the estimator as fitted on clean rows."""
        return settled(clean) if self.policy == "searched-clean" else clone(self.estimator)


def victims_of(parts: Sequence[Any], policies: Sequence[str], schema: Schema | None) -> list[Victim]:
    """Return each estimator with each policy. Raises `InputError` for what is none, or has no search."""
    found: list[Victim] = []
    for part, name in zip(parts, names_of(parts), strict=True):
        own = estimator_of(part, schema)
        search = searches(own)
        asked = (("searched", "searched-clean") if search else ("as-is",)) if tuple(policies) == USUAL else policies
        for policy in asked:
            if policy != "as-is" and not search:
                raise InputError(
                    f"policy = {policy}: estimator {name} has no search of its own; use as-is, or give a GridSearchCV "
                    "around it"
                )
            found.append(Victim(name, policy, _without_search(own, name) if policy == "as-is" else own))
    names = [victim.name for victim in found]
    if double := [name for name in names if names.count(name) > 1]:
        raise InputError(f"{double[0]!r} is audited twice; name each estimator and policy once")
    return found


def names_of(parts: Sequence[Any]) -> list[str]:
    """Return what each estimator is called; objects of one class are numbered."""
    names: list[str] = []
    for place, part in enumerate(parts):
        before = [name_of(other) for other in parts[:place] if not isinstance(other, str)]
        again = 0 if isinstance(part, str) else before.count(name_of(part))
        names.append(f"{name_of(part)} {again + 1}" if again else name_of(part))
    return names


def searches(estimator: Any) -> bool:
    """Return whether an estimator, or a part of it, searches for hyperparameters when it is fitted."""
    return any(_is_search(part) or type(part).__name__ in ALONE for _, part in _parts(estimator))


def fewest_needed(estimator: Any) -> int:
    """Return how many rows of each class the searches of an estimator need for their folds."""
    needed = [1]
    for _, part in _parts(estimator):
        if _is_search(part):
            cv = 5 if part.cv is None else part.cv
            needed.append(cv if isinstance(cv, int) else getattr(cv, "n_splits", 1))
    return max(needed)


def _is_search(part: Any) -> bool:
    return type(part).__name__.endswith("SearchCV") and hasattr(part, "estimator")


def _parts(estimator: Any) -> Iterator[tuple[str, Any]]:
    """Yield an estimator and all that is inside it, by name; the whole has the name ''."""
    yield "", estimator
    yield from (estimator.get_params(deep=True) if hasattr(estimator, "get_params") else {}).items()


def _without_search(estimator: Any, name: str) -> Any:
    """Return a copy of an estimator without its search: what it would fit with the hyperparameters as given."""
    own: Any = clone(estimator)
    while _is_search(own):
        own = own.estimator
    inside = {part: value.estimator for part, value in _parts(own) if part and _is_search(value)}
    own = own.set_params(**inside) if inside else own
    if searches(own):
        raise InputError(f"policy = as-is: estimator {name} searches by itself; use searched or searched-clean")
    return own


def _seeded(estimator: Any, seed: int) -> Any:
    """Return a copy of an estimator in which every `random_state` that is None is this seed, those of its folds too."""
    own: Any = tried("estimator", "clone", clone, estimator)
    named = own.get_params(deep=True)
    seeds: dict[str, Any] = {
        name: seed for name, value in named.items() if name.endswith("random_state") and value is None
    }
    for name, value in named.items():
        if getattr(value, "shuffle", False) is True and getattr(value, "random_state", seed) is None:
            folds: Any = copy.copy(value)
            folds.random_state = seed
            seeds[name] = folds
    return own.set_params(**seeds)
