"""The report of one audit, or of several side by side: one HTML file that needs no network.

It is made from results alone. Python rounds every number when it makes the text; the script in the page only draws.
"""

from mithridate.results.report.command import command
from mithridate.results.report.document import render, write_report

__all__ = ["command", "render", "write_report"]
