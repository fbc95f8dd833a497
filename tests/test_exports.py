"""A result in other forms than a page: JUnit's XML, Markdown, what a notebook shows."""

import inspect
from dataclasses import replace
from xml.etree import ElementTree

import pytest

import mithridate as mi
from mithridate.results.exports import junit, markdown
from mithridate.results.verdict import gate_failures
from mithridate.sklearn import PoisoningCurveDisplay, poisoning_curve
from test_report import NASTY, POLICIES, Page, made_up


def test_a_build_sees_each_defender_as_a_test():
    result = made_up(name="plain")
    root = ElementTree.fromstring(junit([result], [NASTY], (0.1, 0.15, False)))
    suite = root[0]
    assert (suite.get("name"), suite.get("tests"), suite.get("failures"), suite.get("errors")) == (NASTY, "2", "2", "0")
    assert [case.get("name") for case in suite] == list(POLICIES)
    failures = gate_failures(result.candidates, 0.1, 0.15)
    assert [case[0].get("message") for case in suite] == failures
    assert [(case[0].text, case[0].get("type")) for case in suite] == [(each, "mithridate.gate") for each in failures]
    assert (root.get("tests"), root.get("failures"), root.get("time")) == ("2", "2", "15.0")
    odd = replace(result, frame=result.frame.assign(reason="\x1b[31mno\x00"))
    named = ElementTree.fromstring(junit([odd], ["a\x07 \ud800 λ"]))[0]
    assert named.get("name") == "a\ufffd \ufffd λ"
    failed = replace(result, frame=result.frame.assign(status="failed"))
    suites = ElementTree.fromstring(junit([result, failed], ["a", "b"]))
    assert [(suite.get("failures"), suite.get("errors")) for suite in suites] == [("0", "0"), ("0", "2")]
    assert "within 5 points of clean" in str(suites[0][0].findtext("system-out"))


def test_markdown_holds_the_table_and_nothing_of_the_names_is_markup():
    text = markdown(made_up(), NASTY)
    assert text.splitlines()[4] == "| defender | 0.0% | 7.5% | 15.0% | tolerates |"
    assert [line.split(" | ")[0] for line in text.splitlines()[6:8]] == [f"| {policy}" for policy in POLICIES]
    assert "<" not in text.replace("\\<", "")


def test_a_notebook_shows_a_short_text_and_a_table_in_which_names_are_text():
    result = made_up()
    assert repr(result).startswith(f"AuditResult({NASTY}: test error, clean → 15.0% poison, 2 split(s): fixed=-8 2.")
    assert len(repr(result)) < 200
    html = result._repr_html_()
    assert NASTY not in html
    assert [tag for tag, _ in Page(html).tags if tag == "script"] == []
    assert len(Page(html).tables[0]) == 1 + len(POLICIES)
    config = mi.AuditConfig.of(dataset=NASTY, train=40, valid=40)
    assert "train=40" in repr(config)
    assert len(repr(config)) < 400
    assert [row[0] for row in Page(config._repr_html_()).tables[0][1:]] == list(mi.AuditConfig.model_fields)
    assert NASTY not in config._repr_html_()


@pytest.mark.parametrize("function", [mi.audit, mi.check, mi.AuditConfig.of, PoisoningCurveDisplay.from_estimator])
def test_a_notebook_completes_every_option(function):
    found = inspect.signature(function).parameters
    assert not [one for one in found.values() if one.kind is one.VAR_KEYWORD]
    wanted = inspect.signature(poisoning_curve).parameters if "estimator" in found else mi.AuditConfig.model_fields
    assert found.keys() >= set(wanted)
