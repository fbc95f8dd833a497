"""Label flips against kernel smoothers, which predict by a weighted sum of the training labels. Plain NumPy, no victim.

Kernel ridge regression and kernel means imitate many victims. Their predictions F = W Y are linear in the labels Y, for
rows held out one at a time too: with C = (K + λI)⁻¹ the leave-one-out weights are W = I − diag(C)⁻¹ C (Allen, 1974;
Cawley and Talbot, 2003). So one matrix product ranks all flips by their harm, and no victim is trained.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.spatial.distance import cdist
from scipy.special import expit
from sklearn.neighbors import KNeighborsClassifier
from threadpoolctl import threadpool_limits

WIDTHS = (2.0, 1.0, 0.5)
"""Of Gaussian kernels, in median distances of two rows."""
RIDGES = (0.1, 1.0, 10.0)
MEAN = "mean"
LARGEST = 1024
"""Of more training rows a sample is smoothed: kernels have the square of their number of entries."""
NEAR = 5
"""How many rows of the sample say whether a row outside it is flipped."""
ROUNDS = 40
"""The largest number of rounds in which rows are picked."""
EXCHANGED = 8
"""How many rows at each end are tried in an exchange, and the least number of exchanges."""


def smoothers(
    x: np.ndarray, held: np.ndarray, widths: Sequence[float] = WIDTHS, means: bool = True
) -> list[tuple[str, np.ndarray]]:
    """Return names and weights W (n + v, n) of smoothers of training rows x (n, m): ridge regressions, and `means`.

    The first n rows of W predict each training row without itself, the others predict the rows `held` (v, m).
    """
    with threadpool_limits(1):  # more threads are slower here, most of all where another process is at work
        return list(_smoothers(x, held, widths, means))


def _smoothers(
    x: np.ndarray, held: np.ndarray, widths: Sequence[float], means: bool
) -> Iterator[tuple[str, np.ndarray]]:
    n, mean = len(x), x.mean(axis=0)
    rows = np.concatenate([x, held])
    squares = cdist(rows, x, "sqeuclidean")
    apart = squares[:n][squares[:n] > 0]
    if not len(apart):
        return
    product = (rows - mean) @ (x - mean).T
    kernels = {"linear": 1 + product / np.mean(np.diag(product))}
    kernels |= {f"width {width:g}": np.exp(-squares / (width**2 * np.median(apart))) for width in widths}
    for name, kernel in kernels.items():
        for ridge in RIDGES:
            inverse = np.linalg.inv(kernel[:n] + ridge * np.eye(n))
            alone = np.eye(n) - inverse / np.diag(inverse)[:, None]
            weights = np.concatenate([alone, kernel[n:] @ inverse])
            yield f"{name}, ridge {ridge:g}", weights.astype(np.float32)
        if means and name != "linear":
            others = kernel - np.eye(*kernel.shape)
            weights = others / np.maximum(others.sum(axis=1, keepdims=True), 1e-12)
            yield f"{name}, {MEAN}", weights.astype(np.float32)


def sampled(labels: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Return the training rows that are smoothed, sorted: all, or if there are too many, a share of each class."""
    n = len(labels)
    if n <= LARGEST:
        return np.arange(n)
    by_class = np.lexsort((draw.random(n), labels))
    return np.sort(by_class[np.linspace(0, n - 1, LARGEST).astype(int)])


def extended(
    flips: tuple[np.ndarray, np.ndarray],
    x: np.ndarray,
    labels: np.ndarray,
    sample: np.ndarray,
    k: int,
    among: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return flips (rows and new labels) of a sample, and more of the rows `among` outside it, at most k together.

    These are flipped as the nearest rows of their class in the sample are, those with most such neighbours first.
    """
    rows, rest, new = flips[0], np.setdiff1d(among, sample), labels.copy()
    new[rows] = flips[1]
    share, to = np.zeros(len(rest)), labels[rest]
    for own in np.unique(labels[rows]):
        here, there = np.flatnonzero(labels[rest] == own), sample[labels[sample] == own]
        if len(here):
            near = KNeighborsClassifier(min(NEAR, len(there))).fit(x[there], new[there])
            shares = np.where(near.classes_ == own, 0.0, near.predict_proba(x[rest[here]]))
            share[here], to[here] = shares.sum(axis=1), near.classes_[shares.argmax(axis=1)]
    more = np.argsort(-share, kind="stable")[: k - len(rows)]
    more = more[share[more] > 0]
    return np.append(rows, rest[more]), np.append(flips[1], to[more])


class Smoothed:
    """The harm that flipped labels do to a smoother with weights W (h, n).

    `labels` (n,), the training rows' classes; `truth` (h,), those of the rows that are predicted, each counted with
    its `weight` (h,); K classes. Harm is the weighted sum of σ(−sharpness × margin), the margin of a row being the
    score of its class less the largest other score. If the attacker wants each row to be given its `truth` (`wanted`),
    the sign is the other way round.
    """

    def __init__(
        self,
        weights: np.ndarray,
        labels: np.ndarray,
        truth: np.ndarray,
        weight: np.ndarray,
        n_classes: int,
        sharpness: float = 5.0,
        wanted: bool = False,
    ):
        self.weights, self.labels, self.weight, self.sharpness = weights, labels, weight, sharpness
        self.codes = 2 * np.eye(n_classes) - 1
        self.aim, self.sign = truth, -1.0 if wanted else 1.0

    def margins(self, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the margins (h, …) for scores (h, K, …), and the class with the largest other score (h, …)."""
        rows = np.arange(len(self.aim))
        others = scores.copy()
        others[rows, self.aim] = -np.inf
        return self.sign * (scores[rows, self.aim] - others.max(axis=1)), others.argmax(axis=1)

    def harm(self, scores: np.ndarray) -> np.ndarray:
        """Return the harm (…) for scores (h, K, …)."""
        return np.tensordot(self.weight, expit(-self.sharpness * self.margins(scores)[0]), 1)

    def lost(self, labels: np.ndarray) -> np.ndarray:
        """Return which rows (h,) the smoother loses if it is fitted on these labels (n,)."""
        return self.margins(self.weights @ self.codes[labels])[0] < 0

    def gains(self, scores: np.ndarray) -> np.ndarray:
        """Return the derivative of the harm by each row's label code (n, K), at scores (h, K)."""
        margins, other = self.margins(scores)
        p = expit(-self.sharpness * margins)
        slope, rows = self.sign * self.sharpness * self.weight * p * (1 - p), np.arange(len(self.aim))
        by_score = np.zeros_like(scores)
        by_score[rows, self.aim] -= slope
        by_score[rows, other] += slope
        return self.weights.T @ by_score

    def flips(self, k: int, allowed: np.ndarray, spare: np.ndarray) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """Yield the worst flips in words, their rows, and their new labels, those with more harm first.

        The rows are of one class, the others being taken only if it has too few, or of all. Of many classes the two are
        tried of which the first flips do most harm. `k`, `allowed` and `spare`: as in `worst`.
        """
        gain, _ = self._flip(self.weights @ self.codes[self.labels])
        promising = [-np.sort(-gain[allowed & (self.labels == own)])[:k].sum() for own in range(len(spare))]
        pools = {f"class {own}": allowed & (self.labels == own) for own in np.argsort(promising)[::-1][:2].tolist()}
        found, before = [], set[bytes]()
        for name, pool in (pools | {"all classes": allowed}).items():
            rows, labels, harm = self.worst(k, pool, allowed, spare)
            if len(rows) and (at := np.stack([rows, labels]).tobytes()) not in before:
                before.add(at)
                found.append((harm, name, rows, labels))
        yield from (one[1:] for one in sorted(found, key=lambda one: -one[0]))

    def worst(
        self, k: int, pool: np.ndarray, allowed: np.ndarray, spare: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, float]:
        """Return at most k rows, their new labels, and the harm that these flips do.

        The rows of `pool` (n,; bool) are taken first, then the others that are `allowed` (n,; bool). A class gives at
        most `spare` (K,) of its rows. They are picked greedily, then exchanged as long as the harm rises.
        """
        new, k = self.labels.copy(), min(k, int(spare.sum()))
        scores, picked = self.weights @ self.codes[new], np.zeros(len(new), dtype=bool)
        left = spare.copy()
        while (many := k - int(picked.sum())) > 0:
            gain, to = self._flip(scores)
            open_rows = pool & ~picked & (left[self.labels] > 0)
            if not open_rows.any():
                pool = allowed
                open_rows = pool & ~picked & (left[self.labels] > 0)
                if not open_rows.any():
                    break
            order = np.flatnonzero(open_rows)[np.argsort(-gain[open_rows], kind="stable")]
            for row in order[: min(many, -(-k // ROUNDS))]:
                if left[self.labels[row]] > 0:
                    left[self.labels[row]] -= 1
                    picked[row], new[row] = True, to[row]
            scores = self.weights @ self.codes[new]
        harm = float(self.harm(scores))
        for _ in range(max(k // 2, EXCHANGED)):
            gain, to = self._flip(scores)
            back = np.einsum("nk,nk->n", self.gains(scores), self.codes[self.labels] - self.codes[new])
            out, others = np.flatnonzero(picked), np.flatnonzero(pool & ~picked)
            out = out[np.argsort(-back[out], kind="stable")][:EXCHANGED]
            into = others[np.argsort(-gain[others], kind="stable")][:EXCHANGED]
            pairs = [(a, b) for a in out for b in into if left[self.labels[b]] > 0 or self.labels[a] == self.labels[b]]
            if not pairs:
                break
            gone, come = np.array(pairs).T
            change = self.codes[self.labels[gone]] - self.codes[new[gone]]
            moved = self.weights[:, None, gone] * change.T[None]
            moved += self.weights[:, None, come] * (self.codes[to[come]] - self.codes[self.labels[come]]).T[None]
            found = self.harm(scores[:, :, None] + moved)
            best = int(found.argmax())
            if found[best] <= harm + 1e-9:
                break
            a, b, harm = gone[best], come[best], float(found[best])
            left[self.labels[a]] += 1
            left[self.labels[b]] -= 1
            picked[a], picked[b], new[a], new[b] = False, True, self.labels[a], to[b]
            scores = scores + moved[:, :, best]
        rows = np.flatnonzero(picked)
        return rows, new[rows], harm

    def _flip(self, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return for each row by how much its best flip raises the harm, to first order, and its label then."""
        slopes, rows = self.gains(scores), np.arange(len(self.labels))
        other = slopes.copy()
        other[rows, self.labels] = -np.inf
        to = other.argmax(axis=1)
        return 2 * (slopes[rows, to] - slopes[rows, self.labels]), to
