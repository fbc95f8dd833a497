"""The report in a browser, offline: it draws, answers, runs nothing of the data's and fits phone and paper."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mithridate as mi
from mithridate.results.report import write_report
from test_report import CLASSES, NASTY, POLICIES, made_up

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path and none named by CHROMIUM")

OWN = "<b>own</b> <a href='https://example.org'>%{x}</a>"
LINES = "figure => figure.querySelector('.plot').data.filter(t => t.hoverinfo !== 'skip').map(t => t.y)"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    quiet = ("background-networking", "component-update", "sync", "quic", "gpu")
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--no-first-run", *(f"--disable-{name}" for name in quiet)]
        )
        yield found
        found.close()


@pytest.fixture(scope="module")
def result() -> mi.AuditResult:
    return made_up(policies=(*POLICIES, OWN))


@pytest.fixture(scope="module")
def file(result, tmp_path_factory) -> Path:
    return write_report(tmp_path_factory.mktemp("report") / "report.html", [result])


@pytest.fixture(scope="module")
def shared(browser, file) -> Iterator[Any]:
    with opened(browser, file) as page:
        yield page


@pytest.fixture
def page(shared) -> Any:
    """The report on a desk, in light colours, as if just opened."""
    emulate(shared, media="screen", color_scheme="light")
    shared.set_viewport_size({"width": 1200, "height": 900})
    shared.evaluate("document.querySelectorAll('input').forEach(box => { box.checked = true })")
    for choice in shared.locator("select").all():
        choice.select_option(index=0)
        choice.dispatch_event("change")
    return shared


class opened:  # noqa: N801
    """A page that must log, request and throw nothing."""

    def __init__(self, browser: Any, file: Path, **options: Any):
        self.context = browser.new_context(offline=True, **options)
        self.page, self.seen, self.address = self.context.new_page(), [], file.as_uri()
        self.page.on("console", lambda message: self.seen.append(message.text))
        self.page.on("pageerror", lambda error: self.seen.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.seen.append(dialog.message), dialog.dismiss()))
        self.page.on("request", lambda request: self.seen.append(request.url))

    def __enter__(self) -> Any:
        self.page.goto(self.address)
        return self.page

    def __exit__(self, *error: object) -> None:
        self.context.close()
        asked = [url for url in self.seen if url != self.address and not url.startswith("data:image/png")]
        assert asked == []


def emulate(page: Any, **media: str) -> None:
    """Change the medium and wait until the page has seen it: such events come with the next frame."""
    page.emulate_media(**media)
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def figure(page: Any, name: str) -> Any:
    return page.locator(f"figure[data-chart={name}]")


def test_names_stay_text_and_run_nothing(page, result):
    assert page.title() == f"Poisoning audit: {NASTY}"
    for name in (NASTY, *CLASSES, OWN):
        assert name in page.locator("body").inner_text() or name in page.locator("body").text_content()
    assert page.locator("main b, main i, main u, main em, a[href^=http]").count() == 0
    assert page.evaluate("document.scripts.length") == 3


def test_curves_are_those_of_audit_json(page, result):
    curves = json.loads(json.dumps(result.summary()))["policies"]
    drawn = figure(page, "error").evaluate(LINES)
    assert drawn[::2] == [[100 * y for y in curve["test_error"]["mean"]] for curve in curves.values()]
    told = page.locator("#verdict table").first.locator("tbody tr td:nth-child(3)").all_inner_texts()
    ends = [(c["test_error"]["mean"][-1], c["test_error"]["low"][-1]) for c in curves.values()]
    assert told == [f"{mean:.1%} ± {100 * (mean - low):.1f}" for mean, low in ends]


def test_toggles_take_defenders_flips_and_intervals_away(page):
    error, path = figure(page, "error"), figure(page, "path")
    everything = len(error.evaluate(LINES))
    assert everything == 2 * 3
    error.locator("input.baseline").uncheck()
    assert len(error.evaluate(LINES)) == 3
    bands = "figure => figure.querySelector('.plot').data.length"
    before = error.evaluate(bands)
    error.locator("input.interval").uncheck()
    assert (before, error.evaluate(bands)) == (6, 3)
    error.locator("input.policy").first.focus()
    page.keyboard.press("Space")
    assert len(error.evaluate(LINES)) == 2
    assert len(path.evaluate(LINES)) == 2, "switched in every chart"
    assert not path.locator("input.policy").first.is_checked()


def test_the_metric_chosen_is_drawn_named_and_tabulated(page, result):
    error = figure(page, "error")
    before = error.evaluate(LINES)
    error.locator("select").select_option(label="rows of “<b>x</b>” missed")
    assert error.evaluate(LINES) != before
    assert error.locator(".ylabel").inner_text() == "rows of “<b>x</b>” missed"
    assert "rows of “<b>x</b>” missed" in error.locator(".plot").get_attribute("aria-label")
    error.locator("summary").click()
    assert error.locator("caption:visible").all_inner_texts() == ["rows of “<b>x</b>” missed"]
    means = [rows["fnrs"].str[0].mean() for _, rows in result.frame.groupby(["policy", "n_poison"], sort=False)]
    told = error.locator("table:visible tbody tr").nth(1).locator("td").all_inner_texts()
    assert [text.split()[0] for text in told] == [f"{means[3 * i + 1]:.1%}" for i in range(3)]
    error.locator("summary").click()


def test_hovering_tells_values_and_intervals(page, result):
    plot = figure(page, "error").locator(".plot")
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    plot.locator(".hoverlayer .legend").wait_for()
    told = plot.locator(".hoverlayer").text_content()
    curve = result.summary()["policies"]["learned"]["test_error"]
    mean, low = curve["mean"][1], curve["low"][1]
    assert f"learned: {mean:.1%} ± {100 * (mean - low):.1f}" in told
    assert f"{OWN}: " in told, "Plotly's own markup and templates do not apply to names"
    assert plot.locator(".hoverlayer a").count() == 0


def test_dark_and_light_follow_the_reader(page):
    shade = "[getComputedStyle(document.body).backgroundColor, document.querySelector('.plot').layout.font.color]"
    light = page.evaluate(shade)
    emulate(page, color_scheme="dark")
    dark = page.evaluate(shade)
    assert all(a != b for a, b in zip(light, dark, strict=True))
    emulate(page, media="print")
    assert page.evaluate(shade) == light


def test_paper_shows_everything_and_no_controls(page):
    emulate(page, media="print")
    assert page.locator("details:not([open])").count() == 0
    assert page.locator("nav:visible, select:visible, input:visible").count() == 0
    for part in page.locator("section, .plot svg.main-svg:first-child, .gallery img").all():
        assert part.is_visible()
    width = page.evaluate("document.querySelector('.plot .main-svg').getBoundingClientRect().width")
    assert width <= 680, "A4 and Letter with their margins"
    emulate(page, media="screen")
    assert page.locator("details[open]").count() == 1


def test_a_phone_does_not_scroll_sideways(browser, tmp_path):
    runs = [made_up(broken=True, groups=2, image_shape=None), made_up(policies=(*POLICIES, OWN), splits=1)]
    path = write_report(tmp_path / "report.html", runs, [NASTY, "a-very-long-name-of-a-run-directory-" * 3])
    with opened(browser, path, viewport={"width": 390, "height": 844}, color_scheme="dark") as page:
        for _ in range(2):
            assert page.evaluate("document.documentElement.scrollWidth") <= 390
            page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true })")
        assert page.locator(".plot svg.main-svg:first-child").count() == 5
        figure(page, "error").locator("input.run").first.uncheck()
        assert len(figure(page, "error").evaluate(LINES)) == 6


def test_keyboard_and_landmarks(page):
    page.locator("body").evaluate("() => { document.activeElement.blur(); scrollTo(0, 0) }")
    page.locator("a.skip").focus()
    assert page.locator("a.skip").bounding_box()["x"] >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    assert page.locator("html").get_attribute("lang") == "en"
    for landmark in ("header", "nav", "main", "footer", "h1"):
        assert page.locator(f"body {landmark}").count() == 1
    assert page.locator("section:not([aria-labelledby])").count() == 0
    for box in page.locator("input, select").all():
        assert box.evaluate("box => box.labels.length") == 1
    for plot in page.locator(".plot").all():
        assert len(plot.get_attribute("aria-label")) > 20
    assert page.locator("img:not([alt])").count() == 0
