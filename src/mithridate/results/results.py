"""An audit's result: in memory, and as a run directory.

    records.parquet   one row per split, policy and ratio: the attack that was audited
    candidates.parquet   the same for every attack that was measured
    audit.json        data set, threat model, configuration, versions, verdict, advice, curves
    report.html       everything, for readers
    poison/*.npz      per split and policy: the points, and all that is needed to retrain on them
    poison/*.csv      for a table: the points as its rows, and (-start.csv) what they were before; against an estimator
                      with a column poison_contribution, the harm that each does
    figures/*.png|svg

A run directory appears whole or not at all: it is written beside its place and then renamed. No pickle is read or
written.
"""

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mithridate.errors import StorageError
from mithridate.files.durable import PART, flush
from mithridate.notebooks import table
from mithridate.results.advice import advice
from mithridate.results.figures import draw_all
from mithridate.results.records import file_name
from mithridate.results.report import write_report
from mithridate.results.report.wording import Outcome, headline, outcome
from mithridate.results.stored import CONTRIBUTION, read_run
from mithridate.results.style import drawing
from mithridate.results.terms import CHECKED, terms
from mithridate.results.verdict import Verdict, curves, measure

FORMAT = 7
ROWS = ("-start.csv", ".csv")
"""The endings of the files that have a chain's points as rows of a table: at their start, and at their end."""


@dataclass(frozen=True)
class AuditResult:
    """What an audit found.

    Arguments:
        dataset: Name, sizes and columns of the data, as in audit.json.
        threat_model: What the attacker knows and may do, as in audit.json.
        config: All options, as in audit.json.
        versions: Versions of everything that numbers depend on.
        frame: One row per split, policy and ratio (see `Record`): the attack that was audited.
        candidates: The same rows, and those of the attacks that it is compared with.
        defenders: Name → what the defender does in `words`, whether he is `fixed` (he does not answer to poison), and
            the `bounds` of λ if he tunes it (otherwise None).
        verdict: The answer.
        poison: (split, policy) → the arrays of its npz file.
        rows: For a table of the user's own: (split, policy) → the points as rows, at their start and at their end.
    """

    dataset: dict[str, Any]
    threat_model: dict[str, str]
    config: dict[str, Any]
    versions: dict[str, str]
    frame: pd.DataFrame = field(repr=False)
    candidates: pd.DataFrame = field(repr=False)
    defenders: dict[str, dict[str, Any]]
    verdict: Verdict
    poison: dict[tuple[int, str], dict[str, np.ndarray]] = field(repr=False)
    rows: dict[tuple[int, str], tuple[pd.DataFrame, pd.DataFrame]] = field(default_factory=dict, repr=False)

    def __repr__(self) -> str:
        said = "; ".join(f"{one.policy} {one.clean:.1%} → {one.worst:.1%}" for one in self._outcomes)
        splits, most = self.frame["split"].nunique(), self.frame["ratio"].max()
        name, named = self.dataset["name"], measure(self.config["objective"], self.config["score"])
        return f"AuditResult({name}: {named}, clean → {most:.1%} poison, {splits} split(s): {said})"

    def _repr_html_(self) -> str:
        told = headline(self)
        rows = [(one.policy, *one.said.values()) for one in self._outcomes]
        head = ("defender", f"{told.what} clean", f"at {told.most} poison", "tolerates")
        return table(told.sentence, head, rows, self.verdict.warnings)

    @property
    def _outcomes(self) -> list[Outcome]:
        return [outcome(self, policy) for policy in self.frame["policy"].unique()]

    @property
    def status(self) -> str:
        """The state: "failed" if a cell could not be computed, else "warnings" if the verdict has some, else "ok"."""
        if self.frame["status"].str.contains("failed").any():
            return "failed"
        return "warnings" if self.verdict.warnings else "ok"

    @property
    def advice(self) -> list[str]:
        """What follows from the figures: who held best, where each defender failed, what was not tried."""
        return self._advice

    @cached_property
    def _advice(self) -> list[str]:
        return advice(self.frame, self.candidates, self.config, self.defenders)

    def summary(self) -> dict[str, Any]:
        """Return the contents of audit.json."""
        return {
            "format": FORMAT,
            "dataset": self.dataset,
            "threat_model": self.threat_model,
            "terms": {"checked": CHECKED, "entries": [term._asdict() for term in terms(self.config)]},
            "defenders": self.defenders,
            "config": self.config,
            "versions": self.versions,
            "seed": self.config["seed"],
            "status": self.status,
            "verdict": self.verdict.as_dict(),
            "advice": self.advice,
            "policies": curves(self.frame),
        }

    def plot(self) -> dict[str, Figure]:
        """Return the figures by name: error, regularisation, rates and, for images, the poison."""
        return draw_all(self.frame, self.candidates, self.poison, self.dataset)

    def save(self, directory: str | Path) -> Path:
        """Write the run directory and return its path.

        Raises `StorageError` if it exists and is not empty, or cannot be written; then nothing is left behind.
        """
        return written_whole(Path(directory), self._write)

    def save_into(self, directory: Path) -> None:
        """Write the same files into the directory in which the audit ran; audit.json is written last.

        Raises `StorageError` if this fails. Then older files there are whole or gone, and this can be done again.
        """
        try:
            with tempfile.TemporaryDirectory(dir=directory, prefix=".result-", suffix=PART) as work:
                self._write(Path(work))
                flush(Path(work))
                (directory / "audit.json").unlink(missing_ok=True)
                for new in sorted(Path(work).iterdir(), key=lambda path: path.name == "audit.json"):
                    old = directory / new.name
                    if old.is_dir() and not old.is_symlink():
                        shutil.rmtree(old)
                    new.replace(old)
            flush(directory, below=False)
        except OSError as error:
            raise StorageError(
                f"cannot write {directory}: {error.strerror or error}; all cells are safe: mend this, then "
                f"`mithridate resume {directory}` writes the result"
            ) from error

    def _write(self, directory: Path) -> None:
        self.frame.to_parquet(directory / "records.parquet", index=False)
        self.candidates.to_parquet(directory / "candidates.parquet", index=False)
        text = json.dumps(self.summary(), indent=2, ensure_ascii=False, allow_nan=False)
        (directory / "audit.json").write_text(text + "\n", encoding="utf-8", newline="\n")
        (directory / "poison").mkdir()
        for (split, policy), arrays in self.poison.items():
            np.savez_compressed(_poison_file(directory, split, policy, ".npz"), **arrays)  # pyright: ignore[reportArgumentType]
        for (split, policy), (before, after) in self.rows.items():
            if (parts := self.poison[split, policy].get("contribution")) is not None:
                after = after.assign(**{CONTRIBUTION: parts})
            for end, rows in zip(ROWS, (before, after), strict=True):
                rows.to_csv(_poison_file(directory, split, policy, end), index=False)
        (directory / "figures").mkdir()
        with drawing("figures/"):
            for name, figure in self.plot().items():
                for kind in ("png", "svg"):
                    figure.savefig(directory / "figures" / f"{name}.{kind}", dpi=150)
        with drawing("report.html"):
            write_report(directory / "report.html", [self])


def written_whole(directory: Path, write: Callable[[Path], None]) -> Path:
    """Let `write` fill a new directory beside this one, then move it into place; return its path.

    Raises `StorageError` if it exists and is not empty, or cannot be written; then nothing is left behind.
    """
    target = directory.absolute()
    check_free(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as work:
            staged = Path(work) / target.name
            staged.mkdir()
            write(staged)
            flush(staged)
            # An empty directory may be in the way of the rename; `check_free` has refused any other.
            if target.exists():
                target.rmdir()
            staged.rename(target)
            flush(target.parent, below=False)
    except OSError as error:
        raise StorageError(f"cannot write {target}: {error.strerror or error}; give another directory") from error
    return target


def check_free(target: Path, needed: int = 64 * 2**20, hidden: bool = False) -> None:
    """Raise `StorageError` unless a run can be written at `target`; nothing is left behind.

    Checked: the target does not exist or is an empty directory (with `hidden`, hidden files are allowed); its folder
    can be written; `needed` bytes are free.
    """
    if target.exists() and not (
        target.is_dir() and all(hidden and path.name.startswith(".") for path in target.iterdir())
    ):
        what = "already holds a run" if (target / "audit.json").exists() else "exists and is not an empty directory"
        raise StorageError(f"{target} {what}; give another directory or remove it first")
    target = target.absolute()
    parent = next(folder for folder in target.parents if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=parent):
            free = shutil.disk_usage(parent).free
    except OSError as error:
        raise StorageError(f"{parent} cannot be written: {error.strerror}; give another directory") from error
    if free < needed:
        raise StorageError(
            f"{parent} has {free / 2**20:.0f} MiB free, a run may need {needed / 2**20:.0f}; give another directory"
        )


def load_result(directory: str | Path) -> AuditResult:
    """Return the result that `AuditResult.save` wrote to `directory`.

    The directory may be somebody else's, so everything is checked; whatever is returned can be drawn. Raises
    `StorageError` if a file is missing, unreadable, of another format, or contains impossible values.
    """
    folder = Path(directory)
    try:
        found = read_run(folder, FORMAT, lambda *key: f"poison/{_file_of(*key)}", ROWS)
    except (OSError, ValueError) as error:
        raise StorageError(f"{folder} does not hold a readable run: {error}") from error
    said = found.summary["verdict"]
    answer = Verdict(tuple(said["summary"]), said["tolerance"], said["saved"], tuple(said["warnings"]))
    parts = [found.summary[name] for name in ("dataset", "threat_model", "config", "versions")]
    return AuditResult(
        *parts,
        frame=found.frame,
        candidates=found.candidates,
        defenders=found.summary["defenders"],
        verdict=answer,
        poison=found.poison,
        rows=found.rows,
    )


def _poison_file(directory: Path, split: int, policy: str, end: str) -> Path:
    return directory / "poison" / _file_of(split, policy, end)


def _file_of(split: int, policy: str, end: str) -> str:
    return f"split{split}-{file_name(policy)}{end}"
