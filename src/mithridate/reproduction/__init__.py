"""The paper's figures and tables, reproduced: one directory of results per run.

Each figure's `run` computes a frame of plain numbers and draws the figure. For every observation of the paper it says,
with numbers, whether we see it too. A figure that differs from the paper's is drawn too, and the claims say so. A table
is printed from the program's own presets and data sets, with every difference from the paper's.
"""

import importlib
from collections.abc import Callable
from typing import Any

from mithridate.reproduction.outcome import Claim, Reproduction


def _lazily(module: str, function: str = "run", dataset: str | None = None) -> Callable[..., Any]:
    """Return a function of this package by name; it is imported when it is called.

    `dataset` is the default data set; with None the function decides.
    """

    def run(named: Any = None, /, *arguments: Any, **options: Any) -> Any:
        named = options.pop("dataset", named)
        made = getattr(importlib.import_module(f"{__name__}.{module}"), function)
        return made(dataset if named is None else named, *arguments, **options)

    return run


FIGURES: dict[str, Callable[..., Any]] = {
    "fig1": _lazily("fig1"),
    "fig2": _lazily("fig2"),
    "fig3": _lazily("fig3"),
    "fig4": _lazily("fig4", dataset="mnist-0v8"),
    "fig5": _lazily("rates", "fig5"),
    "fig6": _lazily("rates", "fig6"),
    "fig7": _lazily("histograms", "fig7"),
    "fig8": _lazily("histograms", "fig8"),
    "table1": _lazily("tables", "table1"),
    "table2": _lazily("tables", "table2"),
    "table3": _lazily("tables", "table3"),
}
"""What can be reproduced, by name: functions of (dataset, *, preset, splits, seed, on_progress).

`dataset` None means the figure's own. They return a `Reproduction`, or an object that can be saved and reported alike.
"""

STUDIES = ("fig2", "fig3", "fig4", "fig5", "fig6", "fig7", "fig8")
"""The figures that are made from audits; they also take the options of audits."""

__all__ = ["FIGURES", "STUDIES", "Claim", "Reproduction"]
