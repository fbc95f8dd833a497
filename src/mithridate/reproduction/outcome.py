"""The result of a reproduction: a frame, a figure, a caption and claims with verdicts, in memory or as a directory."""

import json
import textwrap
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from matplotlib.figure import Figure

from mithridate.results.results import written_whole
from mithridate.results.verdict import curves

Answer = Literal["holds", "does not hold", "not enough data"]


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper, and whether it holds here.

    `number` orders the claims; `paper`: the sentence; `found`: what we saw, in words and numbers; `effect` ± `half` in
    `unit`: the mean over splits and half its 95 % interval (None with one split); `expected`: the effect for which the
    sentence holds; `verdict`; `where`: its place in the paper; `dataset`: the data set, if a figure has several.
    """

    number: str
    paper: str
    found: str
    effect: float | None
    half: float | None
    unit: str
    expected: str
    verdict: Answer
    where: str = ""
    dataset: str = ""

    def __str__(self) -> str:
        """Return the claim as a paragraph."""
        on = f" on {self.dataset}" if self.dataset else ""
        said = f"({self.number}) {self.verdict.upper()}{on}: {self.paper} [{self.where}]"
        size = f"{signed(self.effect, self.half)} {self.unit}; expected {self.expected}"
        lines = [(said, ""), (f"{size}. {self.found}", "    ")]
        return "\n".join(textwrap.fill(line, 118, initial_indent=i, subsequent_indent="    ") for line, i in lines)


def mean_and_half(values: pd.Series) -> tuple[float | None, float | None]:
    """Return the mean of one value per split and half its 95 % interval; None if undefined."""
    frame = pd.DataFrame({"policy": "", "n_poison": 0, "ratio": 0.0, "value": values.astype(float)})
    found = curves(frame, ("value",))[""]["value"]
    mean, low = found["mean"][0], found["low"][0]
    return mean, None if mean is None or low is None else mean - low


def above(bound: float, name: str = "") -> tuple[str, Callable[[float, float], Answer]]:
    """Return the expectation that an effect exceeds `bound`, and its judge: the whole interval must."""

    def judge(low: float, high: float) -> Answer:
        return "holds" if low > bound else "does not hold" if high <= bound else "not enough data"

    return name or f"> {bound:g}", judge


def below(bound: float, name: str = "") -> tuple[str, Callable[[float, float], Answer]]:
    """Return the expectation that an effect stays below `bound`, and its judge: the whole interval must."""

    def judge(low: float, high: float) -> Answer:
        return "holds" if high < bound else "does not hold" if low >= bound else "not enough data"

    return name or f"< {bound:g}", judge


def within(margin: float) -> tuple[str, Callable[[float, float], Answer]]:
    """Return the expectation that an effect lies within ±`margin`, and its judge: the whole interval must."""

    def judge(low: float, high: float) -> Answer:
        if -margin <= low and high <= margin:
            return "holds"
        return "does not hold" if low > margin or high < -margin else "not enough data"

    return f"within ±{margin:g}", judge


def claim(
    number: str,
    paper: str,
    values: pd.Series,
    unit: str,
    expectation: tuple[str, Callable[[float, float], Answer]],
    found: str,
    where: str = "",
    dataset: str = "",
) -> Claim:
    """Return the claim, judged by one value per split. With one split the verdict is "not enough data"."""
    mean, half = mean_and_half(values)
    expected, judge = expectation
    verdict = "not enough data" if mean is None or half is None else judge(mean - half, mean + half)
    return Claim(number, paper, found, mean, half, unit, expected, verdict, where, dataset)


def signed(mean: float | None, half: float | None) -> str:
    """Return `+1.23 ± 0.45`, or the known part of it."""
    if mean is None:
        return "unknown"
    return f"{mean + 0.0:+.3g}" + ("" if half is None else f" ± {half:.2g}")


@dataclass(frozen=True)
class Reproduction:
    """One figure of the paper, reproduced.

    `name`, such as fig4; `frame`, plain numbers; `claims`; `caption`, how it was made; `settings`, the same for
    programs; `figure`, drawn only from the frame.
    """

    name: str
    frame: pd.DataFrame = field(repr=False)
    claims: tuple[Claim, ...]
    caption: str
    settings: dict[str, Any] = field(repr=False)
    figure: Figure = field(repr=False)

    def report(self) -> str:
        """Return the claims as text, each with its verdict and numbers."""
        return "\n".join(map(str, self.claims))

    def save(self, directory: str | Path) -> Path:
        """Write `NAME.parquet`, `NAME.png`, `NAME.svg`, `caption.txt` and `claims.json`; return the directory.

        It appears completely or not at all. Raises `StorageError` if it exists and is not empty, or cannot be written.
        """
        return written_whole(Path(directory), self._write)

    def _write(self, directory: Path) -> None:
        self.frame.to_parquet(directory / f"{self.name}.parquet", index=False)
        for kind in ("png", "svg"):
            self.figure.savefig(directory / f"{self.name}.{kind}", dpi=150)
        (directory / "caption.txt").write_text(self.caption + "\n", encoding="utf-8", newline="\n")
        said = {"figure": self.name, **self.settings, "claims": [asdict(claim) for claim in self.claims]}
        text = json.dumps(said, indent=2, ensure_ascii=False, allow_nan=False)
        (directory / "claims.json").write_text(text + "\n", encoding="utf-8", newline="\n")
