"""Writes a run as JSON, as Markdown that can be pasted into a review, and as JUnit's XML.

With JUnit's XML a build shows each defender as a test.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

from mithridate.errors import StorageError
from mithridate.results.report.wording import cell, filed, headline, outcome
from mithridate.results.results import AuditResult
from mithridate.results.verdict import curves, gate_failures

Format = Literal["html", "json", "markdown", "junit"]
SUFFIXES = {"html": ".html", "json": ".json", "markdown": ".md", "junit": ".xml"}
_ILLEGAL = re.compile(r"[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""The characters that XML 1.0 cannot hold."""
Gate = tuple[float, float, bool]


def write_export(
    path: Path, kind: Format, results: Sequence[AuditResult], titles: Sequence[str], gate: Gate | None = None
) -> Path:
    """Write these results under their titles in a form that is not HTML; return the path.

    `gate` decides which of JUnit's tests fail: (error, share, whether a constant model passes), see `gate_failures`.
    Raises `StorageError` if the file cannot be written.
    """
    if kind == "json":
        told: Any = [result.summary() for result in results]
        text = json.dumps(told[0] if len(told) == 1 else told, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    elif kind == "markdown":
        text = "\n".join(markdown(result, title) for result, title in zip(results, titles, strict=True))
    else:
        text = junit(results, titles, gate)
    try:
        path.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}; give another file") from error
    return path


def markdown(result: AuditResult, title: str) -> str:
    """Return Markdown: verdict, table of defenders, warnings, threat model, official terms, and what follows."""
    lines = [f"## {_escaped(title)}", "", headline(result).sentence, ""]
    found = curves(result.frame, ("attack_success",))
    shares = next(iter(found.values()))["ratio"]
    lines += [f"| defender | {' | '.join(f'{share:.1%}' for share in shares)} | tolerates |"]
    lines += ["|---" * (len(shares) + 2) + "|"]
    for policy, curve in found.items():
        errors = [cell(curve["attack_success"], place, share=True) for place in range(len(shares))]
        lines.append(f"| {_escaped(policy)} | {' | '.join(errors)} | {outcome(result, policy).tolerance} |")
    lines += ["", *(f"- {_escaped(sentence)}" for sentence in result.verdict.summary)]
    lines += [f"- **{_escaped(warning)}**" for warning in result.verdict.warnings]
    lines += ["", "### What the attacker was allowed", ""]
    lines += [f"- *{name.replace('_', ' ')}*: {_escaped(text)}" for name, text in result.threat_model.items()]
    lines += [f"- *{source}*: {_escaped(text)}" for source, text in filed(result.config)]
    lines += ["", "### What follows from these figures", ""]
    lines += [f"- {_escaped(sentence)}" for sentence in result.advice]
    return "\n".join(lines) + "\n"


def junit(results: Sequence[AuditResult], titles: Sequence[str], gate: Gate | None = None) -> str:
    """Return JUnit's XML: a suite for each result, with a test for each defender, which fails if the gate says so.

    A test is in error if some of its cells could not be computed.
    """
    root = ElementTree.Element("testsuites", name="mithridate")
    for result, title in zip(results, titles, strict=True):
        suite = ElementTree.SubElement(root, "testsuite", name=_legal(title))
        for name, rows in result.candidates.groupby("policy", sort=False):
            own, called = result.frame[result.frame["policy"] == name], {"classname": title, "name": str(name)}
            case = ElementTree.SubElement(suite, "testcase", {key: _legal(text) for key, text in called.items()})
            case.set("time", f"{own['seconds'].sum():.1f}")
            failures = gate_failures(rows, *gate) if gate else []
            if own["status"].str.contains("failed").any():
                reasons = own["reason"][own["reason"] != ""].unique().tolist()
                _told(case, "error", "cells", "some cells could not be computed", reasons)
            elif failures:
                _told(case, "failure", "gate", failures[0], failures)
            said = [sentence for sentence in result.verdict.summary if sentence.startswith(f"{name}: ")]
            ElementTree.SubElement(case, "system-out").text = _legal("\n".join(said))
    for part in (*root, root):
        for attribute, kind in (("tests", "testcase"), ("failures", "failure"), ("errors", "error")):
            part.set(attribute, str(len(part.findall(f".//{kind}"))))
        part.set("time", f"{sum(float(case.attrib['time']) for case in part.iter('testcase')):.1f}")
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _told(case: ElementTree.Element, kind: str, of: str, message: str, said: Sequence[str]) -> None:
    """Add why a test failed, in short and in full, because some readers show only one of the two."""
    found = ElementTree.SubElement(case, kind, message=_legal(message), type=f"mithridate.{of}")
    found.text = _legal("\n".join(said) or message)


def _legal(text: str) -> str:
    """Return text in which � replaces the characters that XML 1.0 cannot hold."""
    return _ILLEGAL.sub("\ufffd", text)


def _escaped(text: str) -> str:
    """Return text in which no character is Markdown syntax."""
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|#" else " " if letter in "\n\r" else letter for letter in text)
