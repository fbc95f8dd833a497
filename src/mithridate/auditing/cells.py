"""The cells of an audit, as they are computed and as they are stored: as plain arrays, without anything executable.

A cell is one split, policy and ratio. The cells of one split and policy are a chain: every cell depends on the cell
before it.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
from pydantic import TypeAdapter

from mithridate.attacks.poison import Answered, Batch, Midway
from mithridate.files.limits import check_plain
from mithridate.results.records import Record

_RECORD = TypeAdapter(Record)
_NAME = re.compile(r"split(\d{1,6})-policy(\d{1,6})-(?:ratio(\d{1,6})|midway)")


class Begun(NamedTuple):
    """A cell whose computation starts now. Splits, policies and ratios are numbered from 0."""

    split: int
    policy: int
    ratio: int


class Cell(NamedTuple):
    """A cell that is finished or failed (see `record.status`).

    `record`: the audited attack's; `others`: those of the attacks that it is compared with. `weights`: the victim's,
    layer by layer, flat, where the result keeps them. `extra`: what the next cell of the chain needs besides.
    """

    split: int
    policy: int
    ratio: int
    record: Record
    batch: Batch | None
    weights: tuple[np.ndarray, ...] = ()
    others: tuple[Record, ...] = ()
    extra: Mapping[str, np.ndarray] = {}

    @property
    def name(self) -> str:
        """The cell's name in a store."""
        return f"split{self.split}-policy{self.policy}-ratio{self.ratio}"

    @property
    def failed(self) -> bool:
        """Whether the cell failed and is to be tried again."""
        return "failed" in self.record.status.split("+")

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the cell as arrays, by name."""
        values = [asdict(record) for record in (self.record, *self.others)]
        # Not every reader of JSON knows NaN.
        plain = [{name: _without_nan(value) for name, value in one.items()} for one in values]
        batch = {} if self.batch is None else self.batch._asdict()
        return {
            "records": np.array(json.dumps(plain, ensure_ascii=False)),
            **{f"batch_{name}": np.asarray(value) for name, value in batch.items()},
            **{f"weights_{layer}": leaf for layer, leaf in enumerate(self.weights)},
            **{f"extra_{name}": value for name, value in self.extra.items()},
        }


class Paused(NamedTuple):
    """A cell whose attack stands between two rounds, with each set of points that it crafts, and its seconds.

    `extra`: what an attack without rounds has come to.
    """

    split: int
    policy: int
    ratio: int
    midways: tuple[Midway, ...]
    seconds: float
    extra: Mapping[str, np.ndarray] = {}

    @property
    def name(self) -> str:
        """The name in a store. A chain has at most one unfinished cell, so the chain's name is enough."""
        return self.name_of(self.split, self.policy)

    @staticmethod
    def name_of(split: int, policy: int) -> str:
        """Return the name of a chain's unfinished cell."""
        return f"split{split}-policy{policy}-midway"

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the state as arrays, by name."""
        found = {"ratio": np.array(self.ratio), "seconds": np.array(self.seconds)}
        for number, at in enumerate(self.midways):
            own = {
                "taken": np.array(at.taken),
                "history": at.history,
                "statuses": at.statuses,
                **{f"start_{name}": np.asarray(value) for name, value in at.start._asdict().items()},
                **{f"best_{name}": np.asarray(value) for name, value in at.best._asdict().items()},
                **{f"state_{place}": leaf for place, leaf in enumerate(at.state)},
            }
            found |= {f"{number}_{name}": value for name, value in own.items()}
        return found | {f"extra_{name}": value for name, value in self.extra.items()}


def restored(name: str, arrays: dict[str, np.ndarray]) -> Cell | Paused | None:
    """Return what was stored under a name, or None for another kind of name. Raises `ValueError` if it is damaged."""
    found = _NAME.fullmatch(name)
    if not found:
        return None
    split, policy = int(found[1]), int(found[2])
    try:
        if not found[3]:
            return _paused(split, policy, arrays)
        values = json.loads(str(arrays["records"]))
        check_plain(values)
        record, *others = (
            _RECORD.validate_python({name: _with_nan(value) for name, value in one.items()}) for one in values
        )
        batch = {field: arrays[f"batch_{field}"] for field in Batch._fields} if "batch_value" in arrays else None
        made = Batch(**{field: _plain(value, field) for field, value in batch.items()}) if batch else None
        weights = _numbered(arrays, "weights")
        return Cell(split, policy, int(found[3]), record, made, weights, tuple(others), _extra(arrays))
    except (LookupError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError(f"it is damaged ({error})") from None


def _paused(split: int, policy: int, arrays: dict[str, np.ndarray]) -> Paused:
    many = sum(name.endswith("_taken") and not name.startswith("extra_") for name in arrays)
    midways = tuple(
        _midway({n.removeprefix(f"{i}_"): a for n, a in arrays.items() if n.startswith(f"{i}_")}) for i in range(many)
    )
    return Paused(split, policy, int(arrays["ratio"]), midways, float(arrays["seconds"]), _extra(arrays))


def _extra(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name.removeprefix("extra_"): array for name, array in arrays.items() if name.startswith("extra_")}


def _midway(arrays: dict[str, np.ndarray]) -> Midway:
    start, best = (
        Answered(**{field: _plain(arrays[f"{end}_{field}"], field) for field in Answered._fields})
        for end in ("start", "best")
    )
    history, statuses = arrays["history"], arrays["statuses"]
    return Midway(int(arrays["taken"]), start, best, _numbered(arrays, "state"), history, statuses)


def _plain(value: np.ndarray, field: str) -> Any:
    if field in ("attack", "begun"):
        return str(value)
    return float(value) if field in ("value", "value_start", "success", "stability") else value


def _numbered(arrays: dict[str, np.ndarray], kind: str) -> tuple[np.ndarray, ...]:
    return tuple(arrays[f"{kind}_{i}"] for i in range(sum(name.startswith(f"{kind}_") for name in arrays)))


def _without_nan(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _with_nan(value: Any) -> Any:
    if isinstance(value, list):
        return [_with_nan(entry) for entry in value]
    return math.nan if value is None else value
