"""The chains of an audit whose victims are estimators: no derivative passes through them, they are fitted again.

A chain begins with the clean cell. Then come the shares of poison from the largest down, since what wins at one share,
and what was crafted for the largest, are candidates for those below.
"""

import hashlib
import re
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import is_regressor
from threadpoolctl import threadpool_limits

from mithridate.auditing.cells import Begun, Cell, Paused
from mithridate.auditing.chains import Chain, Chains, reason_of
from mithridate.auditing.fitting import Ended, Fitting, Scene, batch_of, failed_record, record_of
from mithridate.auditing.threat import threat_of_estimators
from mithridate.configuration.config import AuditConfig
from mithridate.configuration.parts import found, source_of, tried
from mithridate.data.datasets import Dataset, Split
from mithridate.errors import InputError, MithridateError
from mithridate.estimators.capability import Points
from mithridate.estimators.rows import Table
from mithridate.estimators.trials import Outcome
from mithridate.estimators.victims import Victim, fewest_needed, victims_of
from mithridate.execution.chains import check
from mithridate.execution.work import Pace
from mithridate.tasks.scores import check_score

SMALL = 10**6
"""The most numbers in the training rows for which one thread is enough."""
KEPT = ("kind", "name", "raw", "raw_start", "labels", "rows", "sources")
"""What is stored of points that the next cell of a chain needs."""


class Due(Exception):  # noqa: N818 (no error: an attack between two fits)
    """It is time to save how far an attack has come."""


class Refits(Chains):
    """The chains of an audit of estimators."""

    def __init__(self, data: Dataset, config: AuditConfig):
        self.victims = victims_of(config.estimators, config.policies, data.schema)
        super().__init__(data, config, [victim.name for victim in self.victims])
        raw = np.concatenate([data.x, data.test[0]]) if data.test else data.x
        if data.schema:
            self.table = Table.within(data.schema, np.asarray(raw, dtype=np.float64))
            self.labels = np.array(data.schema.target.categories)
        else:
            self.table = Table.of(raw / data.divisor, data.bounds)
            self.labels = np.arange(len(data.classes))
        self._scenes: dict[int, Scene] = {}
        self._fittings: dict[tuple[int, int], Fitting] = {}

    @property
    def order(self) -> Sequence[int]:
        """The clean cell, then the ratios from the largest down."""
        return [0, *range(self.ratios - 1, 0, -1)]

    @property
    def counts(self) -> list[int]:
        """The number of points at each ratio but the clean one."""
        return [min(ratio * self.config.batch, self.config.points) for ratio in range(1, self.ratios)]

    def scene(self, index: int) -> Scene:
        """Return split `index`, made once; raises `InputError`."""
        if index not in self._scenes:
            self._scenes[index] = Scene.of(self.data, self.table, self.config, index, self.labels)
        return self._scenes[index]

    def fitting(self, index: int, number: int) -> Fitting:
        """Return a victim on a split, made once.

        It is given the labels of the data, or else the numbers of the classes: some estimators take no others. Raises
        `InputError` if it can be fitted on the clean rows of the first split with neither.
        """
        if (index, number) not in self._fittings:
            victim, scene = self.victims[number], self.scene(index)
            if index:
                scene = scene.labelled(self.fitting(0, number).scene.fold.classes)
                self._fittings[index, number] = Fitting(scene, victim)
            else:
                kinds = (self.labels, np.arange(len(self.labels)))
                self._fittings[index, number] = _fitted([Fitting(scene.labelled(kind), victim) for kind in kinds])
        return self._fittings[index, number]

    def check(self) -> None:
        """Fit each victim once on the clean rows of the first split; raises `InputError`."""
        check(self.config.execution)
        check_score(self.config.score, len(self.data.classes))
        for index in range(self.config.splits):
            scene = self.scene(index)
            for rows in (scene.valid, scene.test):
                scene.harm.aimed(rows)
            fewest = int(np.bincount(scene.fold.labels, minlength=len(self.labels)).min())
            for victim in self.victims:
                if fewest < (needed := fewest_needed(victim.estimator)):
                    raise InputError(
                        f"estimator {victim.model}: its search holds out {needed} folds, and a class has {fewest} "
                        "training rows; use fewer folds (cv), or more training rows (train)"
                    )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for number, victim in enumerate(self.victims):
                if is_regressor(victim.estimator):
                    raise InputError(
                        f"estimator {victim.model}: it is a regressor, and the target holds classes; give a classifier"
                    )
                own = self.fitting(0, number)
                tried(f"estimator {victim.model}", "scoring it on the clean rows of the first split", own.nothing)

    def digest(self) -> str:
        """Return the SHA-256 of the data and of the estimators' parameters and code."""
        told = hashlib.sha256(self.data.digest().encode())
        for part in self.config.estimators:
            told.update(source_of(found("estimator", part)).encode())
        for victim in self.victims:
            parameters = sorted(victim.estimator.get_params(deep=True).items(), key=lambda pair: pair[0])
            told.update(re.sub("0x[0-9a-f]+", "", repr((victim.name, parameters))).encode())
        return told.hexdigest()

    def run(self, chain: Chain, pace: Pace) -> Iterator[Begun | Cell | Paused]:
        """Compute what is missing of a chain, to its end or until it is asked to stop."""
        at, cells = (chain.split, chain.policy), dict(chain.cells)
        for ratio in [ratio for ratio in self.order if self.missing(chain, ratio)]:
            if pace.stopped():
                return
            yield Begun(*at, ratio)
            paused = chain.paused if chain.paused and chain.paused.ratio == ratio else None
            began, earlier = time.perf_counter(), paused.seconds if paused else 0.0
            known = _known(paused)
            try:
                with warnings.catch_warnings(), self.threads():
                    warnings.simplefilter("ignore")
                    while (cell := self._cell(at, ratio, cells, known, pace)) is None:
                        spent = earlier + time.perf_counter() - began
                        scores, wrong = (np.array(part) for part in zip(*known, strict=True))
                        yield Paused(*at, ratio, (), spent, {"scores": scores, "wrong": wrong})
                        if pace.stopped():
                            return
            except MithridateError:
                raise
            except Exception as error:  # noqa: BLE001 (whatever it was, the other chains go on, and the record says it)
                for failed in self.failed(chain, ratio, reason_of(error)):
                    spent, began = time.perf_counter() - began, time.perf_counter()
                    yield failed._replace(record=replace(failed.record, seconds=spent))
                return
            record = replace(cell.record, seconds=earlier + time.perf_counter() - began)
            cells[ratio] = cell = cell._replace(record=record)
            yield cell

    def threads(self) -> AbstractContextManager[Any]:
        """Return the context in which linear algebra takes one thread for rows so few that more threads only wait."""
        small = self.config.train * len(self.table.schema.columns) <= SMALL
        return threadpool_limits(1) if small else nullcontext()

    def _cell(
        self, at: tuple[int, int], ratio: int, cells: Mapping[int, Cell], known: list[Outcome], pace: Pace
    ) -> Cell | None:
        """Return a cell; None if it is time to save what was tried so far."""
        fitting = self.fitting(*at)

        def tick() -> None:
            if pace.due():
                raise Due

        if not ratio:
            return self._made(at, ratio, [fitting.nothing()], 0, 0, {})
        largest, above = cells.get(self.ratios - 1), cells.get(ratio + 1)
        crafted = None if largest is None else [self._points(at, largest.extra, name) for name in _crafted(largest)]
        won = [] if above is None else [self._points(at, above.extra, "won")]
        count = self.counts[ratio - 1]
        try:
            ended, made, fits = fitting.attacked(self.counts, count, crafted, won, known, tick)
        except Due:
            return None
        extra = _stored("won", ended[0].points)
        if largest is None:
            for number, points in enumerate(made):
                extra |= _stored(f"crafted{number}", points)
            extra["contribution"] = fitting.contributions(ended[0].points)
        return self._made(at, ratio, ended, count, fits, extra)

    def _made(
        self,
        at: tuple[int, int],
        ratio: int,
        ended: Sequence[Ended],
        count: int,
        fits: int,
        extra: Mapping[str, np.ndarray],
    ) -> Cell:
        scene, victim = self.fitting(*at).scene, self.victims[at[1]]
        record, *others = (record_of(scene, victim, one, count, fits) for one in ended)
        kinds: dict[str, Any] = {}
        for one in others:
            if one.attack != record.attack:
                kinds.setdefault(one.attack, one)
        return Cell(*at, ratio, record, batch_of(scene, ended[0]), (), tuple(kinds.values()), extra)

    def size(self, chain: Chain) -> float:
        """Return how many cells a chain has left."""
        return float(sum(self.missing(chain, ratio) for ratio in self.order))

    def failed_cell(self, chain: Chain, ratio: int, reason: str) -> Cell:
        """Return the cell of a chain that could not be computed."""
        points = self.counts[ratio - 1] if ratio else 0
        record = failed_record(self.scene(chain.split), self.victims[chain.policy], points, reason)
        return Cell(chain.split, chain.policy, ratio, record, None)

    def split(self, index: int) -> Split:
        """Return the rows of a split."""
        return self.scene(index).split

    def dataset(self) -> dict[str, Any]:
        """Return what a result says of the data, whose features are the table's columns.

        `categories`: of columns of texts, what the numbers 0, 1, … in poison/*.npz stand for.
        """
        names = [column.name for column in self.table.schema.columns]
        told = {column.name: list(column.labels) for column in self.table.schema.columns if column.categories}
        return super().dataset() | {"features": len(names), "feature_names": names, "categories": told}

    def described(self) -> dict[str, dict[str, Any]]:
        """Return what a result says of each defender: see `AuditResult`."""
        return {one.name: {"fixed": one.fixed, "words": one.words(), "bounds": None} for one in self.victims}

    def threat_model(self) -> dict[str, str]:
        """Return what the attacker knows, controls and may change, in plain words."""
        fits = max(sum(self.fitting(0, number).planned(self.counts)) for number in range(len(self.victims)))
        data = self.data
        return threat_of_estimators(self.config, data.classes, self.victims, fits, data.schema, data.unkept)

    def poison(self, index: int, number: int, cells: Sequence[Cell]) -> dict[str, np.ndarray]:
        """Return the points of each ratio as the table's raw numbers, those of the largest under the plain names."""
        scene, own = self.scene(index), [cell for cell in cells if cell.batch]
        added, arrays = self.config.budget == "added", {}
        for place, cell in enumerate(own):
            batch: Any = cell.batch
            end = "" if cell is own[-1] else f"_{place}"
            arrays |= {
                f"x_start{end}": batch.x_start,
                f"x_poison{end}": batch.x_poison,
                f"y_poison{end}": batch.y_poison.astype(np.int8),
                f"replaced{end}": batch.places[:0] if added else batch.places.astype(int),
            }
        extra, places = own[-1].extra, arrays["replaced"]
        before = _labels_of(arrays["x_start"], scene) if added else scene.fold.labels[places]
        columns, split = len(self.table.schema.columns), scene.split
        return arrays | {
            "y_start": before.astype(np.int8),
            "replaced_rows": split.train_rows[places],
            "counts": np.array([cell.record.n_poison for cell in own]),
            "log_strength": np.full((len(own), 1), np.nan),
            "history": np.empty(0, np.float32),
            "train_rows": split.train_rows,
            "valid_rows": split.valid_rows,
            "test_rows": split.test_rows,
            "offset": np.zeros(columns, np.float32),
            "scale": np.ones(columns, np.float32),
            **({"contribution": extra["contribution"]} if "contribution" in extra else {}),
        }

    def rows(self, index: int, poison: Mapping[str, np.ndarray]) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return the points of one chain, at their start and at their end, as rows of the user's own table."""
        schema = self.table.schema
        ends = []
        known = np.where(poison["y_start"] < 0, poison["y_poison"], poison["y_start"])
        for cells, labels in (("x_start", known), ("x_poison", poison["y_poison"])):
            frame = self.table.written(poison[cells]).assign(
                **{schema.target.name: schema.target.written(labels.astype(float)).to_numpy()}
            )
            ends.append(frame[[name for name in schema.order if name in frame]])
        return ends[0], ends[1]

    def _points(self, at: tuple[int, int], extra: Mapping[str, np.ndarray], name: str) -> Points:
        """Return points as they were stored."""
        kind, title, raw, raw_start, labels, rows, sources = (extra[f"{name}_{part}"] for part in KEPT)
        cells, start = self.table.written(raw), self.table.written(raw_start)
        places = None if self.config.budget == "added" else rows
        return Points(str(kind), str(title), cells, raw, start, raw_start, labels, places, sources)


def _fitted(ways: Sequence[Fitting]) -> Fitting:
    """Return the first of these that can be fitted on clean rows. Raises `InputError`, for the reason of the first."""
    first: Exception | None = None
    for way in ways:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                _ = way.clean
        except Exception as error:  # noqa: BLE001 (it is the user's code)
            first = first or error
        else:
            return way
    assert first is not None
    raise InputError(_unfit(ways[0].victim, first)) from first


def _stored(name: str, points: Points) -> dict[str, np.ndarray]:
    """Return points as arrays, see `Refits._points`."""
    rows = np.empty(0, dtype=int) if points.rows is None else points.rows
    values = (points.kind, points.name, points.raw, points.raw_start, points.labels, rows, points.sources)
    return {f"{name}_{part}": np.asarray(value) for part, value in zip(KEPT, values, strict=True)}


def _labels_of(raw: np.ndarray, scene: Scene) -> np.ndarray:
    """Return the labels (k,) of the training or validation rows that are equal to raw rows, −1 where none is."""
    trusted: Any = scene.fold.trusted
    rows, labels = (np.concatenate(parts) for parts in zip(trusted, (scene.fold.raw, scene.fold.labels), strict=True))
    known = {row.tobytes(): label for row, label in zip(rows, labels, strict=True)}
    return np.array([known.get(row.tobytes(), -1) for row in np.asarray(raw, np.float64)], dtype=int)


def _crafted(cell: Cell) -> list[str]:
    """Return the names of the points that were crafted in a cell, in their order."""
    many = sum(bool(re.fullmatch(r"crafted\d+_kind", name)) for name in cell.extra)
    return [f"crafted{number}" for number in range(many)]


def _known(paused: Paused | None) -> list[Outcome]:
    """Return what an attack had tried when it paused."""
    if paused is None:
        return []
    return [Outcome(*one) for one in zip(paused.extra["scores"].tolist(), paused.extra["wrong"], strict=True)]


def _unfit(victim: Victim, error: Exception) -> str:
    """Return what is wrong with an estimator that cannot be fitted on the clean rows, and what may mend it."""
    said = str(error).strip().partition("\n")[0]
    remedy = ""
    if "NaN" in str(error) or "missing" in said:
        remedy = "; put a SimpleImputer before it in a Pipeline, or fill in empty cells by missing = impute"
    elif "could not convert string" in str(error) or "dtype" in said:
        remedy = "; turn texts into numbers before it, by a ColumnTransformer with a OneHotEncoder in a Pipeline"
    name = f"estimator {victim.model}"
    return f"{name}: fitting it on the clean rows of the first split failed: {type(error).__name__}: {said}{remedy}"
