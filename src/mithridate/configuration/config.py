"""The configuration of an audit: one schema for the TOML file, the flags and Python."""

import inspect
import math
import re
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    Field,
    field_serializer,
    field_validator,
    model_validator,
)

from mithridate.configuration.agreement import CHECKS, check_of_estimator, unknown_estimator
from mithridate.configuration.parts import (
    BUILT_IN,
    ESTIMATORS,
    PLAIN,
    SEVERAL,
    USUAL,
    is_path,
    known,
    name_of,
    one_of,
    share_of,
)
from mithridate.configuration.presets import MOST_POISON, PRESETS, setting
from mithridate.configuration.reading import FileOptions, joined
from mithridate.errors import InputError
from mithridate.files.limits import read_toml
from mithridate.notebooks import table, with_parameters
from mithridate.tasks.base import Flip

EXECUTIONS = ("auto", "serial", "batched", "sharded", "processes", "ray")
EXECUTION = re.compile(r"auto|serial|batched|sharded|processes(:[1-9]\d{0,3})?|ray(:(auto|[\w.\[\]:-]+:\d{1,5}))?")
FILE_OPTIONS = tuple(FileOptions.model_fields)
"""The options that only data of the user's own have."""


SHOWN = (
    *("dataset", "model", "loss", "train", "valid", "points", "splits", "policies", "defences", "attack", "objective"),
    *("score", "budget", "edits"),
)
"""The options that the text of a configuration shows in Python."""


def most_poison(points: int, train: int, budget: str) -> float:
    """Return the share of poison in the training set, from 0 to 1, if all `points` are in it."""
    return points / (train + (points if budget == "added" else 0))


def named(files: Sequence[Any]) -> str:
    """Return the name of the data set in these files; several are joined by commas."""
    return str(files[0]) if len(files) == 1 else joined(map(str, files))


class AuditConfig(FileOptions):
    """Everything that decides an audit's numbers. Make one with `of`.

    Options that are not given come from the data set's own setting (`presets`) and from the preset. So a configuration
    always has every value that was used; `poison` has been converted to `points`.
    """

    dataset: str = Field(
        description="name of the data set, or a file of your own, or several files with the same columns: a list, or "
        "a pattern such as parts/*.csv"
    )
    model: Any = Field(
        "logistic",
        description="the victim's model: logistic, mlp, or your own, as module:attribute (in Python also the model "
        "itself, or a function of the number of features that returns it)",
    )
    estimators: tuple[Any, ...] = Field(
        (),
        description="audit scikit-learn estimators instead of a model: random-forest, hist-gradient-boosting, svc, "
        "knn, logistic, ridge, gaussian-nb, linear-svc, xgboost, lightgbm, catboost, or your own, its search included, "
        "as module:attribute or file.py:attribute; repeatable",
    )
    fits: int | None = Field(
        None,
        ge=4,
        description="about how often the attacker fits an estimator in a split to find poison, all shares together; by "
        "default 720 if it is quick to fit (linear, kernels, neighbours), else 240",
    )
    surrogates: tuple[Literal["logistic", "mlp"], ...] = Field(
        ("logistic",),
        min_length=1,
        description="the models on whose derivatives points for an estimator are crafted: logistic, mlp; repeatable",
    )
    loss: Any = Field(
        "logistic",
        description="the victim's loss: logistic (cross-entropy), squared-hinge (a linear SVM), squared (a ridge "
        "classifier), or your own, as module:attribute",
    )
    penalty: Any = Field("l2", description="the victim's penalty: l2, or your own, as module:attribute")
    hidden: tuple[int, ...] = Field((128, 32), min_length=1, description="widths of mlp's hidden layers, as 128,32")
    victim: Literal["sgd", "exact"] = Field(
        "sgd", description="the victim that is evaluated: trained by SGD, or solved to optimality (exact)"
    )
    inner: Literal["gd", "sgd", "exact"] = Field(
        "gd",
        description="the victim that is attacked: trained by gradient descent (gd), by minibatches (sgd), or solved "
        "to optimality (exact); by default exact if victim is exact, else gd",
    )
    preset: Literal["quick", "paper"] = Field(
        "quick", description="how much is run: quick, 3 splits × 4 ratios, or paper, 10 × 8"
    )
    train: int = Field(
        ge=2,
        description="how much is run: quick, 3 splits × 4 ratios, or paper, 10 × 8",
    )
    valid: int = Field(
        ge=2, description="number of trusted validation rows; for a file, all means a quarter of its rows"
    )
    points: int = Field(0, ge=1, description="largest number of poisoning points")
    poison: float | None = Field(
        None, gt=0, lt=1, description="points as a share of the training set, such as 0.1 or 10%; rounded up"
    )
    batch: int = Field(
        0, ge=1, description="number of points that are crafted together: the step between ratios of poison"
    )
    budget: Literal["added", "replaced", "chosen"] = Field(
        description="which rows are the attacker's: new rows (added), rows drawn at random (replaced), or rows that "
        "he picks (chosen); by default chosen, with preset = paper as in the data set's own setting"
    )
    edits: Literal["both", "labels", "features"] = Field(
        "both", description="what the attacker changes: labels alone, features alone (clean-label), or both"
    )
    attack: Any = Field(
        description="how poison is made: portfolio (many attacks; the worst one counts), bilevel (Algorithm 1 "
        "alone), flips (the worst of many choices of labels to flip), or your own, as module:attribute; by default "
        "portfolio, with preset = paper bilevel",
    )
    objective: str = Field(
        "indiscriminate",
        description="what the attacker wants: indiscriminate (errors of any kind), target-class A (errors on class "
        "A), misclassify A-as-B, or rows FILE (the model is to give these rows the labels that they have in the file)",
    )
    score: Literal["error", "balanced-error", "fnr", "one-minus-auc"] = Field(
        "error",
        description="how an indiscriminate attacker's harm is measured, in curves, verdict and gate, and how attacks "
        "are ranked: error; balanced-error (the mean of the errors in each class); fnr (the share of rows of class 1 "
        "that are missed, see positive; two classes); one-minus-auc (two classes)",
    )
    flip: Flip = Field(
        "random",
        description="the other label that a clone gets if there are more than two classes: a random one, or that of "
        "the nearest or farthest class",
    )
    initial: Literal["fixed", "fresh"] | int = Field(
        description="w0 of inner training: fixed; fresh (drawn again at every outer step); or a number K (the mean "
        "hypergradient of K fresh draws); by default fixed for logistic, which starts at 0, else fresh",
    )
    splits: int = Field(0, ge=1, le=10_000, description="number of random splits")
    seed: int = Field(0, ge=0, description="seed of everything that is random")
    policies: tuple[Any, ...] = Field(
        min_length=1,
        description="how the defender sets λ: fixed=VALUE, fixed=log(STRENGTH), cv-clean, cv-poisoned, "
        "search-clean=BUDGET, search-poisoned=BUDGET, learned, or your own, as module:attribute; for an estimator: "
        "as-is, searched (its own search, on the poisoned rows) or searched-clean, by default both if it has a search; "
        "repeatable",
    )
    defences: tuple[Any, ...] = Field(
        ("none",),
        min_length=1,
        description="what the defender does to the rows before he trains: none, sphere=SHARE (leave out this share "
        "of each class's rows, those farthest from the class's mean, as sphere=5%), or your own, as "
        "module:attribute; repeatable, each is combined with every policy",
    )
    folds: int = Field(5, ge=2, description="number of folds of cross-validation")
    tune_by: Literal["loss", "error"] = Field(
        "loss",
        description="what learned, cv-… and search-… minimise on validation or held-out rows: the loss, or the "
        "number of errors (error; ties go to the least loss)",
    )
    hyperiterations: int = Field(
        ge=1, description="outer steps per batch of points if λ does not descend during the attack"
    )
    joint_hyperiterations: int = Field(ge=1, description="outer steps per batch of points if λ is learned")
    hypergradient: Literal["auto", "reverse", "checkpointed", "reversible", "forward", "implicit"] = Field(
        "auto",
        description="method of the hypergradient; auto: reverse, or checkpointed if inner is sgd, implicit if it is "
        "exact",
    )
    space: Literal["auto", "plain", "gram"] = Field(
        "auto", description="coordinates of training; auto: the cheaper ones"
    )
    execution: str = Field(
        "auto",
        description="how splits and policies are computed: in turn (serial), as one batch divided among all devices "
        "(batched), in turn with the training rows divided among the devices (sharded), in N processes (processes:N; "
        "without N one for each core), or on a Ray cluster (ray:ADDRESS; without an address one is started here); "
        "auto: batched on a GPU, else serial",
    )
    precision: Literal["float32", "float64"] = Field(
        "float32", description="precision of all numbers; by default float64 if victim or inner is exact, else float32"
    )
    poison_step: float = Field(gt=0, description="α, outer step size of the points")
    poison_rule: Literal["normalised", "raw", "adam", "restarting"] = Field(
        description="outer step rule of the points; by default restarting for the portfolio, else normalised"
    )
    hyper_step: float = Field(gt=0, description="β, largest outer step of λ")
    hyper_rule: Literal["rprop", "decay", "constant", "raw"] = Field("rprop", description="outer step rule of λ")
    closing: bool = Field(True, description="end each round with λ's best response")
    select: Literal["best", "last"] = Field("best", description="end each round with λ's best response")
    alternate: bool = Field(False, description="use a second backward pass for λ, as in Algorithm 1 of the paper")
    learning_rate: float = Field(gt=0, description="η of inner training")
    inner_steps: int = Field(ge=1, description="T, number of steps of inner training")
    inner_batch: int | None = Field(None, ge=1, description="rows in a minibatch of inner = sgd; by default batch_size")
    stabilise: bool = Field(True, description="divide inner steps into smaller ones if gradient descent would diverge")
    bounds: tuple[float, float] | None = Field(
        None,
        description="lowest and highest value of every feature of the poison, as the model sees it; only for data of "
        "the catalogue",
    )
    strengths: str = Field(
        description="which layers share a λ: one (all layers), layers (each has its own), or the group of each "
        "layer, as 0,0,1; by default layers for mlp, else one",
    )
    strength_bounds: tuple[float, float] = Field(description="lowest and highest λ")
    train_learning_rate: float = Field(gt=0, description="η of the evaluation's SGD")
    batch_size: int = Field(ge=1, description="rows in a minibatch of the evaluation's SGD")
    epochs: int = Field(ge=1, description="epochs of the evaluation's SGD")

    def __repr_args__(self) -> Iterator[tuple[str, Any]]:
        """Show the main options; `model_dump()` has all of them."""
        yield from ((name, getattr(self, name)) for name in SHOWN)

    def _repr_html_(self) -> str:
        fields = type(self).model_fields
        rows = [(name, value, fields[name].description) for name, value in self.model_dump(mode="json").items()]
        return table(f"configuration of an audit of {self.dataset}", ("option", "value", "meaning"), rows)

    @classmethod
    def read(cls, path: Path) -> dict[str, Any]:
        """Return the options in a TOML file, not yet checked against the schema. Raises `InputError`."""
        try:
            return read_toml(path)
        except tomllib.TOMLDecodeError as error:
            raise InputError(f"configuration {path} is not TOML: {error}") from None
        except (OSError, ValueError) as error:
            raise InputError(f"configuration {path} cannot be read: {error}") from None

    @property
    def most_poison(self) -> float:
        """The largest audited share of poison, from 0 to 1."""
        return most_poison(self.points, self.train, self.budget)

    @field_validator("hidden", mode="before")
    @classmethod
    def _widths(cls, value: Any) -> Any:
        return value.split(",") if isinstance(value, str) else value

    @field_validator(*BUILT_IN)
    @classmethod
    def _known(cls, value: Any, info: Any) -> Any:
        return known(info.field_name, value)

    @field_validator(*SEVERAL)
    @classmethod
    def _parts(cls, values: tuple[Any, ...], info: Any) -> tuple[Any, ...]:
        kind = SEVERAL[info.field_name]
        for value in values:
            if isinstance(value, PLAIN):
                shown = value if isinstance(value, bool | int | float) else type(value).__name__
                raise ValueError(f"{kind} = {shown!r}: use a name, or module:attribute for one of your own")
            if kind == "estimator" and isinstance(value, str) and value not in ESTIMATORS and not is_path(value):
                raise ValueError(unknown_estimator(value))
        return values

    @field_serializer(*BUILT_IN, when_used="json")
    def _named(self, value: Any) -> str:
        return name_of(value)

    @field_serializer(*SEVERAL, when_used="json")
    def _names(self, values: tuple[Any, ...]) -> list[str]:
        return [name_of(value) for value in values]

    @field_validator("poison", mode="before")
    @classmethod
    def _share(cls, value: Any) -> Any:
        found = share_of(value) if isinstance(value, str) and "%" in value else math.nan
        return value if math.isnan(found) else found

    @field_validator("execution")
    @classmethod
    def _executed(cls, value: str) -> str:
        if not EXECUTION.fullmatch(value):
            others = ", processes:N with N at least 1, or on a node of a Ray cluster ray:auto or ray:HOST:PORT"
            raise ValueError(one_of("execution", value, EXECUTIONS, others))
        return value

    @field_validator("strengths")
    @classmethod
    def _grouped(cls, value: str) -> str:
        if not re.fullmatch(r"one|layers|[0-9]{1,4}(,[0-9]{1,4})*", value):
            raise ValueError(one_of("strengths", value, ("one", "layers"), ", or the group of each layer, as 0,0,1"))
        return value

    @field_validator("initial", mode="before")
    @classmethod
    def _draws(cls, value: Any) -> Any:
        if value in ("fixed", "fresh"):
            return value
        if re.fullmatch(r"[1-9]\d*", str(value)):
            return int(value)
        raise ValueError(one_of("initial", value, ("fixed", "fresh"), ", or how many draws to average, at least 1"))

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, options: dict[str, Any]) -> dict[str, Any]:
        """Fill in options that depend only on the names of data set, model and victims."""
        given = {name: value for name, value in options.items() if value is not None}
        if isinstance(given.get("dataset"), list | tuple) and given["dataset"]:
            given["dataset"] = named(given["dataset"])
        model = given.get("model", "logistic")
        kind = model if isinstance(model, str) else "own"
        base = setting(str(given.get("dataset")), kind)
        filled = {name: getattr(base, name) for name in cls.model_fields if hasattr(base, name)}
        filled["inner"] = "exact" if given.get("victim") == "exact" else "gd"
        exact = "exact" in (given.get("victim"), given.get("inner", filled["inner"]))
        filled["precision"] = "float64" if exact else "float32"
        filled["initial"] = "fixed" if kind == "logistic" else "fresh"
        quick = given.get("preset", "quick") == "quick"
        filled["attack"] = "portfolio" if quick else "bilevel"
        filled["budget"] = "chosen" if quick and base.budget == "replaced" else base.budget
        crafted_for_errors = given.get("attack", filled["attack"]) == "portfolio"
        filled["poison_rule"] = "restarting" if crafted_for_errors else "normalised"
        if given.get("estimators"):
            filled |= {"attack": "portfolio", "policies": USUAL, "missing": "keep"}
            usual = {name: info.default for name, info in cls.model_fields.items()} | filled
            check_of_estimator(given, usual)
        return filled | given

    @model_validator(mode="after")
    def _derive(self) -> "AuditConfig":
        """Fill in options that depend on others, now that they have the right types, and check that all agree."""
        preset = PRESETS[self.preset]
        if self.points and self.poison:
            raise ValueError("points and poison say the same in two ways; give one of them")
        share = self.poison or MOST_POISON
        rows = self.train * share / (1 - share if self.budget == "added" else 1)
        points = self.points or math.ceil(rows - 1e-9)
        derived = {
            "points": points,
            "poison": None,
            "batch": self.batch or math.ceil(points / preset["ratios"]),
            "splits": self.splits or preset["splits"],
            "inner_batch": self.inner_batch or (self.batch_size if self.inner == "sgd" else None),
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)  # the model is frozen for everybody else
        for said in filter(None, (check(self) for check in CHECKS)):
            raise ValueError(said)
        return self


OPTIONS = {
    name: inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=info.annotation)
    for name, info in AuditConfig.model_fields.items()
}
"""The options as parameters of a function that passes them on; None counts as not given."""
with_parameters(OPTIONS)(AuditConfig.of.__func__)
