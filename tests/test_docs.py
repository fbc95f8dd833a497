"""The documentation: examples run, commands are valid, links lead somewhere, the site is built and fetches nothing."""

import importlib.util
import os
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import typer

import mithridate as mi
from mithridate import cli
from mithridate.results.verdict import parse_gate

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
SLOW = ("extending.md", "own-model.md", "own-penalty.md", "own-data.md", "objectives.md", "scikit-learn.md")
SLOW += ("art-and-mlflow.md",)
"""Pages whose examples take long to compile; what they show has tests of its own."""
TUTORIAL = DOCS / "tutorial.md"
SIZES = "--train 60 --valid 40 --splits 1 --poison 0.1 --batch 6"
SMALL = f"{SIZES} --hyperiterations 3 --joint-hyperiterations 3 --inner-steps 20 --epochs 10 --attack bilevel".split()
"""What is added to the tutorial's commands: the same for all, so that what is compiled for one serves the others."""

FENCE = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(page: Path) -> list[tuple[str, str]]:
    """Return the language and the text of every fenced block."""
    return FENCE.findall(page.read_text(encoding="utf-8"))


def commands(text: str) -> Iterator[list[str]]:
    """Yield the arguments of every `mithridate` command that stands on a line of its own."""
    for line in text.replace("\\\n", " ").splitlines():
        if found := re.match(r"(?:\$ |    )?mithridate (.+)", line):
            yield shlex.split(found[1].removesuffix(" &"), comments=True)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def examples(page: Path, all_of_them: bool) -> list[str]:
    """Return the Python blocks of a page, or those without `<!-- slow -->` on the line above."""
    found = re.findall(r"(<!-- slow -->\n)?^```python\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    return [block for slow, block in found if all_of_them or not slow]


def runs(page: Path) -> Iterator[Any]:
    quick, whole = examples(page, False), examples(page, True)
    if quick and page.name not in SLOW:
        yield pytest.param(page, False, id=page.name)
    if whole and (page.name in SLOW or quick != whole):
        yield pytest.param(page, True, id=page.name, marks=pytest.mark.slow)


WITH_EXAMPLES = [run for page in PAGES if page != TUTORIAL for run in runs(page)]


@pytest.mark.parametrize(("page", "all_of_them"), WITH_EXAMPLES)
def test_the_examples_of_a_page_run_from_top_to_bottom(page, all_of_them, tmp_path, monkeypatch):
    for wanted in ("art", "mlflow") if page.name == "art-and-mlflow.md" else ():
        pytest.importorskip(wanted)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": page.stem}
    for block in examples(page, all_of_them):
        exec(compile(block, str(page), "exec"), names)


def test_the_tutorial_runs_from_the_table_to_the_gate(tmp_path, monkeypatch, mithridate):
    monkeypatch.chdir(tmp_path)
    names, codes = {}, []
    for language, block in blocks(TUTORIAL):
        if language == "python":
            exec(compile(block, str(TUTORIAL), "exec"), names)
        for arguments in commands(block) if language == "bash" else ():
            told = mithridate(*arguments, *(SMALL if arguments[0] == "audit" else ()))
            gated = "fail-above:" in told.stderr
            assert told.returncode == gated, told.stderr
            codes.append(told.returncode)
    assert len(codes) >= 4
    assert (tmp_path / "first" / "report.html").exists()


def test_the_gate_of_the_workflow_opens_and_closes(tmp_path, monkeypatch, mithridate):
    """The command and the options of the GitHub workflow, on the tutorial's table, at a size that takes a moment."""
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks(TUTORIAL)[1][1], str(TUTORIAL), "exec"), {})
    Path("data").mkdir()
    Path("data/train.csv").write_text(Path("tumours.csv").read_text().replace("diagnosis", "label", 1))
    Path("audit.toml").write_bytes((DOCS / "examples" / "audit.toml").read_bytes())
    (command,) = re.findall(r"run: mithridate (.+)", (DOCS / "examples" / "audit.yml").read_text(encoding="utf-8"))
    for gate, code in (("0%@5%", 1), ("100%@5%", 0)):
        told = mithridate(*shlex.split(command), *SMALL, "--fail-above", gate, "--out", f"audit-{code}")
        assert told.returncode == code, told.stderr
        assert ("fail-above: learned" in told.stderr) == bool(code)


@pytest.mark.parametrize("page", [page for page in PAGES if list(commands(page.read_text("utf-8")))], ids=name_of)
def test_every_command_is_one_that_the_program_takes(page):
    group = typer.main.get_group(cli.app)
    for arguments in commands(page.read_text(encoding="utf-8")):
        context = group.commands[arguments[0]].make_context(arguments[0], arguments[1:])
        if arguments[0] not in ("audit", "check") or context.params["config"]:
            continue
        fields = {name: context.params[name] for name in mi.AuditConfig.model_fields}
        config = mi.AuditConfig.of(**{name: value for name, value in fields.items() if value not in (None, [], ())})
        if gate := context.params.get("fail_above"):
            parse_gate(gate, config.most_poison)


def test_every_toml_file_is_a_configuration():
    found = [text for page in PAGES for language, text in blocks(page) if language == "toml"]
    for text in (*found, (DOCS / "examples" / "audit.toml").read_text(encoding="utf-8")):
        if "--8<--" not in text:
            mi.AuditConfig.of(**tomllib.loads(text))


def test_the_readme_names_the_two_commands_and_links_between_pages_exist():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "make audit" in text
    assert "make test" in text
    for page in PAGES:
        for link in re.findall(r"\]\((?!http)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


class Fetched(HTMLParser):
    """What a browser would fetch to show a page, and the ids that can be linked to."""

    def __init__(self):
        super().__init__()
        self.addresses: list[str] = []
        self.ids: set[str] = set()

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.ids.add(given.get("id") or "")
        sources = () if tag == "a" else ("src", "srcset", "href", "data", "poster")
        self.addresses += [given[name] or "" for name in sources if name in given]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    missing = [name for name in ("material", "mkdocstrings", "latex2mathml") if not importlib.util.find_spec(name)]
    if missing:
        pytest.skip(f"the site's tools are not installed (pip install '.[docs]'): {', '.join(missing)}")
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    told = subprocess.run(build, cwd=ROOT, env=quiet, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    return folder


def read(page: Path) -> Fetched:
    found = Fetched()
    found.feed(page.read_text(encoding="utf-8"))
    return found


def test_the_site_fetches_nothing_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > len(PAGES) - 2
    for page in pages:
        foreign = [address for address in read(page).addresses if re.match(r"(\w+:)?//", address)]
        assert not foreign, f"{page.relative_to(site)} fetches {foreign}"
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*['\"]?(\w+:)?//", sheet.read_text(encoding="utf-8")), sheet.name


def test_every_formula_is_drawn(site):
    for page in PAGES[1:]:
        formulas = page.read_text(encoding="utf-8").count("$$") // 2
        built = (site / page.relative_to(DOCS)).with_suffix(".html").read_text(encoding="utf-8")
        assert built.count('display="block"') == formulas, page.name
        assert "arithmatex" not in built


def test_docstrings_become_lists_and_code():
    pytest.importorskip("griffe")
    written = runpy.run_path(str(DOCS / "tools" / "docstrings.py"))["as_markdown"]
    said = (
        "What.\n\nArguments: `x` (n; m), rows;\n`y`, labels.\n\nExample:\n    >>> f()  # doctest: +SKIP\n\n    >>> g()"
    )
    code = "**Example**\n\n```pycon\n>>> f()\n\n>>> g()\n```"
    assert written(said) == f"What.\n\n**Arguments**\n\n- `x` (n; m), rows\n- `y`, labels.\n\n{code}"
    assert written("`a`: this; and that. `b`: more.") == "- `a`: this; and that\n- `b`: more."


def test_the_reference_has_every_public_name_and_every_option(site):
    ids = {name for page in (site / "reference").glob("*.html") for name in read(page).ids}
    assert {f"mithridate.{name}" for name in mi.__all__ if name != "__version__"} <= ids
    built = (site / "reference" / "command-line.html").read_text(encoding="utf-8")
    for name, command in typer.main.get_group(cli.app).commands.items():
        section = built[built.index(f'id="mithridate-{name}"') :]
        for option in command.params:
            shown = option.param_type_name == "option" and not getattr(option, "hidden", False)
            for flag in (*option.opts, *option.secondary_opts) if shown else ():
                assert f"<code>{flag}</code>" in section, f"{name}: {flag}"
