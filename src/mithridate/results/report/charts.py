"""Makes from results what the page draws: lines with their numbers as text, and tables of the same numbers.

A chart offers choices, such as the test error or the misses of a class, and draws the lines of one choice. Its tables
are made from the lines, so that picture, hover text and table cannot differ.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from mithridate.results import tuned
from mithridate.results.figures import by_group
from mithridate.results.records import flips_of
from mithridate.results.report.source import Audited
from mithridate.results.report.wording import cell, known, number, percent
from mithridate.results.verdict import PLAIN, curves, measure

BINS = 40
"""The bins of a histogram of weights."""
ROWS = 24
"""The most rows of the table of a line; longer lines are sampled evenly."""

Numbers = list[float | None]


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    `choice`: the choice with which it is drawn; `run`, `policy`: whose line it is, by number; `name`; `x`, `y`: its
    points; `at`, `told`: x and y as text; `low`, `high`: the ends of the band; `role`: "attack", or "baseline" or
    "clean", which are drawn thinner; `group`: the number of the λ if a policy has several.
    """

    choice: str
    run: int
    policy: int
    name: str
    x: list[float]
    y: Numbers
    at: list[str]
    told: list[str]
    low: Numbers = field(default_factory=list)
    high: Numbers = field(default_factory=list)
    role: str = "attack"
    group: int | None = None


@dataclass(frozen=True)
class Choice:
    """What a chart can show: its identifier, and the label and the unit suffix of the vertical axis."""

    id: str
    label: str
    suffix: str = ""


@dataclass(frozen=True)
class Chart:
    """A chart: label and unit suffix of its horizontal axis, choices, and lines; `steps` draws lines as stairs."""

    id: str
    x_label: str
    x_suffix: str
    choices: list[Choice]
    lines: list[Line]
    steps: bool = False

    @property
    def has_baseline(self) -> bool:
        """Whether there are lines of flipped labels alone."""
        return any(line.role == "baseline" for line in self.lines)

    @property
    def has_bands(self) -> bool:
        """Whether any line has an interval."""
        return any(any(map(known, line.low)) for line in self.lines)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for the page."""
        return asdict(self)

    def tables(self) -> Iterator[tuple[Choice, int, list[str], list[list[str]]]]:
        """Yield a table for each choice and run: (choice, run, heads of columns, rows)."""
        for choice in self.choices:
            for run in sorted({line.run for line in self.lines if line.choice == choice.id}):
                lines = [line for line in self.lines if (line.choice, line.run) == (choice.id, run)]
                longest = max((line.at for line in lines), key=len)
                picked = np.unique(np.linspace(0, len(longest) - 1, min(len(longest), ROWS)).round().astype(int))
                cells = [[line.told[i] if i < len(line.told) else "" for line in lines] for i in picked]
                rows = [[longest[i], *row] for i, row in zip(picked, cells, strict=True)]
                yield choice, run, [line.name for line in lines], rows


@dataclass(frozen=True)
class Column:
    """A column of the records to draw.

    A `share` is drawn in per cent, other numbers with `digits` decimals. Bands end at `lowest`. With `flips`, the same
    for flipped labels alone is drawn too.
    """

    name: str
    label: str
    share: bool = True
    digits: int = 2
    flips: bool = False
    lowest: float = 0.0

    @property
    def choice(self) -> Choice:
        """The column as a choice of a chart."""
        return Choice(self.name, self.label, " %" if self.share else "")


def measured(result: Audited) -> tuple[pd.DataFrame, list[Column]]:
    """Return the records, with a column for the rates of each class, and the columns to draw against the poison."""
    frame, names = result.frame, result.dataset["classes"]
    columns = [Column("test_error", "test error", flips=True)]
    aim = tuple(frame[["objective", "score"]].iloc[0])
    if aim != PLAIN:
        columns.insert(0, Column("attack_success", measure(*aim), flips=True))
    if len(names) == 2:
        columns.append(Column("fpr", f"rows of “{names[0]}” taken for “{names[1]}” (false positives)"))
        columns.append(Column("fnr", f"rows of “{names[1]}” taken for “{names[0]}” (false negatives)"))
    else:
        for kind, text in (("fnrs", "rows of “{}” missed"), ("fprs", "other rows taken for “{}”")):
            spread = {f"{kind}{k}": frame[kind].str[k] for k in range(len(names))}
            frame = frame.assign(**spread)
            columns += [Column(key, text.format(name)) for key, name in zip(spread, names, strict=True)]
    columns.append(Column("valid_loss", "loss on the validation rows", share=False, digits=3, flips=True))
    return frame, columns


Drawn = tuple[pd.DataFrame, list[Column], pd.DataFrame | None]
"""A run's records, the columns to draw, and the records of flipped labels alone if there are any to draw."""


def against_poison(name: str, runs: Sequence[Drawn], policies: Sequence[str]) -> Chart:
    """Return a chart of records against the share of poison: one line per run and policy, or per λ of a policy."""
    choices: dict[str, Choice] = {}
    lines = []
    for run, (frame, columns, flips) in enumerate(runs):
        choices |= {column.name: column.choice for column in columns}
        beside = [column for column in columns if column.flips]
        flipped = {} if flips is None else curves(flips, tuple(column.name for column in beside))
        for policy, curve in curves(frame, tuple(column.name for column in columns)).items():
            owner, _, group = (policy, "", "") if policy in policies else policy.rpartition(", λ ")
            owned = {"run": run, "policy": policies.index(owner), "group": int(group) if group else None}
            for column in columns:
                lines.append(_line(column, curve[column.name], curve["ratio"], name=policy, **owned))
                if column.flips and policy in flipped and flipped[policy]["points"][-1]:
                    other = flipped[policy]
                    told = {"name": f"{policy}, labels alone", "role": "baseline", **owned}
                    lines.append(_line(column, other[column.name], other["ratio"], **told))
    return Chart(name, "poison in the training set", " %", list(choices.values()), lines)


def _line(column: Column, spread: Mapping[str, Numbers], ratios: Sequence[float], **owned: Any) -> Line:
    factor, highest = (100, 100.0) if column.share else (1, math.inf)

    def scaled(values: Numbers, lowest: float = -math.inf, highest: float = math.inf) -> Numbers:
        return [None if value is None else min(max(factor * value, lowest), highest) for value in values]

    return Line(
        choice=column.name,
        x=[100 * ratio for ratio in ratios],
        y=scaled(spread["mean"]),
        at=[percent(ratio) for ratio in ratios],
        told=[cell(spread, i, column.share, column.digits) for i in range(len(ratios))],
        low=scaled(spread["low"], column.lowest, highest),
        high=scaled(spread["high"], column.lowest, highest),
        **owned,
    )


def error_chart(results: Sequence[Audited], policies: Sequence[str]) -> Chart:
    """Return the chart of errors, rates by class and loss against the share of poison, with those of label flips."""
    runs = [(*measured(result), flips_of(result.frame, result.candidates)) for result in results]
    return against_poison("error", runs, policies)


def path_chart(results: Sequence[Audited], policies: Sequence[str]) -> Chart | None:
    """Return what tuning sets against the share of poison: λ, group by group where they differ, or hyperparameters.

    None if nothing that is a number is set.
    """
    column = Column("log_strength", "λ, the log of the penalty's strength", share=False, lowest=-math.inf)
    runs: list[Drawn] = []
    for result in results:
        if not tuned.has_any(result.frame):
            runs.append((by_group(result.frame), [column], None))
        else:
            frame, names = tuned.drawn(result.frame)
            columns = [Column(name, label, share=False, lowest=-math.inf) for name, label in names.items()]
            runs.append((frame, columns, None))
    return _drawn(against_poison("path", runs, policies))


def norm_chart(results: Sequence[Audited], policies: Sequence[str]) -> Chart | None:
    """Return the size of the weights against the share of poison: all, and layer by layer where there are several.

    None for estimators alone.
    """
    runs = []
    for result in results:
        frame = result.frame
        if tuned.has_any(frame):
            continue
        columns = [Column("weight_norm_sq", "size of all weights, ‖w‖²", share=False)]
        layers = len(frame["weight_norms"].iloc[0])
        for layer in range(layers if layers > 1 else 0):
            frame = frame.assign(**{f"norm{layer}": frame["weight_norms"].str[layer]})
            columns.append(Column(f"norm{layer}", f"mean squared weight of layer {layer + 1}", share=False, digits=4))
        runs.append((frame, columns, None))
    return _drawn(against_poison("norms", runs, policies))


def _drawn(chart: Chart) -> Chart | None:
    return chart if chart.lines else None


def weight_chart(results: Sequence[Audited], policies: Sequence[str], titles: Sequence[str]) -> Chart | None:
    """Return histograms of the weights, clean and at the most poison, in split 0; None if no weights were kept."""
    choices, lines = [], []
    for run, result in enumerate(results):
        for (split, policy), arrays in result.poison.items():
            layers = [key for key in arrays if key.startswith("weights_clean_")] if split == 0 else []
            for layer, key in enumerate(layers):
                ends = {"clean": arrays[key], "attack": arrays[key.replace("clean", "poisoned")]}
                ends = {role: values[np.isfinite(values)].astype(float) for role, values in ends.items()}
                if not all(map(len, ends.values())):
                    continue
                label = f"{titles[run]}: {policy}" if len(results) > 1 else policy
                choice = f"{run}/{policy}/{layer}"
                choices.append(Choice(choice, label + (f", layer {layer + 1}" if len(layers) > 1 else "")))
                edges = np.histogram_bin_edges(np.concatenate(list(ends.values())), BINS)
                for role, values in ends.items():
                    counts, middles = np.histogram(values, edges)[0], ((edges[1:] + edges[:-1]) / 2).tolist()
                    y, told = counts.astype(float).tolist(), [str(count) for count in counts]
                    at, name = [number(middle, 3) for middle in middles], "clean" if role == "clean" else "poisoned"
                    lines.append(Line(choice, run, policies.index(policy), name, middles, y, at, told, role=role))
    return Chart("weights", "value of a weight", "", choices, lines, steps=True) if choices else None


def history_chart(results: Sequence[Audited], policies: Sequence[str]) -> Chart | None:
    """Return the chart of the attacker's objective by step, mean and range over splits; None if there are no steps."""
    lines = []
    for run, result in enumerate(results):
        for policy in dict.fromkeys(policy for _, policy in result.poison):
            series = [arrays["history"] for (_, name), arrays in result.poison.items() if name == policy]
            length = min(map(len, series))
            if not length:
                continue
            values = np.stack([one[:length] for one in series]).astype(float)
            values[~np.isfinite(values)] = np.nan
            mean = values.mean(axis=0)
            y, low, high = (_rounded(of) for of in (mean, values.min(axis=0), values.max(axis=0)))
            steps = range(1, length + 1)
            told = [number(value, 3) for value in y]
            ends = (low, high) if len(series) > 1 else ([], [])
            at = [f"step {step}" for step in steps]
            lines.append(Line("A", run, policies.index(policy), policy, [float(s) for s in steps], y, at, told, *ends))
    choice = Choice("A", "A, what the attacker raises")
    return Chart("history", "step of the attack", "", [choice], lines) if lines else None


def _rounded(values: np.ndarray) -> Numbers:
    return [float(f"{value:.5g}") if np.isfinite(value) else None for value in values]
