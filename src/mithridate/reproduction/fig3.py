"""Fig. 3 (Sect. 5.2): a network 2048-128-32-1 under attack, with one λ for each layer.

Test error against the share of poison; λ of each layer as the learned policy sets it; ‖w_layer‖²/d_layer.
"""

import functools

import pandas as pd
from matplotlib.figure import Figure

from mithridate.reproduction import outcome
from mithridate.reproduction.effects import (
    EFFECTIVE,
    LEARNED,
    SMALL,
    at,
    by_ratio,
    change,
    large,
    listed,
    nearest,
    rise,
)
from mithridate.reproduction.outcome import Claim, above, below
from mithridate.reproduction.panels import curve, fit, grid, shares, shown_as, titled
from mithridate.reproduction.studies import LAYERS, NETWORK, Remade, by_layer

PEAK = 0.13
"""The share of poison at which the paper's learned policy has its largest error."""
RUINED = 3.0
"""The paper's error rises to 15 %, at least about three times the clean error."""


def claims(frame: pd.DataFrame) -> list[Claim]:
    """Return the observations of Sect. 5.2 for each data set, with verdicts; errors are in points."""
    frame = frame.assign(points=100 * frame["test_error"])
    return [one for name, rows in frame.groupby("dataset", sort=False) for one in _of(str(name), rows)]


def _of(dataset: str, rows: pd.DataFrame) -> list[Claim]:
    claim = functools.partial(outcome.claim, where="Sect. 5.2", dataset=dataset)
    network, layers = rows[rows["layer"] == 1], {i: rows[rows["layer"] == i] for i in sorted(rows["layer"].unique())}
    big, last = large(network), max(layers)
    later = [i for i in layers if i > 1]
    points = functools.partial(by_ratio, network, "points", unit=" %")
    clean = {policy: at(network, "points", policy, 0.0) for policy in (SMALL, big, LEARNED)}
    rises = {policy: rise(network, "points", policy) for policy in clean}
    peak = at(network, "points", LEARNED, PEAK)
    errors = network[network["policy"] == LEARNED].pivot(index="split", columns="ratio", values="points")
    faster = {i: rise(layers[i], "log_strength", LEARNED) for i in layers}
    after = {i: rise(layers[i], "log_strength", LEARNED, PEAK) for i in later}
    norms = {i: change(layers[i], "weight_norm", LEARNED) for i in layers}
    bigger = _output_against_the_rest(rows)
    strengths = "; ".join(f"layer {i}: {by_ratio(layers[i], 'log_strength', LEARNED)}" for i in layers)
    return [
        claim(
            "1",
            "For λ = −8 the algorithm is very vulnerable: its test error significantly increases up to 15 % when the "
            "training data set is poisoned with 16.6 % malicious points.",
            at(network, "points", SMALL) - RUINED * clean[SMALL],
            f"points at the most poison above {RUINED:g} times the clean error",
            above(0.0),
            f"Test error: {points(policy=SMALL)}.",
        ),
        claim(
            "2",
            "For λ = log(40) the performance remains quite stable for increasing fractions of poisoning points.",
            rises[big],
            "points of test error at the most poison",
            below(EFFECTIVE, f"< {EFFECTIVE:g} (as much as the audit tolerates)"),
            f"Test error under {big}: {points(policy=big)}.",
        ),
        claim(
            "3a",
            "For λ_RMD the test error increases moderately.",
            rises[SMALL] - rises[LEARNED],
            f"points less than under {SMALL}",
            above(0.0),
            f"Test error: {points(policy=LEARNED)}.",
        ),
        claim(
            "3b",
            "… and reaches a maximum when the fraction of poisoning points is 13 %.",
            peak - errors.drop(columns=nearest(network, PEAK), errors="ignore").max(axis=1),
            f"points of test error at about {PEAK:.0%} poison above the highest at any other share",
            above(0.0),
            "",
        ),
        claim(
            "3c",
            "After that, the error slightly decreases when the fraction of poisoning points increases.",
            at(network, "points", LEARNED) - peak,
            f"points of test error from about {PEAK:.0%} poison to the most",
            below(0.0),
            "",
        ),
        claim(
            "4",
            "There is a significant increase of the λ learned for the second and the output layers when the fraction "
            "of poisoning points is larger than 13 %.",
            pd.concat(after, axis=1).min(axis=1, skipna=False),
            f"of λ from about {PEAK:.0%} poison to the most, the least of these layers'",
            above(0.0),
            f"λ of {strengths}.",
        ),
        claim(
            "5",
            "When there is no attack, the test error for λ_RMD is smaller than the other two cases.",
            pd.concat([clean[SMALL], clean[big]], axis=1).min(axis=1) - clean[LEARNED],
            "points at 0 % poison below the better of the two",
            above(0.0),
            "Without poison: " + ", ".join(f"{policy} {clean[policy].mean():.2f} %" for policy in clean) + ".",
        ),
        claim(
            "6",
            "Over-regularising, the performance in the absence of attack may be significantly worse.",
            clean[big] - clean[LEARNED],
            f"points at 0 % poison above λ_RMD's under {big}",
            above(0.0),
            "",
        ),
        claim(
            "7",
            "The λ learned for the second and output layers increase faster than the one for the first layer.",
            pd.concat([faster[i] for i in later], axis=1).min(axis=1, skipna=False) - faster[1],
            "of λ from clean to the most poison, the least of the later layers' above the first's",
            above(0.0),
            "Rises: " + ", ".join(f"layer {i} {faster[i].mean():+.2f}" for i in layers) + ".",
        ),
        claim(
            "8",
            "The norm of the weights in the last two layers significantly decreases when we increase the fraction of "
            "poisoning points.",
            pd.concat([norms[i] for i in later], axis=1).max(axis=1, skipna=False),
            "% of ‖w_layer‖²/d_layer from clean to the most poison, the later layer that falls less",
            below(0.0),
            "Changes: " + ", ".join(f"layer {i} {norms[i].mean():+.3g} %" for i in layers) + ".",
        ),
        claim(
            "9",
            "Regardless of the attack strength, the norm of the weights is significantly bigger for the output layer.",
            bigger.min(axis=1, skipna=False),
            "times the next biggest ‖w_layer‖²/d_layer, at the share of poison where it is least",
            above(1.0),
            f"Layer {last} against the next biggest: {listed(bigger.mean(), ' times')}.",
        ),
    ]


def _output_against_the_rest(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the output layer's ‖w‖²/d over that of the next biggest layer, splits × ratios, learned policy."""
    learned = rows[rows["policy"] == LEARNED]
    wide = learned.pivot(index=["split", "ratio"], columns="layer", values="weight_norm")
    last = wide.columns.max()
    return (wide[last] / wide.drop(columns=last).max(axis=1)).unstack()


def draw(frame: pd.DataFrame) -> Figure:
    """Return Fig. 3: a row per data set."""
    names = list(frame["dataset"].unique())
    figure, axes = grid(len(names), 3)
    for name, (error, strength, norm) in zip(names, axes, strict=True):
        rows = frame[frame["dataset"] == name]
        shares(rows[rows["layer"] == 1], {"test_error": "test error [%]"}, [error])
        for i, layer in rows[rows["policy"] == LEARNED].groupby("layer"):
            label = LAYERS.get(int(str(i)), f"layer {i}")
            # Other colours than the policies'.
            curve(strength, layer, "log_strength", label, int(str(i)) + 2)
            curve(norm, layer, "weight_norm", label, int(str(i)) + 2)
        strength.set_ylabel("λ learned, log of the layer's L2 strength")
        norm.set_ylabel("‖w_layer‖²/d_layer, λ learned")
        norm.set_yscale("log")
        for axis in (strength, norm):
            fit(axis)
            place = {"loc": "lower center", "bbox_to_anchor": (0.5, 1)}
            axis.legend(fontsize=7, ncols=3, frameon=False, columnspacing=1, **place)
    titled(figure, frame, f"Network, one λ per layer, {' and '.join(map(shown_as, names))}")
    return figure


run = Remade(
    "fig3",
    NETWORK,
    by_layer,
    claims,
    draw,
    "Fig. 3 again, a network with one λ for each layer: test error of the victim retrained on the poisoned rows "
    "(left), λ that the learned policy sets (middle), and ‖w_layer‖²/d_layer of its victim (right), against the share "
    "of poison. Splits: {splits}; lines: their mean, bands: its 95 % interval.",
)
"""Reproduce Fig. 3 (see `Remade`)."""
