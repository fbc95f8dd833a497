"""Makes one HTML document of results, with everything that it needs inside.

Names from the user's data are always text: Jinja escapes them in HTML and in the JSON of the charts, report.js escapes
them in Plotly's labels. The page's Content-Security-Policy names its two scripts by their hashes: nothing else can run,
and nothing can be fetched.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from mithridate.configuration.config import AuditConfig
from mithridate.errors import InputError, StorageError
from mithridate.results import tuned
from mithridate.results.figures import COLOURS
from mithridate.results.records import FAULTS, NOISE, flips_of
from mithridate.results.report import charts, wording
from mithridate.results.report.command import command, departures
from mithridate.results.report.gallery import galleries
from mithridate.results.report.source import Audited
from mithridate.results.verdict import TOLERATED, baseline, curves, meaning_of, untold, worst_by_ratio

SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "x")
OUTLINES = (
    "M13 7a5 5 0 1 0 10 0a5 5 0 1 0-10 0z",
    "M13.5 2.5h9v9h-9z",
    "M18 1l6 6l-6 6l-6-6z",
    "M18 1.5l6 10h-12z",
    "M18 12.5l6-10h-12z",
    "M16 1.5h4v3.5h3.5v4h-3.5v3.5h-4v-3.5h-3.5v-4h3.5z",
    "M14 1.5l4 3.2l4-3.2l1.8 2.3l-4 3.2l4 3.2l-1.8 2.3l-4-3.2l-4 3.2l-1.8-2.3l4-3.2l-4-3.2z",
)
"""Plotly's markers in the order of `figures.MARKERS`, and their outlines in a key of 36 × 14."""
DASHES = ("solid", "8px,4px", "8px,3px,2px,3px", "4px,3px", "12px,3px", "2px,3px", "14px,4px,2px,4px")


class Style(NamedTuple):
    """How a policy is drawn: the number of its colour, Plotly's marker, its outline in the key, and Plotly's dash."""

    name: str
    colour: int
    symbol: str
    outline: str
    dash: str


def render(results: Sequence[Audited], titles: Sequence[str] | None = None) -> str:
    """Return the report of these results as one HTML document that fetches nothing.

    Arguments: `results`, at least one; `titles`, one for each result (default: the names of the data sets). Raises
    `InputError` if there is no result, or if titles and results differ in number.
    """
    if not results:
        raise InputError("a report needs at least one result")
    names = list(titles) if titles is not None else [str(result.dataset["name"]) for result in results]
    if len(names) != len(results):
        raise InputError(f"titles = {names}: there are {len(results)} results; give each a title")
    policies = list(dict.fromkeys(str(policy) for result in results for policy in result.frame["policy"]))
    kinds = (charts.error_chart, charts.path_chart, charts.norm_chart, charts.history_chart)
    found = [*(kind(results, policies) for kind in kinds), charts.weight_chart(results, policies, names)]
    made = [chart for chart in found if chart]
    dashes = [DASHES[i % 7] for i in range(max(len(policies), len(results)))]
    styles = [
        Style(name, i % 7, SYMBOLS[i % 7], OUTLINES[i % 7], dashes[i] if len(results) == 1 else "solid")
        for i, name in enumerate(policies)
    ]
    scripts = [_plotly(), _file("report.js")]
    environment = Environment(
        loader=PackageLoader("mithridate.results", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["sentence"] = lambda text: text[:1].upper() + text[1:]
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "ensure_ascii": False}
    return environment.get_template("template.html.j2").render(
        heading="Poisoning audit: " + ", ".join(dict.fromkeys(str(result.dataset["name"]) for result in results)),
        runs=[_run(result, name) for result, name in zip(results, names, strict=True)],
        several=len(results) > 1,
        refitted=any(result.config.get("estimators") for result in results),
        differences=_differences(results),
        threat=wording.threat(results, names),
        charts={chart.id: chart for chart in made},
        styles=styles,
        dashes=dashes,
        data={
            "charts": {chart.id: chart.as_dict() for chart in made},
            "dashes": DASHES,
            "policies": [style._asdict() for style in styles],
            "runs": [{"name": name, "dash": dashes[i]} for i, name in enumerate(names)],
        },
        glossary=wording.GLOSSARY,
        points=f"{100 * TOLERATED:g}",
        colours=COLOURS,
        css=_file("report.css"),
        scripts=scripts,
        policy=_security(scripts),
    )


def write_report(path: str | Path, results: Sequence[Audited], titles: Sequence[str] | None = None) -> Path:
    """Write the report of these results to `path`, replacing a file that is there, and return the path.

    Raises `InputError` as `render` does, and `StorageError` if the file cannot be written.

    Example:
        >>> write_report("report.html", [])
        Traceback (most recent call last):
        mithridate.errors.InputError: a report needs at least one result
    """
    page, target = render(results, titles), Path(path)
    try:
        target.write_text(page, encoding="utf-8", newline="\n")
    except OSError as error:
        raise StorageError(f"cannot write {target}: {error.strerror or error}; give another file") from error
    return target


def _file(name: str) -> str:
    return files("mithridate.results.report").joinpath(name).read_text(encoding="utf-8")


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return get_plotlyjs()


def _security(scripts: Sequence[str]) -> str:
    """Return the Content-Security-Policy: no network, no other scripts. Styles are allowed because Plotly sets some."""
    digests = [base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii") for text in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )


def _run(result: Audited, title: str) -> dict[str, Any]:
    """Return everything that the page says about one run, except its charts."""
    frame, config = result.frame, result.config
    return {
        "title": title,
        "result": result,
        "model": wording.model(config),
        "refitted": bool(config.get("estimators")),
        "splits": frame["split"].nunique(),
        "headline": wording.headline(result),
        "defenders": _defenders(result),
        "constant": baseline(frame),
        "kinds": _kinds(result),
        "needed": _needed(result),
        "galleries": galleries(result),
        "faults": _faults(frame),
        "cells": _cells(result),
        "command": command(config),
        "configuration": _configuration(config),
        "time": wording.duration(float(frame["seconds"].sum())),
    }


def _defenders(result: Audited) -> list[dict[str, str]]:
    """Return the rows of the verdict's table, one per policy."""
    found = []
    flips = curves(flips_of(result.frame, result.candidates), ("attack_success",))
    for policy, curve in curves(result.frame, ("attack_success",)).items():
        own = result.frame[result.frame["policy"] == policy]
        tolerated = wording.outcome(result, policy).tolerance
        found.append(
            {
                "name": policy,
                "meaning": result.defenders[policy]["words"],
                "clean": wording.cell(curve["attack_success"], 0, share=True),
                "attacked": wording.cell(curve["attack_success"], -1, share=True),
                "flipped": wording.cell(flips[policy]["attack_success"], -1, share=True)
                if policy in flips and flips[policy]["points"][-1]
                else "—",
                "tolerated": tolerated,
                "strengths": wording.strengths(own),
            }
        )
    return found


def _kinds(result: Audited) -> dict[str, dict[str, float]]:
    """Return the success of each kind of attack at the most poison: kind → defender → mean over splits."""
    last = result.candidates[result.candidates["n_poison"] == result.frame["n_poison"].max()]
    found = last.groupby(["attack", "policy"], sort=False)["attack_success"].mean().unstack("policy").sort_index()
    worst = found.mean(axis=1).sort_values(ascending=False, kind="stable").index
    return {str(kind): found.loc[kind].dropna().to_dict() for kind in worst}


def _needed(result: Audited) -> dict[str, dict[str, str]]:
    """Return for each capability the lowest audited share at which each defender is no longer within tolerance."""
    cells, found = result.candidates, {}
    clean, most = cells["n_poison"] == 0, wording.percent(cells["ratio"].max())
    for capability, kinds in wording.CAPABILITIES.items():
        own = cells[clean | cells["attack"].isin(kinds)] if kinds else cells
        if own["n_poison"].max() == 0 or (not kinds and result.config["edits"] == "labels"):
            continue
        found[capability] = {}
        for policy, rows in own.groupby("policy", sort=False):
            worst = worst_by_ratio(rows)
            beyond = worst.index[worst > worst.iloc[0] + TOLERATED + NOISE]
            said = f"more than {most}" if worst.notna().all() else wording.UNKNOWN
            told = wording.percent(beyond[0]) if len(beyond) else said
            found[capability][str(policy)] = wording.UNKNOWN if untold(rows) else told
    return found if len(found) > 1 else {}


def _faults(frame: pd.DataFrame) -> list[tuple[str, int, str]]:
    """Return for each fault that occurs its name, the number of cells, and its meaning and remedy."""
    faults, reasons = frame["status"].str.split("+").explode(), frame["reason"][frame["reason"] != ""].unique()
    texts = {fault: meaning_of(fault, frame) for fault in FAULTS if (faults == fault).any()}
    if "failed" in texts:
        texts["failed"] = ". ".join((texts["failed"], *reasons))
    return [(fault, int((faults == fault).sum()), text) for fault, text in texts.items()]


def _cells(result: Audited) -> list[dict[str, str]]:
    """Return every cell as text; cells with a fault come first."""
    frame, at = result.frame, ["split", "policy", "n_poison"]
    flips = flips_of(frame, result.candidates).set_index(at)["test_error"].rename("flipped")
    frame = frame.join(flips, on=at)
    ordered = frame.iloc[np.argsort(frame["status"].eq("ok").to_numpy(), kind="stable")]
    return [
        {
            "status": row["status"],
            "split": str(row["split"] + 1),
            "defender": row["policy"],
            "poison": wording.percent(row["ratio"]),
            "points": str(row["n_poison"]),
            "test error": wording.percent(row["test_error"]),
            "flipped": wording.percent(row["flipped"]),
            **_setting(row),
            "time": f"{row['seconds']:.1f} s",
        }
        for row in ordered.to_dict("records")
    ]


def _setting(row: Mapping[Any, Any]) -> dict[str, str]:
    """Return what is set in a cell and how it came about: λ, or what an estimator has tuned."""
    if row["tuned"]:
        values = "; ".join(f"{name} = {value}" for name, value in tuned.found(row["tuned"]).items())
        return {"attack": row["attack"], "tuned": values or "—", "fits": f"{row['fits']:,}"}
    return {
        "λ": ", ".join(map(wording.number, row["log_strengths"])),
        "best λ": ", ".join("—" if np.isnan(v) else f"{v:.2f}" for v in row["best_log_strengths"]),
        "η·curvature": wording.number(row["stability"]),
        "derivatives": row["hypergradients"] or "—",
    }


def _configuration(config: Mapping[str, Any]) -> list[tuple[str, str, str, bool]]:
    """Return for each option its name, value and meaning, and whether it differs from the defaults."""
    given, fields = departures(config) or {}, AuditConfig.model_fields
    return [
        (name, _value(value), (fields[name].description or "") if name in fields else "", name in given)
        for name, value in config.items()
    ]


def _value(value: Any) -> str:
    if value in (None, [], ()):
        return "—"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _differences(results: Sequence[Audited]) -> list[tuple[str, list[str]]]:
    """Return the options and versions in which the runs differ, with the value of each run."""
    found = []
    for part in ("config", "versions"):
        tables = [getattr(result, part) for result in results]
        for name in dict.fromkeys(name for table in tables for name in table):
            values = [_value(table.get(name)) for table in tables]
            if len(set(values)) > 1:
                found.append((name, values))
    return found
