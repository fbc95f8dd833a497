"""The paper's figures, made again: one module per figure, one directory of results per run.

Each module's `run` computes a frame of plain numbers, draws the figure, and says of every sentence in which the paper
reports what it saw whether it came out, with numbers. A figure that did not come out is drawn and said to be so.
"""

from mithridate.reproduction import fig4
from mithridate.reproduction.outcome import Claim, Reproduction

FIGURES = {"fig4": fig4.run}
"""What can be reproduced, by name: functions of (dataset, out, preset, splits, on_progress, options)."""

__all__ = ["FIGURES", "Claim", "Reproduction"]
