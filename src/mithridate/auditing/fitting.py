"""One split of an audit of estimators, and one victim there: fitted, attacked and measured."""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import clone

from mithridate.attacks.poison import Batch
from mithridate.auditing.assembly import objective_on
from mithridate.auditing.scenario import to_come
from mithridate.configuration.config import AuditConfig
from mithridate.configuration.objective import parse_objective
from mithridate.data.datasets import Dataset, Split
from mithridate.defences.policies import Learned
from mithridate.estimators.capability import Capability, Fold, Points
from mithridate.estimators.crafting import Plan, check_surrogate
from mithridate.estimators.explaining import GROUPS, contributions
from mithridate.estimators.geometry import own_space, quick
from mithridate.estimators.harm import Harm, Labelled, Measures, measured
from mithridate.estimators.kernels import Kernels
from mithridate.estimators.rows import Table, take, with_points
from mithridate.estimators.search import PARTS, Found, Search
from mithridate.estimators.trials import FAILED, HeldOut, Journal, Outcome
from mithridate.estimators.tuned import settled, tuned_hyperparameters
from mithridate.estimators.victims import Victim
from mithridate.results.intervals import Shared
from mithridate.results.records import NOISE, Record
from mithridate.seeds import seed_of
from mithridate.tasks.scores import telling_nothing

FITS = {True: 720, False: 240}
"""How often the attacker fits a victim in a split, by whether it is quick to fit."""
FINALISTS = {True: (3, 2), False: (2, 1)}
"""How many candidates are measured on the defender as he is, beside the best of each kind: of all, and of those without
optimisation; by whether he is quick to fit."""
KINDS = {"labels": 4, "both": 6, "features": 6}
"""The number of kinds, by what may be edited: random, class, kernel and grown flips; transferred and moved rows."""
STEPS = 60
"""The steps of crafting on a surrogate, for each batch of points."""


@dataclass(frozen=True)
class Scene:
    """Split `index` of an audit of estimators; `fold`, its training rows; `seed` of all that is drawn there."""

    config: AuditConfig
    index: int
    split: Split
    fold: Fold
    valid: Labelled
    test: Labelled
    harm: Harm
    shared: Shared
    n_goal: float
    seed: int

    @classmethod
    def of(cls, data: Dataset, table: Table, config: AuditConfig, index: int, classes: np.ndarray) -> "Scene":
        """Return it, with the labels of `classes` for the estimator; `table`, the rows of the data's table.

        Raises `InputError` for what cannot be used.
        """
        split = data.split(config.train, config.valid, config.seed, index)
        seed = seed_of(config.seed, data.name, index, "estimators") % 2**31
        train, valid, test = (_places(data, split, part) for part in ("train", "valid", "test"))
        cells, labels = take(table.cells, train), split.y_train.astype(int)
        trusted = table.raw[valid], split.y_valid.astype(int)
        fold = Fold(table, cells, table.raw[train], labels, classes, seed, trusted)
        kind, what = parse_objective(config.objective, split.classes)
        aim = dict(zip(("target", "wanted"), what, strict=False)) if kind != "indiscriminate" else {}
        shares = to_come(data, split)
        objective = objective_on(config, split, str(seed), shares)
        n, n_test = len(data.y), len(split.y_test)
        return cls(
            config,
            index,
            split,
            fold,
            Labelled(take(table.cells, valid), trusted[1]),
            Labelled(take(table.cells, test), split.y_test.astype(int)),
            Harm(classes, shares, config.score, **aim),  # pyright: ignore[reportArgumentType]
            Shared(len(split.y_train) / n, 0.0 if data.test else n_test / n, n_test),
            objective.goal_scoring.rows(objective.goal[1]),
            seed,
        )

    @property
    def of_fold(self) -> Labelled:
        """The training rows."""
        return Labelled(self.fold.cells, self.fold.labels)

    def labelled(self, classes: np.ndarray) -> "Scene":
        """Return the same with other labels for the estimator."""
        fold, harm = replace(self.fold, classes=classes), replace(self.harm, classes=classes)
        return replace(self, fold=fold, harm=harm)


def _places(data: Dataset, split: Split, part: str) -> np.ndarray:
    """Return the places of a split's rows in the pool, after which official test rows come."""
    numbers = getattr(split, f"{part}_rows")
    rows, begin = (data.test[2], len(data.y)) if part == "test" and data.test else (data.rows, 0)
    order = np.argsort(rows, kind="stable")
    return begin + order[np.searchsorted(rows, numbers, sorter=order)]


class Ended(NamedTuple):
    """Points that were tried to the end: on the defender as he is, measured on all rows."""

    points: Points
    measures: Measures
    tuned: str
    seconds: float


class Measuring:
    """Trials of the defender as he is: fitted on the whole poisoned fold, his search included, and measured.

    What counts is the harm on all rows that the attacker sees: on the validation rows, and on training rows that are
    held out in other parts (`anew`) than those by which the points were found. `fixed`: what was tuned on clean rows.
    """

    def __init__(self, estimator: Any, scene: Scene, anew: HeldOut, fixed: str = ""):
        self.estimator, self.scene, self.anew, self.fixed = estimator, scene, anew, fixed
        self.ended: list[Ended] = []
        self.failed: Exception | None = None

    def outcome(self, points: Points, parts: int | None = None) -> Outcome:
        """Return the outcome of the poison."""
        scene, began = self.scene, time.perf_counter()
        fitted: Any = clone(self.estimator)
        try:
            fitted.fit(*scene.fold.poisoned(points))
            found, held = measured(fitted, scene.harm, scene.valid, scene.test), self.anew.outcome(points)
        except Exception as error:  # noqa: BLE001 (it is the user's code; other points may do)
            self.failed = error
            return Outcome(FAILED, np.zeros(len(scene.fold.labels)))
        sizes = [len(scene.harm.aimed(rows).labels) for rows in (scene.valid, scene.of_fold)]
        seen = float(np.average([found.target_success, 1 - held.score], weights=sizes))
        found = found._replace(target_success=seen)
        self.ended.append(Ended(points, found, self.fixed or told(fitted), time.perf_counter() - began))
        return Outcome(1 - seen, held.wrong)


def told(fitted: Any) -> str:
    """Return what a fitted estimator has tuned, as JSON."""
    return json.dumps(tuned_hyperparameters(fitted, whole=True), default=str, ensure_ascii=False)


class Fitting:
    """A victim on one split: what is fitted of it once, and the attacks on it."""

    def __init__(self, scene: Scene, victim: Victim):
        self.scene, self.victim = scene, victim.seeded(scene.seed)
        self._crafted: dict[bytes, list[Points]] = {}

    @cached_property
    def clean(self) -> Any:
        """The victim fitted on the clean rows."""
        fold: Fold = self.scene.fold
        own: Any = clone(self.victim.estimator)
        return own.fit(fold.cells, fold.classes[fold.labels])

    @cached_property
    def fits(self) -> int:
        """How often the attacker fits it in a split."""
        return self.scene.config.fits or FITS[quick(self.clean)]

    def nothing(self) -> Ended:
        """Return the clean fit, measured; no points."""
        scene, began = self.scene, time.perf_counter()
        points = scene.fold.unchanged(np.empty(0, dtype=int), Capability(*_capability(scene.config)))
        found = measured(self.clean, scene.harm, scene.valid, scene.test)
        return Ended(points, found, told(self.clean), time.perf_counter() - began)

    def attacked(
        self,
        counts: Sequence[int],
        count: int,
        crafted: Sequence[Points] | None,
        won: Sequence[Points],
        tried: list[Outcome],
        tick: Callable[[], None],
    ) -> tuple[list[Ended], Sequence[Points], int]:
        """Return all that was tried to the end with `count` points, the worst first, what was crafted, and the fits.

        `counts`, the number of points at each share; `crafted` and `won` as in `Search.found`, `tried` and `tick`
        as in `Journal`.
        """
        search, journal, anew = self._search(counts, tried, tick)
        found: Found = search.found(count, self._remembered(search), crafted, won)
        if not anew.ended and anew.failed:
            raise anew.failed
        order = {id(points): place for place, points in enumerate(found.finalists)}
        fits = journal.fits + len(anew.ended) * (1 + anew.anew.parts)
        return sorted(anew.ended, key=lambda one: order[id(one.points)]), found.crafted, fits

    def planned(self, counts: Sequence[int]) -> tuple[int, int]:
        """Return how often a split fits the estimator by itself, and how often as the defender does, at most."""
        search, _, anew = self._search(counts, [], lambda: None)
        ended = sum(search.finalists) + KINDS[self.scene.config.edits] - 2
        fits = sum(search.most_fits(count, self.crafts + (count != max(counts))) for count in counts)
        fits += len(counts) * ended * anew.anew.parts + GROUPS + 1
        return fits, len(counts) * ended + 1

    def trying(self, counts: Sequence[int]) -> tuple[HeldOut, Measuring, Points]:
        """Return the trials of the estimator by itself, of the defender, and random flips to try them with."""
        search, journal, anew = self._search(counts, [], lambda: None)
        return journal.trials, anew, search.random(max(counts))

    @property
    def crafts(self) -> int:
        """How many sets of points are crafted on surrogates in a split."""
        return 0 if self.scene.config.edits == "labels" else 4 * len(self.scene.config.surrogates)

    def contributions(self, points: Points) -> np.ndarray:
        """Return how much of the harm on the validation rows each point does (k,), see `contributions`."""
        scene, final = self.scene, settled(self.clean)
        aimed = scene.harm.aimed(scene.valid)

        def harm(own: Points) -> float:
            fitted: Any = clone(final)
            fitted.fit(*scene.fold.poisoned(own))
            return scene.harm.of(fitted, aimed, scene.harm.shares)

        return contributions(points, scene.fold, harm, scene.seed)

    @cached_property
    def _kernels(self) -> Kernels:
        """What the attacker sees, and what imitates the victim."""
        scene, fold, valid = self.scene, self.scene.fold, self.scene.valid
        n, v = len(fold.labels), len(valid.labels)
        own = own_space(self.clean, with_points(fold.cells, valid.cells, np.arange(n + v)), scene.seed)
        spaces = (None, None) if own is None else (own[:n], own[n:])
        x_valid = fold.encoder.transform(fold.trusted[0]) if fold.trusted else fold.view.x[:0]
        view, trusted = fold.view._replace(own=spaces[0]), (x_valid, spaces[1], valid.labels)
        return Kernels(view, trusted, scene.harm.importance, scene.harm.wanted, scene.seed)

    def _search(
        self, counts: Sequence[int], tried: list[Outcome], tick: Callable[[], None]
    ) -> tuple[Search, Journal, Measuring]:
        """Return the search for the worst poison, what it tries, and what measures its finalists."""
        scene, plain = self.scene, settled(self.clean)
        judged = scene.harm.judged, scene.fold, PARTS
        held, fixed = HeldOut(plain, *judged, [scene.seed]), told(self.clean) if self.victim.fixed else ""
        anew = Measuring(self.victim.fitted_for(self.clean), scene, held, fixed)
        journal = Journal(HeldOut(plain, *judged, [None], scene.valid), tried, tick)
        search = Search(
            scene.fold,
            self._plan(counts),
            self._kernels.view,
            self._kernels,
            journal,
            anew,
            max(self.fits // len(counts), 4),
            FINALISTS[quick(self.clean)],
            each=True,
        )
        return search, journal, anew

    def _remembered(self, search: Search) -> Callable[[Points], list[Points]]:
        """Return what crafts points, once for the same beginning: an attack that pauses begins again."""

        def craft(best: Points) -> list[Points]:
            at = best.raw.tobytes() + best.labels.tobytes()
            if at not in self._crafted:
                self._crafted[at] = search.transfers(best, self.scene.config.surrogates)
            return self._crafted[at]

        return craft

    def _plan(self, counts: Sequence[int]) -> Plan:
        config, fold = self.scene.config, self.scene.fold
        wide = any(check_surrogate(surrogate) for surrogate in config.surrogates)
        capability = Capability(*_capability(config))
        return Plan(
            schema=fold.table.schema,
            n_classes=len(fold.classes),
            rows=len(fold.labels),
            counts=tuple(counts),
            batch=config.batch,
            surrogate=config.surrogates[0],
            policy=Learned(),
            capability=capability,
            fits=None,
            steps=STEPS,
            wide=wide,
        )


def _capability(config: AuditConfig) -> tuple[Any, Any]:
    return config.budget, config.edits


def record_of(scene: Scene, victim: Victim, one: Ended, count: int, fits: int) -> Record:
    """Return the record of points that were tried to the end, at most `count`; `fits`, how often was fitted for it."""
    measures, known = one.measures, _whose(scene, victim, count)
    shown = measures.test_error if known["score"] == "error" else measures.attack_success
    constant = shown >= known["constant_error"] - NOISE
    return Record(
        **known,
        **measures._asdict(),
        attack=one.points.kind if len(one.points.labels) else "portfolio",
        begun=one.points.name if len(one.points.labels) else "",
        attack_loss=measures.target_success,
        log_strength=math.nan,
        log_strengths=[math.nan],
        best_log_strengths=[math.nan],
        weight_norm_sq=math.nan,
        weight_norms=[math.nan],
        status="constant" if constant else "ok",
        reason="",
        seconds=one.seconds,
        tuned=one.tuned,
        fits=fits,
    )


def failed_record(scene: Scene, victim: Victim, points: int, reason: str) -> Record:
    """Return the record of a cell that could not be computed."""
    k = len(scene.fold.classes)
    lengths = {"fprs": k, "fnrs": k, "weight_norms": 1, "log_strengths": 1, "best_log_strengths": 1}
    known = _whose(scene, victim, points) | {"attack": "portfolio", "begun": "", "tuned": "{}", "fits": 0}
    return Record.failed(reason, lengths, **known)


def batch_of(scene: Scene, one: Ended) -> Batch:
    """Return the points as a cell stores them, their cells as the table's raw numbers."""
    points, fold = one.points, scene.fold
    before = points.raw_start if points.rows is None else fold.raw[points.rows]
    rows = np.arange(len(points.labels)) + len(fold.labels) if points.rows is None else points.rows
    unknown = np.array([math.nan])
    return Batch(
        *(points.kind, points.name, before, points.raw, points.labels, rows, unknown, unknown),
        *(math.nan, one.measures.target_success, one.measures.target_success, math.nan, np.empty(0), np.empty(0, "U1")),
    )


def _whose(scene: Scene, victim: Victim, points: int) -> dict[str, Any]:
    """Return what is known of a cell before it is computed."""
    config, n = scene.config, len(scene.fold.labels)
    rows = n + points * (config.budget == "added")
    return {
        "dataset": config.dataset,
        "model": victim.model,
        "loss": "",
        "penalty": "",
        "task": "classification",
        "split": scene.index,
        "policy": victim.name,
        "defence": "none",
        "objective": config.objective,
        "score": config.score,
        "budget": config.budget,
        "edits": config.edits,
        "n_train": rows,
        "n_test": scene.shared.n_test,
        "shared_train": scene.shared.train,
        "shared_test": scene.shared.test,
        "n_goal": scene.n_goal,
        "shared_goal": scene.shared.test,
        "n_poison": points,
        "ratio": points / rows,
        "constant_error": float(telling_nothing(config.score, scene.split.y_test)),
        "inner_steps": 0,
        "space": "",
    }
