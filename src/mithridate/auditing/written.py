"""The poison of a chain as arrays: all that it takes to retrain on it without this program."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from mithridate.attacks.base import Attacker
from mithridate.attacks.poison import Batch, placed
from mithridate.auditing.cells import Cell
from mithridate.data.datasets import Split
from mithridate.victims.rows import Rows


def labels_before(x: np.ndarray, places: np.ndarray, split: Split, attack: Attacker) -> np.ndarray:
    """Return the labels (k,) of the rows x (k, m) that points were before: those in their places, or an equal row's.

    A row is equal as it is, or as a clone of it starts, within the feasible set. −1 where no row is equal: one of a
    file of the attacker's own.
    """
    known: dict[bytes, float] = {}
    for rows, labels in ((split.x_valid, split.y_valid), (split.x_train, split.y_train)):
        clones = attack.settle(attack.feasible.project(jnp.asarray(rows, dtype=float)))
        for own in (clones, rows):
            known |= {row.tobytes(): label for row, label in zip(own.astype(np.float32), labels, strict=True)}
    x = x.astype(np.float32)
    found = np.array([known.get(row.tobytes(), -1) for row in x], np.int8)
    stood = (split.x_train[places].astype(np.float32) == x[: len(places)]).all(axis=1)
    found[: len(places)][stood] = split.y_train[places][stood]
    return found


def poison_arrays(cells: Sequence[Cell], split: Split, attack: Attacker) -> dict[str, np.ndarray]:
    """Return what it takes to retrain on the poisoned sets of one chain without this program.

    `x_poison` and so on are the poison of the largest share, `y_start` the labels before (−1: unknown). Added points
    are the last rows, and raw features are x·scale + offset. Of lower shares the poison are the first `counts[i]`
    points, or, where an attack begins anew at every share, arrays of their own, `x_poison_i` and so on. `kept[i]`,
    where the defender takes rows out, are those that he leaves at ratio i.
    """
    batches, counts = (
        [cell.batch for cell in cells if cell.batch],
        [cell.record.n_poison for cell in cells if cell.batch],
    )
    names, added = ("x_start", "x_poison", "y_poison", "places"), attack.budget == "added"

    def joined(parts: list[Batch]) -> tuple[np.ndarray, ...]:
        return tuple(np.concatenate([getattr(batch, name) for batch in parts]) for name in names)

    sets = [joined(batches[: at + 1] if attack.nested else [batch]) for at, batch in enumerate(batches)]
    kept = {}
    if attack.defence:
        own = (placed(x, y, None if added else places, split.x_train, split.y_train) for _, x, y, places in sets)
        passed = [np.asarray(attack.defence.sanitise(Rows.of(*rows))) > 0 for rows in own]
        kept["kept"] = np.stack([np.pad(each, (0, len(passed[-1]) - len(each))) for each in passed])
    kinds = np.float32, np.float32, np.int8, int

    def written(found: tuple[np.ndarray, ...], end: str = "") -> dict[str, np.ndarray]:
        arrays = (array.astype(kind) for array, kind in zip(found, kinds, strict=True))
        told = dict(zip((f"{name}{end}" for name in (*names[:3], "replaced")), arrays, strict=True))
        return told | ({f"replaced{end}": np.zeros(0, int)} if added else {})

    lower = (
        {} if attack.nested else {k: v for at, one in enumerate(sets[:-1]) for k, v in written(one, f"_{at}").items()}
    )
    places = sets[-1][3][:0] if added else sets[-1][3]
    ends = {"clean": cells[0].weights, "poisoned": cells[-1].weights}
    weights = {f"weights_{name}_{i}": leaf for name, leaves in ends.items() for i, leaf in enumerate(leaves)}
    return {
        **written(sets[-1]),
        **lower,
        "y_start": labels_before(sets[-1][0], places, split, attack),
        "replaced_rows": split.train_rows[places],
        "counts": np.array(counts),
        "log_strength": np.array([batch.log_strength for batch in batches]),
        "history": np.concatenate([batch.history for batch in (batches if attack.nested else batches[-1:])]).astype(
            np.float32
        ),
        "train_rows": split.train_rows,
        "valid_rows": split.valid_rows,
        "test_rows": split.test_rows,
        "offset": split.offset,
        "scale": split.scale,
    } | (kept | weights if all(ends.values()) else kept)
