"""The experiments of Sect. 5. Each is a set of audits from which several figures are drawn.

Fig. 2, 5 and 7 show one study, logistic regression on three data sets. Fig. 3, 6 and 8 show another, a network on
ImageNet features. An audit is computed once per process, when the first figure needs it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from mithridate.auditing.audit import Progress, audit
from mithridate.configuration.config import AuditConfig
from mithridate.configuration.presets import setting
from mithridate.data.catalogue import load_dataset
from mithridate.data.downloads import at_hand
from mithridate.errors import InputError
from mithridate.reproduction.effects import CLEAN, LEARNED, SMALL
from mithridate.reproduction.outcome import Claim, Reproduction
from mithridate.results.results import AuditResult

KEYS = ["dataset", "split", "policy", "n_poison", "ratio"]
"""The key columns of every figure's frame."""
PAPERS = ("mnist-0v8", "fashion-mnist-0v2", "dogfish")
"""The data sets of Table 1."""
FEATURES = ("dogfish", "springer-tench")
"""The ImageNet data set, and the one that replaces it if its files are missing."""
LAYERS = {1: "first hidden layer", 2: "second hidden layer", 3: "output layer"}
"""The paper's names for the layers of its network."""
SET = ("model", "policies")
"""The options of an audit that define a study and cannot be changed."""
_DONE: dict[AuditConfig, AuditResult] = {}


@dataclass(frozen=True)
class Study:
    """The audits that make up an experiment of the paper.

    `model`; `tuned`: the policies besides the small and the large fixed λ; `images`: the data sets besides the ImageNet
    one; `quick`: for each data set, the options of the quick preset that differ from the paper's settings.
    """

    model: str
    tuned: tuple[str, ...]
    images: tuple[str, ...] = ()
    quick: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def datasets(self) -> tuple[str, ...]:
        """Return the data sets, with the first of `FEATURES` that is available."""
        paper, other = FEATURES
        return (*self.images, paper if at_hand(paper) else other)

    def config(self, dataset: str, preset: str, **options: Any) -> AuditConfig:
        """Return the configuration of one data set's audit. Raises `InputError` for an option of `SET`."""
        if given := sorted(options.keys() & set(SET)):
            raise InputError(f"the figure sets {', '.join(given)} itself; leave them out")
        base = setting(dataset, self.model)
        policies = (SMALL, base.large, *self.tuned)
        shorter = self.quick.get(dataset, {}) if preset == "quick" else {}
        given = {name: value for name, value in options.items() if value is not None}
        own = {"dataset": dataset, "model": self.model, "policies": policies, "preset": preset}
        own |= {"attack": "bilevel", "budget": base.budget}
        return AuditConfig.of(**own, **dict(shorter) | given)


LOGISTIC = Study(
    "logistic",
    (CLEAN, LEARNED),
    images=("mnist-0v8", "fashion-mnist-0v2"),
    quick={
        "mnist-0v8": {"splits": 5},
        "fashion-mnist-0v2": {"splits": 5},
        **{name: {"splits": 5, "joint_hyperiterations": 100} for name in FEATURES},
    },
)
"""Sect. 5.1."""

_SHORTER = {
    "train": 256,
    "valid": 256,
    "hyperiterations": 40,
    "joint_hyperiterations": 40,
    "learning_rate": 0.075,
    "inner_steps": 80,
    "train_learning_rate": 8e-4,
    "epochs": 1000,
}
NETWORK = Study("mlp", (LEARNED,), quick=dict.fromkeys(FEATURES, _SHORTER))
"""Sect. 5.2. The quick preset takes fewer and longer steps with the same η·T, on half of the rows."""


@dataclass(frozen=True)
class Remade:
    """A figure of a study, reproduced when called.

    `frame` makes the figure's plain numbers from the audits' results; `claims` and `draw` need only that frame; `text`
    begins the caption, with {splits} for the number of splits.
    """

    name: str
    study: Study
    frame: Callable[[Sequence[AuditResult]], pd.DataFrame]
    claims: Callable[[pd.DataFrame], list[Claim]]
    draw: Callable[[pd.DataFrame], Figure]
    text: str

    def __call__(
        self,
        dataset: str | None = None,
        *,
        preset: str = "quick",
        splits: int | None = None,
        seed: int = 0,
        on_progress: Callable[[Progress], None] = lambda progress: None,
        **options: Any,
    ) -> Reproduction:
        """Return the figure for these data sets (names separated by commas), or for all of the study's.

        Arguments: `preset`, quick or paper; `splits`, another number of splits; `seed`; `on_progress` as in `audit`;
        `options`, fields of `AuditConfig` except those of `SET`. Raises `InputError` or `DataError` before anything is
        computed.
        """
        names = self.study.datasets() if dataset is None else tuple(dict.fromkeys(dataset.split(",")))
        configs = [self.study.config(name, preset, splits=splits, seed=seed, **options) for name in names]
        results = audited(configs, on_progress)
        frame = self.frame(results)
        papers = [self.study.config(name, "paper") for name in names]
        said = {"audits": [result.config for result in results], "versions": results[0].versions}
        text = self.text.format(splits=frame["split"].nunique())
        caption = "\n".join([text, *map(_described, results, configs, papers), _made(results)])
        return Reproduction(self.name, frame, tuple(self.claims(frame)), caption, said, self.draw(frame))


def audited(configs: Sequence[AuditConfig], on_progress: Callable[[Progress], None]) -> list[AuditResult]:
    """Return the audits' results; audits that this process has computed before are not computed again."""
    missing = [config for config in configs if config not in _DONE]
    data = [load_dataset(config.dataset) for config in missing]
    cells = [config.splits * len(config.policies) * (1 + -(-config.points // config.batch)) for config in missing]
    for i, config in enumerate(missing):

        def told(at: Progress, i: int = i) -> None:
            on_progress(Progress(sum(cells[:i]) + at.done, sum(cells), f"{missing[i].dataset} · {at.running}"))

        _DONE[config] = audit(data[i], config, on_progress=told)
    return [_DONE[config] for config in configs]


def records(results: Sequence[AuditResult], *columns: str) -> pd.DataFrame:
    """Return `KEYS`, these columns and the status of every cell, one row per data set, split, policy and ratio."""
    return pd.concat([result.frame[[*KEYS, *columns, "status"]] for result in results], ignore_index=True)


def by_layer(results: Sequence[AuditResult]) -> pd.DataFrame:
    """Return one row per data set, split, policy, ratio and layer: `layer` counts from 1.

    `log_strength`, the layer's λ, and `weight_norm`, its ‖w‖²/d; `test_error` is the model's, in every layer's row.
    """
    columns = ["test_error", "log_strengths", "weight_norms"]
    wide = records(results, *columns)
    layers = wide["weight_norms"].map(len)
    # A single λ is the λ of every layer.
    wide["log_strengths"] = [[*own] * (n // len(own)) for own, n in zip(wide["log_strengths"], layers, strict=True)]
    long = wide.explode(columns[1:])
    long.insert(len(KEYS), "layer", long.groupby(level=0).cumcount() + 1)
    long = long.rename(columns={"log_strengths": "log_strength", "weight_norms": "weight_norm"})
    return long.astype({"log_strength": float, "weight_norm": float}).reset_index(drop=True)


def _described(result: AuditResult, config: AuditConfig, paper: AuditConfig) -> str:
    """Return what was run on one data set, the differences from Tables 1 to 3, and the warnings."""
    said = [
        f"{config.dataset}: {config.train} training and {config.valid} validation rows, {config.points} points in "
        f"batches of {config.batch}, poison {config.budget}; λ learned within [{config.strength_bounds[0]:g}, "
        f"{config.strength_bounds[1]:.3g}]."
    ]
    if config.dataset not in PAPERS:
        said.append("This is not the paper's data.")
    changed = [
        f"{name} {_plain(getattr(config, name))} ({_plain(getattr(paper, name))})"
        for name in AuditConfig.model_fields
        if name not in ("preset", "seed") and getattr(config, name) != getattr(paper, name)
    ]
    said.append(
        f"Differences from the paper (its values in brackets): {', '.join(changed)}."
        if changed
        else "As in Tables 1 to 3."
    )
    steps = result.frame.groupby("policy", sort=False)["inner_steps"].first()
    if cut := [f"{policy} T = {T}" for policy, T in steps.items() if config.inner_steps != T]:
        product = config.learning_rate * config.inner_steps
        said.append(f"Inner steps were cut where they would diverge, η·T = {product:g} as before: {', '.join(cut)}.")
    return " ".join([*said, *(f"Warning: {warning}." for warning in result.verdict.warnings)])


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _made(results: Sequence[AuditResult]) -> str:
    config = results[0].config
    versions = ", ".join(f"{name} {version}" for name, version in results[0].versions.items())
    return (
        f"Outer steps: points by the rule {config['poison_rule']!r}, λ by the rule {config['hyper_rule']!r}"
        + (", each round closed with λ's best response" if config["closing"] else "")
        + f"; see docs/method.md. Seed {config['seed']}, {config['precision']}. Versions: {versions}"
    )
