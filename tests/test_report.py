"""The report's HTML: every number is the result's, every name is text, nothing is fetched."""

import json
import math
import re
import shlex
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pandas as pd
import pytest
import typer

import mithridate as mi
from mithridate import cli
from mithridate.results.records import Record, to_frame
from mithridate.results.report import command, render, write_report
from mithridate.results.report.command import REPEATED, SIZES
from mithridate.results.report.gallery import galleries
from mithridate.results.report.wording import headline
from mithridate.results.verdict import verdict

NASTY = "<script>alert(1)</script>"
CLASSES = ("<b>x</b>", '"&amp;', "</script><i>")
POLICIES = ("fixed=-8", "learned")


def made_up(
    splits: int = 2,
    policies: tuple[str, ...] = POLICIES,
    classes: tuple[str, ...] = CLASSES,
    name: str = NASTY,
    groups: int = 1,
    image_shape: tuple[int, int] | None = (3, 2),
    broken: bool = False,
    **options: Any,
) -> mi.AuditResult:
    """Return a result drawn at random, with the shape of an audit's; `broken` has NaN in its last cells."""
    rng, ratios = np.random.default_rng(1), (0, 3, 6)
    config = mi.AuditConfig.of(
        dataset=name, train=40, valid=40, points=6, batch=3, splits=splits, policies=policies, **options
    )

    def record(split: int, policy: str, n_poison: int, attack: str = "bilevel") -> Record:
        bad = broken and n_poison == 6 and policy == policies[-1]
        error = math.nan if bad else 0.02 + 0.02 * n_poison + 0.01 * rng.random()
        error /= 2 if attack == "class flips" else 1
        rates = [math.nan if bad else float(rate) for rate in rng.random(len(classes))]
        strengths = [math.nan if bad else float(n_poison - 8 + group) for group in range(groups)]
        return Record(
            dataset=name,
            model="logistic",
            loss="logistic",
            penalty="l2",
            task="classification",
            split=split,
            policy=policy,
            defence="none",
            attack=attack,
            begun="",
            objective=config.objective,
            score=config.score,
            budget="replaced",
            edits="both",
            n_train=40,
            n_test=20,
            shared_train=0.0,
            shared_test=0.0,
            n_goal=20.0,
            shared_goal=0.0,
            n_poison=n_poison,
            ratio=n_poison / 40,
            test_error=error,
            constant_error=0.5,
            attack_success=error,
            target_success=error,
            fpr=rates[0],
            fnr=rates[-1],
            fprs=rates,
            fnrs=rates[::-1],
            valid_loss=3 * error,
            attack_loss=3 * error,
            valid_loss_before=0.1,
            valid_loss_after=0.2,
            log_strength=float(np.mean(strengths)),
            log_strengths=strengths,
            descended_log_strength=-8.0,
            best_log_strength=math.nan,
            best_log_strengths=[math.nan] * groups,
            weight_norm_sq=3.0 - error,
            weight_norms=[0.1] * groups,
            inner_steps=100,
            space="plain",
            hypergradients="ok:10",
            stability=1.5,
            status="non-finite+weak" if bad else "ok",
            reason="",
            seconds=1.25,
        )

    def arrays(split: int) -> dict[str, np.ndarray]:
        weights = {f"weights_{end}_{i}": rng.normal(size=20) for end in ("clean", "poisoned") for i in range(groups)}
        return {
            "x_poison": rng.random((6, 6)),
            "x_start": rng.random((6, 6)),
            "y_poison": np.arange(6) % len(classes),
            "y_start": np.array([-1, 1, 0, 0, 0, 0]),
            "history": np.array([0.1, 0.2, math.nan if broken else 0.3]),
            "offset": np.zeros(6),
            "scale": np.full(6, 10.0),
            **({} if split else weights),
        }

    at = [(s, policy, n) for policy in policies for s in range(splits) for n in ratios]
    frame = to_frame(record(*each) for each in at)
    candidates = pd.concat([frame, to_frame(record(*each, "class flips") for each in at if each[2])], ignore_index=True)
    dataset = {"name": name, "classes": list(classes), "features": 6, "image_shape": image_shape, "train": 40}
    dataset |= {"feature_names": [], "columns": []}
    return mi.AuditResult(
        dataset=dataset | {"valid": 40, "test": 50, "official_test_rows": False, "source": "<u>a file</u>"},
        threat_model={
            "goal": "<em>harm</em>",
            "knows": "everything",
            "own_entry": "as it is",
            "not_tested": "the rest",
        },
        config=config.model_dump(mode="json"),
        versions={"mithridate": "0", "jax": "0", "device": "cpu"},
        frame=frame,
        candidates=candidates,
        defenders={
            policy: {
                "fixed": policy != "learned",
                "words": f"does as {policy} says",
                "bounds": [-8.0, 5.0] if policy == "learned" else None,
            }
            for policy in policies
        },
        verdict=verdict(frame, candidates, [policy for policy in policies if policy != "learned"]),
        poison={(split, policy): arrays(split) for policy in policies for split in range(splits)},
    )


class Page(HTMLParser):
    """What a browser would find in a page: tags with attributes, text outside scripts, tables by caption."""

    def __init__(self, html: str):
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.within, self.in_cell = "", "", False
        self.tables: list[list[list[str]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self.within = tag
        elif tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.in_cell = True
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self.within = "" if tag == self.within else self.within
        self.in_cell = self.in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        self.text += "" if self.within else data
        if self.in_cell:
            self.tables[-1][-1][-1] += data


@pytest.fixture(scope="module")
def html() -> str:
    return render([made_up()])


@pytest.fixture(scope="module")
def page(html) -> Page:
    return Page(html)


def data_of(html: str) -> dict[str, Any]:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    return json.loads(text)


def test_names_from_the_data_are_text_in_html_and_json(html, page):
    own = [tag for tag, _ in page.tags]
    assert own.count("script") == 3, "Plotly, the page's own, and its data"
    assert not {"b", "i", "u", "em"} & set(own)
    for name in (NASTY, *CLASSES, "<u>a file</u>", "<em>harm</em>"):
        assert name in page.text
    assert data_of(html)["charts"]["error"]["choices"][1]["label"] == "rows of “<b>x</b>” missed"


def test_nothing_is_fetched(page):
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form")
        for name, value in attributes.items():
            if name in ("src", "href", "srcset", "action", "poster", "data", "xlink:href"):
                assert (value or "").startswith(("#", "data:image/png;base64,"))
    (policy,) = [attrs["content"] or "" for tag, attrs in page.tags if attrs.get("http-equiv")]
    assert "http" not in policy
    assert policy.startswith("default-src 'none'; script-src 'sha256-")


@pytest.mark.parametrize("splits", [1, 3])
def test_numbers_are_those_of_audit_json(splits):
    result = made_up(splits=splits, classes=("no", "yes"), name="plain")
    summary = json.loads(json.dumps(result.summary()))
    html = render([result])
    page = Page(html)

    def told(curve: dict[str, Any], at: int) -> str:
        mean, low = curve["mean"][at], curve["low"][at]
        return f"{mean:.1%}" if low is None else f"{mean:.1%} ± {100 * (mean - low):.1f}"

    verdicts, errors = page.tables[0], page.tables[3]
    for i, (policy, curve) in enumerate(summary["policies"].items()):
        row = verdicts[1 + i]
        assert row[0].startswith(policy)
        assert row[1:3] == [told(curve["test_error"], at) for at in (0, -1)]
        assert (row[4], summary["verdict"]["tolerance"][policy]) == ("below 7.5%", 0.0)
        column = errors[0].index(policy)
        assert [line[column] for line in errors[1:]] == [told(curve["test_error"], at) for at in range(3)]
        assert [line[0] for line in errors[1:]] == [f"{ratio:.1%}" for ratio in curve["ratio"]]
        chosen = next(line for line in data_of(html)["charts"]["error"]["lines"] if line["name"] == policy)
        assert chosen["y"] == [100 * mean for mean in curve["test_error"]["mean"]]
    for sentence in summary["verdict"]["summary"] + summary["verdict"]["warnings"]:
        assert sentence in page.text
    for sentence in summary["advice"]:
        assert sentence in page.text
    for entry in summary["terms"]["entries"]:
        assert f"{entry['id']} {entry['name']}".strip() in page.text
    assert f"checked {summary['terms']['checked']}" in page.text
    assert summary["verdict"]["summary"][0].split()[1] in page.text


def test_the_best_and_the_worst_defender_are_named_with_three_figures_each(html):
    figures = re.findall(r'<strong data-figure="(\w+)">(.*?)</strong>', html)
    assert [name for name, _ in figures] == ["clean", "clean", "worst", "worst", "tolerance", "tolerance"]
    said = [sentence for sentence in made_up().verdict.summary if sentence.startswith(POLICIES)]
    assert all(any(unescape(value) in sentence for sentence in said) for _, value in figures)


def test_failed_cells_come_first_and_unknown_is_said():
    html = render([made_up(broken=True, groups=2)])
    page = Page(html)
    assert "NaN" not in html.rsplit('id="data"', 1)[1].split("</script>")[0]
    assert "unknown" in page.text
    assert "4 of 12 cells" not in page.text
    assert "2 of 12 cells are marked" in page.text
    status = next(table for table in page.tables if table[0][:2] == ["status", "split"])
    assert [row[0] for row in status[1:]] == ["non-finite+weak"] * 2 + ["ok"] * 10
    path = data_of(html)["charts"]["path"]["lines"]
    assert {line["name"] for line in path} == {f"{policy}, λ {i}" for policy in POLICIES for i in (1, 2)}
    assert [line["y"][-1] for line in path] == [-2.0, -1.0, None, None]


@pytest.mark.parametrize("kinds", [{"image_shape": None}, {"splits": 1, "policies": ("fixed=-8",)}])
def test_tables_and_the_smallest_of_results(kinds):
    html = render([made_up(**kinds)])
    assert "<img" in html if "splits" in kinds else "feature 1" in html
    assert "strongest" in html if "splits" not in kinds else "the only defender that was tried" in html


def test_defenders_who_are_all_equal_are_counted():
    result = made_up()
    equal = result.candidates.assign(attack_success=0.1 + result.candidates["ratio"])
    said = headline(replace(result, candidates=equal)).sentence
    assert said.endswith(
        "from 10.0% to 25.0% against fixed=-8, and equally far against all other defenders (2 in all)."
    )


def test_what_each_capability_needs():
    result = made_up()
    cells = result.candidates
    success = np.where(cells["attack"] == "bilevel", 2, 0.5) * cells["ratio"]

    def needed(success: Any) -> list[list[str]]:
        page = Page(render([replace(result, candidates=cells.assign(attack_success=success))]))
        return next(table for table in page.tables if table[0][0] == "what he changes")[1:]

    expected = [["labels, the worst found", *["15.0%"] * 2], ["labels and features, the worst found", *["7.5%"] * 2]]
    assert needed(success) == expected
    assert [row[1:] for row in needed(success / 100)] == [["more than 15.0%"] * 2] * 2
    assert [row[1:] for row in needed(math.nan)] == [["unknown"] * 2] * 2
    cells = cells.assign(constant_error=0.0)
    assert [row[1:] for row in needed(success)] == [["unknown"] * 2] * 2, "of a model with one single answer"


def test_rows_of_a_table_show_in_its_own_names_and_units():
    before = pd.DataFrame({"age [years]": [30.0] * 6, "<b>job</b>": ["cook"] * 6, "label": ["no"] * 6})
    after = before.assign(**{"age [years]": 61.0, "<b>job</b>": "smith"})
    result = made_up(image_shape=None, splits=1, policies=("fixed=-8",))
    result = replace(result, rows={(0, "fixed=-8"): (before, after)})
    rows = next(table for table in Page(render([result])).tables if table[0][0] == "point")
    assert rows[1][2] == "age [years] 30 → 61<b>job</b> cook → smith"
    # The first point's row is not known, the second's label stays, the third's was another; nothing else is changed.
    assert [row[1] for row in rows[1:4]] == [CLASSES[0], CLASSES[1], f"{CLASSES[0]} → {CLASSES[2]}"]
    columns = [
        {"name": name, "kind": kind} for name, kind in zip(before, ("number", "category", "target"), strict=True)
    ]
    data = result.dataset | {"columns": columns}
    still = replace(result, rows={(0, "fixed=-8"): (before, before.assign(label="yes"))}, dataset=data)
    (found,) = galleries(still)
    assert found.moved == []
    assert found.rows[2][2:] == ([], [("age [years]", "30"), ("<b>job</b>", "cook")], 0)
    wide = pd.DataFrame(np.ones((6, 40)))
    (found,) = galleries(replace(still, rows={(0, "fixed=-8"): (wide, wide)}))
    assert (len(found.rows[0].cells), found.rows[0].more) == (12, 28)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"preset": "paper", "policies": ["learned", "fixed=log(20)"]},
        {"model": "mlp", "hidden": "16,4", "strengths": "0,0,1", "bounds": [-0.5, 0.5], "closing": False},
        {"train": 10, "valid": 5, "points": 5, "batch": 5, "victim": "exact", "policies": ["learned"]},
        {"poison": 0.1, "initial": 5, "seed": 7, "inner": "exact", "strength_bounds": [-3, 2.5], "stabilise": False},
        {"objective": "misclassify 3-as-8", "model": "own.models:Net", "budget": "added"},
        {"dataset": "own data.csv", "target": "is it?", "drop": ["row id", "b"], "feasible": ["age=18:99", "job=a|b"]},
    ],
)
def test_the_command_gives_the_same_configuration_with_no_more_options_than_were_given(options):
    config = mi.AuditConfig.of(**{"dataset": "digits-0v8"} | options)
    text = command(json.loads(json.dumps(config.model_dump(mode="json"))))
    assert text
    program, subcommand, *arguments = shlex.split(text)
    assert (program, subcommand) == ("mithridate", "audit")
    audit = typer.main.get_command(cli.app).commands["audit"]  # pyright: ignore[reportAttributeAccessIssue]
    parsed = audit.make_context("audit", arguments).params
    asked = {name: value for name, value in parsed.items() if name in mi.AuditConfig.model_fields and value != ()}
    assert mi.AuditConfig.of(**asked) == config
    named = [word for word in arguments if word.startswith("--")]
    own = len(SIZES) if "dataset" in options else 0  # what own data decide has to be said in any case
    assert len(named) <= own + sum(len(given) if name in REPEATED else 1 for name, given in options.items())


def test_no_command_where_the_model_was_an_object():
    config = mi.AuditConfig.of(dataset="digits-0v8").model_dump(mode="json") | {"model": "MyNet"}
    assert command(config) is None
    result = made_up(name="plain")
    assert "No command line gives this run" in render([replace(result, config=result.config | {"model": "MyNet"})])


def test_several_runs_side_by_side():
    results = [made_up(seed=1), made_up(seed=2, policies=(*POLICIES, "cv-clean"))]
    html = render(results, ["<i>one</i>", "two"])
    page, data = Page(html), data_of(html)
    assert [run["name"] for run in data["runs"]] == ["<i>one</i>", "two"]
    assert [policy["name"] for policy in data["policies"]] == [*POLICIES, "cv-clean"]
    attacked = [line for line in data["charts"]["error"]["lines"] if line["role"] == "attack"]
    assert [line["name"] for line in attacked if line["run"] == 0 and line["choice"] == "test_error"] == list(POLICIES)
    differing = next(table for table in page.tables if table[0] == ["option", "<i>one</i>", "two"])
    assert differing[1:] == [["seed", "1", "2"], ["policies", "fixed=-8, learned", "fixed=-8, learned, cv-clean"]]
    assert "Nothing: configuration and versions are the same" in Page(render([results[0]] * 2)).text


def test_it_is_written_whole_and_wrong_input_is_named(tmp_path):
    result = made_up()
    path = write_report(tmp_path / "report.html", [result])
    assert path.read_bytes() == render([result]).encode()
    with pytest.raises(mi.StorageError, match=r"cannot write .*missing"):
        write_report(tmp_path / "missing" / "report.html", [result])
    with pytest.raises(mi.InputError, match="there are 1 results"):
        render([result], ["one", "two"])
    with pytest.raises(mi.InputError, match="at least one result"):
        render([])
