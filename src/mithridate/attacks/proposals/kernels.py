"""Flips that are worst for kernel smoothers of the training rows (see `smoothing`), measured on D_target.

A linear kernel ridge regression imitates a linear victim, Gaussian kernels imitate a network.
"""

import itertools
from collections.abc import Iterator

import numpy as np

from mithridate.attacks.proposals.ground import Ground, Proposal
from mithridate.attacks.smoothing import Smoothed, extended, sampled, smoothers

KERNEL = "kernel flips"
WIDTHS, SHARPNESS, POOLS = (2.0,), 3.0, 2


def kernel_flips(ground: Ground) -> Iterator[Proposal]:
    """Yield the worst flips for each smoother, of one class or of all.

    If the attacker aims at rows of all classes, training rows, left out one at a time, count as much as D_target.
    """
    at, counted = ground.at, np.asarray(ground.at.target.weight) > 0
    held, truth, weight = (np.asarray(part)[counted] for part in at.target[:3])
    everything = at.y.astype(int)
    sample = sampled(everything, ground.draw(KERNEL))
    x, labels, part = at.x[sample], everything[sample], len(sample) / len(at.y)
    spare = [part * ground.most(ground.of_class(number)) for number in range(ground.n_classes)]
    given = round(part * at.end), np.isin(sample, ground.pool), np.array(spare, dtype=int)
    alone = not ground.attack.specific and len(np.unique(truth)) == ground.n_classes
    truth = np.concatenate([labels, truth.astype(int)]) if alone else truth.astype(int)
    weight = np.concatenate([np.full(len(x), weight.sum() / len(x)), weight]) if alone else weight
    for name, weights in smoothers(x, held, WIDTHS, means=False):
        own = weights if alone else weights[len(x) :]
        one = Smoothed(own, labels, truth, weight / weight.sum(), ground.n_classes, SHARPNESS, ground.attack.specific)
        for whose, rows, new in itertools.islice(one.flips(*given), POOLS):
            flips = extended((sample[rows], new), at.x, everything, sample, at.end, ground.pool)
            yield Proposal(KERNEL, f"{name}, {whose}", ground.laid(*flips))
