"""Where poisoning points can start."""

import numpy as np

from mithridate.attacks.base import Attacker
from mithridate.attacks.poison import Points
from mithridate.seeds import generator


def clones(attack: Attacker, x: np.ndarray, y: np.ndarray) -> Points:
    """Return clones of the attack's starting rows in random places of the training set x (n, m), y (n,) (App. B).

    Of D_target, each row once, with labels flipped unless they are the ones wanted; or of `start`, each row in turn,
    with its own labels.
    """
    draw = generator(attack.seed, "points")
    pool_x, pool_y = map(np.asarray, attack.start or attack.target)
    order = draw.permutation(len(pool_x))
    picked = order[np.arange(attack.points) % len(order)]
    places = draw.permutation(len(y))[: attack.points]
    labels = pool_y[picked]
    if attack.start is None and not attack.specific:
        labels = attack.task.flipped(labels, attack.flip, draw, x, y)
    return Points(pool_x[picked], labels, places if attack.budget == "replaced" else len(y) + np.arange(attack.points))
