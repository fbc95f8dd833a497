"""The configuration of an audit: one schema for the file, the flags and Python."""

import math
import tomllib
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mithridate.errors import InputError
from mithridate.presets import MOST_POISON, PRESETS, SETTINGS


class AuditConfig(BaseModel):
    """Everything that decides an audit's numbers. `None` means the data set's own setting, see `filled`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    dataset: str = Field(description="name of the data set")
    model: Literal["logistic"] = Field("logistic", description="the victim's model")
    preset: Literal["quick", "paper"] = Field("quick", description="how many splits and ratios")
    train: int | None = Field(None, ge=2, description="training rows")
    valid: int | None = Field(None, ge=2, description="trusted validation rows")
    points: int | None = Field(None, ge=1, description="most poisoning points")
    poison: float | None = Field(None, gt=0, lt=1, description="most poison, as a share of the training set")
    batch: int | None = Field(None, ge=1, description="points crafted together; the step between ratios")
    budget: Literal["replaced", "added"] | None = Field(None, description="poison replaces rows, or is added")
    splits: int | None = Field(None, ge=1, description="random splits")
    seed: int = Field(0, ge=0, description="seed of everything random")
    policies: tuple[str, ...] | None = Field(None, min_length=1, description="how the defender sets λ")
    folds: int = Field(5, ge=2, description="folds of cross-validation")
    hyperiterations: int | None = Field(None, ge=1, description="outer steps per batch of points")
    poison_step: float | None = Field(None, gt=0, description="α, outer step size of the points")
    poison_rule: Literal["normalised", "raw", "adam"] = Field("normalised", description="outer step of the points")
    hyper_step: float | None = Field(None, gt=0, description="β, largest outer step of λ")
    hyper_rule: Literal["rprop", "decay", "constant", "raw"] = Field("rprop", description="outer step of λ")
    closing: bool = Field(True, description="close each round with λ's best response")
    select: Literal["best", "last"] = Field("best", description="keep the best round's points, or the last's")
    alternate: bool = Field(False, description="a second backward pass for λ, as Algorithm 1 is written")
    learning_rate: float | None = Field(None, gt=0, description="η, inner gradient descent")
    inner_steps: int | None = Field(None, ge=1, description="T, inner gradient descent")
    stabilise: bool = Field(True, description="cut inner steps where gradient descent would diverge")
    bounds: tuple[float, float] | None = Field(None, description="range of every feature of the poison")
    strength_bounds: tuple[float, float] | None = Field(None, description="range of λ")
    train_learning_rate: float | None = Field(None, gt=0, description="η_tr, evaluation's SGD")
    batch_size: int | None = Field(None, ge=1, description="evaluation's minibatches")
    epochs: int | None = Field(None, ge=1, description="evaluation's epochs")

    @classmethod
    def of(cls, **options: Any) -> Self:
        """Return the configuration with these options; `InputError` names the first that is wrong or unknown."""
        try:
            return cls(**options)
        except ValidationError as error:
            raise InputError(_first(error)) from None

    @classmethod
    def read(cls, path: Path) -> dict[str, Any]:
        """Return the options of a TOML file, not yet checked against the schema."""
        try:
            return tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"configuration {path} cannot be read: {error}") from None
        except tomllib.TOMLDecodeError as error:
            raise InputError(f"configuration {path} is not TOML: {error}") from None

    def filled(self, family: str) -> Self:
        """Return the configuration with every `None` replaced by what it stands for.

        `poison` has then become `points`, and a `bounds` of None is the data set's own feasible set.

        Raises `InputError` for options that contradict one another or the size of the training set.
        """
        base = SETTINGS.get(family, SETTINGS["digits"])
        own = {name: getattr(self, name) for name in type(self).model_fields}
        given = {name: value for name, value in own.items() if value is not None}
        preset = {name: getattr(base, name) for name in own if hasattr(base, name)} | {
            "inner_steps": base.steps,
            "splits": PRESETS[self.preset]["splits"],
            "policies": ("fixed=-8", base.large, "cv-clean", "learned", "cv-poisoned"),
        }
        full = own | preset | given
        if self.points is not None and self.poison is not None:
            raise InputError("points and poison are two ways to say the same; give one")
        train, share = full["train"], self.poison or MOST_POISON
        rows = train * share if full["budget"] == "replaced" else train * share / (1 - share)
        points = self.points or max(1, round(rows))
        if full["budget"] == "replaced" and points > train:
            raise InputError(f"points = {points}: more than the {train} training rows there are to replace")
        if points > full["valid"]:
            raise InputError(
                f"points = {points}: more than the {full['valid']} validation rows they are cloned from; raise valid"
            )
        batch = self.batch or math.ceil(points / PRESETS[self.preset]["ratios"])
        if batch > points:
            raise InputError(f"batch = {batch}: more than the {points} points in all")
        if len(set(full["policies"])) < len(full["policies"]):
            raise InputError(f"policies are named twice: {', '.join(full['policies'])}")
        config = type(self)(**full | {"points": points, "batch": batch, "poison": None})
        for name in ("bounds", "strength_bounds"):
            pair = getattr(config, name)
            if pair and pair[0] > pair[1]:
                raise InputError(f"{name} = {pair}: the wrong way round; give the lower bound first")
        return config

    @property
    def most_poison(self) -> float:
        """The largest audited share of poison, of a filled configuration."""
        assert self.points and self.train
        return self.points / (self.train + (self.points if self.budget == "added" else 0))


def _first(error: ValidationError) -> str:
    """Return one line: which option, its value, what is allowed."""
    fault = error.errors()[0]
    name = ".".join(map(str, fault["loc"]))
    if fault["type"] == "extra_forbidden":
        return f"unknown option {name!r}; the options are {', '.join(AuditConfig.model_fields)}"
    message = fault["msg"][0].lower() + fault["msg"][1:]
    return f"{name} = {fault['input']!r}: {message}"
