"""The last share's points, and more like them: what an attacker with this share can do in any case."""

from collections.abc import Iterator

import numpy as np

from mithridate.attacks.poison import Points
from mithridate.attacks.proposals.ground import Ground, Proposal


def grown(ground: Ground) -> Iterator[Proposal]:
    """Yield the last points, followed by copies of them with the same labels in other places of the attacker's."""
    last, k = ground.at.last, ground.at.end
    if last is None or not 0 < len(last.y_poison) < k:
        return
    more = k - len(last.y_poison)
    again = np.arange(more) % len(last.y_poison)
    if ground.attack.budget == "added":
        places = ground.places
    else:
        free = ground.places if ground.attack.budget == "replaced" else ground.surest(last.y_poison[again])
        places = np.concatenate([last.places, free[~np.isin(free, last.places)][:more]])
    x, y = np.concatenate([last.x_poison, last.x_poison[again]]), np.concatenate([last.y_poison, last.y_poison[again]])
    if ground.attack.edits == "features" and ground.attack.budget != "added":
        x[-more:], y[-more:] = ground.at.x[places[-more:]], ground.at.y[places[-more:]]
    yield Proposal("bilevel", "the last share's points and more of them", Points(x, y, places))
