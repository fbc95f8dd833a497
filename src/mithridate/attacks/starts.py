"""Where poisoning points can start."""

import numpy as np

from mithridate.attacks.base import Attacker
from mithridate.attacks.poison import Points
from mithridate.errors import InputError
from mithridate.seeds import generator


def clones(attack: Attacker, x: np.ndarray, y: np.ndarray, k: int | None = None) -> Points:
    """Return k clones (default: all points) of the attack's starting rows in random places of x (n, m), y (n,).

    As in App. B, they are clones of D_target, each row once, with labels flipped unless they are the wanted ones. If
    `start` is given, they are clones of its rows in turn, with its labels. If only labels are edited, the rows in these
    places keep their features and get flipped labels. If only features are edited, these rows start unchanged.
    """
    draw, pool_x, pool_y = generator(attack.seed, "points"), *map(np.asarray, attack.start or attack.target)
    if k is None:
        k = attack.points
        if attack.start is None and k > len(pool_y):
            raise InputError(f"points = {k}: at most {len(pool_y)}, since each is cloned from its own target row")
    order = draw.permutation(len(pool_x))
    picked = order[np.arange(k) % len(order)]
    places = draw.permutation(len(y))[:k]
    if attack.edits != "both":
        pool_x, pool_y, picked = x, y, places
    labels = pool_y[picked].astype(float)
    if attack.edits != "features" and (attack.edits == "labels" or (attack.start is None and not attack.specific)):
        labels = attack.task.flipped(labels, attack.flip, draw, x, y)
    return Points(pool_x[picked], labels, len(y) + np.arange(k) if attack.budget == "added" else places)
