"""Fig. 7 and 8 (App. E.3): the distribution of the victims' weights, without poison and at the largest share.

The histograms show one split. The claims are judged over all splits, by the root mean square of the weights.
"""

import functools
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mithridate.reproduction import outcome
from mithridate.reproduction.effects import LEARNED, SMALL, at, change
from mithridate.reproduction.outcome import Claim, below
from mithridate.reproduction.panels import called, grid, shown_as
from mithridate.reproduction.studies import KEYS, LAYERS, LOGISTIC, NETWORK, Remade, by_layer
from mithridate.results.figures import COLOURS
from mithridate.results.results import AuditResult

BINS = (9, 61)
"""The smallest and largest number of bins; between them it is the square root of the number of weights."""
SHOWN = (SMALL, LEARNED)
"""The policies of both figures, from top to bottom."""


def frame(results: Sequence[AuditResult]) -> pd.DataFrame:
    """Return rows of two kinds (`measure`) for each data set, split, policy, ratio (0 and the largest) and layer.

    `rms`: `value` is the root mean square of the layer's weights. `weights`, for split 0 only: `value` is the number of
    the layer's weights from `low` to `high`; the policies and ratios of a data set and layer have the same bins.
    """
    every = by_layer(results)
    ends = every["n_poison"].isin([0]) | (every["n_poison"] == every.groupby("dataset")["n_poison"].transform("max"))
    spread = every[ends & every["policy"].isin(SHOWN)].assign(measure="rms")
    spread["value"] = np.sqrt(spread["weight_norm"])
    keys = [*KEYS, "layer"]
    first = spread.loc[spread["split"] == 0, keys].assign(measure="weights")
    weights = [_weights(result, rows) for result in results for rows in [first[first["dataset"] == _name(result)]]]
    return pd.concat([spread[[*keys, "measure", "value"]], *weights], ignore_index=True)


def _name(result: AuditResult) -> str:
    return result.dataset["name"]


def _weights(result: AuditResult, cells: pd.DataFrame) -> pd.DataFrame:
    """Return one row per cell, a policy, ratio and layer of one split, and bin."""
    found = []
    for layer, rows in cells.groupby("layer"):
        index = int(str(layer)) - 1
        arrays = [
            result.poison[0, policy][f"weights_{'poisoned' if n_poison else 'clean'}_{index}"]
            for policy, n_poison in zip(rows["policy"], rows["n_poison"], strict=True)
        ]
        edges = np.histogram_bin_edges(np.concatenate(arrays), int(np.clip(np.sqrt(arrays[0].size), *BINS)))
        for cell, array in zip(rows.to_dict("records"), arrays, strict=True):
            counts, _ = np.histogram(array, edges)
            found.append(pd.DataFrame({**cell, "value": counts.astype(float), "low": edges[:-1], "high": edges[1:]}))
    return pd.concat(found)


def _claims(frame: pd.DataFrame, where: str) -> list[Claim]:
    spread = frame[frame["measure"] == "rms"]
    return [one for name, rows in spread.groupby("dataset", sort=False) for one in _of(str(name), rows, where)]


def _of(dataset: str, rows: pd.DataFrame, where: str) -> list[Claim]:
    layers = dict(list(rows.groupby("layer")))

    def narrower(share: float | None) -> pd.DataFrame:
        ratios = {i: at(own, "value", LEARNED, share) / at(own, "value", SMALL, share) for i, own in layers.items()}
        return 100 * (pd.DataFrame(ratios) - 1)

    clean, poisoned = narrower(0.0), narrower(None)
    moved = pd.DataFrame({i: change(own, "value", LEARNED) for i, own in layers.items()})
    least = " (the layer where it falls least)" if len(layers) > 1 else ""
    every = "layers" if len(layers) > 1 else "data sets"
    return [
        outcome.claim(
            number, paper, values.max(axis=1, skipna=False), unit + least, below(0.0), _layers(values), where, dataset
        )
        for number, paper, values, unit in (
            (
                "1a",
                f"Regularised, for all the {every} the range of values of w is narrowed down: clean.",
                clean,
                f"% of the weights' root mean square under {SMALL}",
            ),
            (
                "1b",
                f"Regularised, for all the {every} the range of values of w is narrowed down: poisoned.",
                poisoned,
                f"% of the weights' root mean square under {SMALL}",
            ),
            (
                "2",
                "When the attacker poisons the data, this forces the model to compress these values even more.",
                moved,
                "% of the weights' root mean square from clean to the most poison, λ learned",
            ),
        )
    ]


def _layers(values: pd.DataFrame) -> str:
    if len(values.columns) == 1:
        return ""
    return "Means: " + ", ".join(f"layer {i} {mean:+.3g} %" for i, mean in values.mean().items()) + "."


def draw(frame: pd.DataFrame) -> Figure:
    """Return the histograms: λ = −8 above, λ learned below; a column per data set and layer."""
    weights = frame[frame["measure"] == "weights"]
    columns = list(weights.groupby(["dataset", "layer"], sort=False))
    figure, axes = grid(len(SHOWN), len(columns))
    for column, ((dataset, layer), own) in enumerate(columns):
        several = own["layer"].max() > 1 or frame.loc[frame["dataset"] == dataset, "layer"].max() > 1
        title = shown_as(str(dataset))
        axes[0, column].set_title(f"{title}\n{LAYERS.get(int(str(layer)), f'layer {layer}')}" if several else title)
        edges = np.append(own["low"].unique(), own["high"].max())
        for axis, policy in zip(axes[:, column], SHOWN, strict=True):
            for (n_poison, ratio), rows in own[own["policy"] == policy].groupby(["n_poison", "ratio"]):
                poisoned = int(bool(n_poison))
                style = {"fill": True, "alpha": 0.45, "lw": 0} if not poisoned else {"lw": 1.8}
                label = f"{ratio:.1%} poison" if poisoned else "clean"
                axis.stairs(rows["value"], edges, color=COLOURS[poisoned], label=label, **style)
            axis.set_yscale("log")
            axis.set_ylim(bottom=0.7)
            axis.yaxis.set_major_formatter("{x:g}")
            axis.yaxis.set_minor_formatter("")
            axis.set_xlabel("weight")
            axis.xaxis.set_major_locator(MaxNLocator(5))
            axis.set_ylabel(f"{called(policy)}\nnumber of weights")
            axis.grid(alpha=0.25)
    axes[0, 0].legend(fontsize=8)
    figure.suptitle("Weights of the retrained victim, one split", fontsize=11)
    return figure


fig7 = Remade(
    "fig7",
    LOGISTIC,
    frame,
    functools.partial(_claims, where="App. E.3.1"),
    draw,
    "Fig. 7 again, logistic regression: histograms of the weights (biases left out) of the victim of split 0 retrained "
    "on the clean and on the most poisoned rows, for λ = −8 (above) and λ learned (below); counts on a logarithmic "
    "scale. The claims are judged over {splits} splits.",
)
"""Reproduce Fig. 7 (see `Remade`)."""

fig8 = Remade(
    "fig8",
    NETWORK,
    frame,
    functools.partial(_claims, where="App. E.3.2"),
    draw,
    "Fig. 8 again, a network with one λ for each layer: histograms of the weights (biases left out) of the victim of "
    "split 0 retrained on the clean and on the most poisoned rows, by layer, for λ = −8 (above) and λ learned (below); "
    "counts on a logarithmic scale. The claims are judged over {splits} splits.",
)
"""Reproduce Fig. 8 (see `Remade`)."""
