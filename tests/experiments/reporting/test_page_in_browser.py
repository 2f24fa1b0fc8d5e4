"""The page of a report in headless Chromium: filter, sort, comparison, keyboard and themes."""

import json
import re
import shutil
from pathlib import Path

import pytest

from flaxres.experiments.reporting.report import write_report
from tests.experiments.reporting.test_run_status import write_log
from tests.experiments.results.test_runs import write_run

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt install chromium"),
]
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
HOSTILE = "</script><script>window.hacked=1<"  # a directory of runs may have such a name


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Sweep with a run of each state, with names and configs that look like HTML."""
    workdir = tmp_path_factory.mktemp("sweep")
    for model, errors in {"plain-20": (50.0, 40.0, 30.0), "resnet-20": (20.0, 9.0, 8.0)}.items():
        for seed in (0, 1):
            write_run(workdir, model, seed, errors=errors)
    write_run(workdir, "plain-56", 0, errors=(90.0,))
    write_log(workdir / "plain-56" / "seed-0", "error: training diverged: train_loss is nan.")
    config = workdir / "resnet-20" / "seed-1" / "config.json"
    fields = json.loads(config.read_text()) | {"learning_rate": 0.5, "name": "<img src=x>"}
    config.write_text(json.dumps(fields))
    plan = {f"{HOSTILE.replace('/', ' ')}/seed-0": {"num_steps": 30}}
    (workdir / "sweep.json").write_text(json.dumps(plan))
    return write_report(workdir)[0]


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        options = {"executable_path": CHROMIUM, "args": ARGUMENTS}
        with playwright.chromium.launch(**options) as chromium:
            yield chromium


@pytest.fixture
def open_page(browser, report):
    """Opens the page; at the end, nothing may have been logged or requested."""
    contexts, problems = [], []

    def open_report(**options):
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "request",
            lambda request: (
                request.url.startswith(("data:", Path(report).as_uri()))
                or problems.append(request.url)
            ),
        )
        page.goto(Path(report).as_uri())
        return page

    yield open_report
    for context in contexts:
        context.close()
    assert problems == []


def names(page, label="Runs"):
    rows = page.locator(f"[role=region][aria-label='{label}'] tbody tr:visible")
    return [text.strip() for text in rows.locator("th").all_inner_texts()]


def drawn(page):
    return int(page.locator("#curves .note").inner_text().split()[0])


def test_names_are_text(open_page):
    page = open_page()
    assert page.evaluate("window.hacked") is None
    assert any("window.hacked" in name for name in names(page))
    assert page.locator("img[src=x]").count() == 0


def test_filter(open_page):
    page = open_page()
    for text, expected in {
        "RESNET-20": ["resnet-20/seed-0", "resnet-20/seed-1"],
        "plain seed=1": ["plain-20/seed-1"],
        "learning_rate=0.5": ["resnet-20/seed-1"],
        "test_error<20": ["resnet-20/seed-0", "resnet-20/seed-1"],
        "depth>=56": ["plain-56/seed-0"],
        "diverged": ["plain-56/seed-0"],
        "nothing-like-it": [],
    }.items():
        for word, number in (("", 6), (text, len(expected))):
            page.get_by_label("Filter runs").fill(word)
            count = re.compile(f"^{number} of 6 runs match")
            sync_api.expect(page.locator("#count")).to_have_text(count)
        assert names(page) == expected
        assert names(page, "Fields that differ between runs") == expected
        assert drawn(page) == len(expected)


def test_states_and_sorting(open_page):
    page = open_page()
    page.get_by_label("State").select_option("finished")
    assert len(names(page)) == 4
    header = page.locator("[aria-label=Runs] thead th", has_text="test error %").first
    header.get_by_role("button").press("Enter")
    assert header.get_attribute("aria-sort") == "ascending"
    assert [name.split("/")[0] for name in names(page)] == ["resnet-20"] * 2 + ["plain-20"] * 2
    header.get_by_role("button").click()
    assert header.get_attribute("aria-sort") == "descending"
    assert names(page)[0].startswith("plain-20")
    page.get_by_label("State").select_option("")
    # Runs without a value come last in either direction.
    assert "hacked" in names(page)[-1]
    assert names(page)[0] == "plain-56/seed-0"


def test_two_ticked_runs_are_compared(open_page):
    page = open_page()
    button = page.get_by_role("button", name="Compare the two ticked runs")
    assert button.is_disabled()
    for name in ("plain-20/seed-0", "resnet-20/seed-1"):
        page.get_by_role("checkbox", name=name).check()
    assert drawn(page) == 2
    button.click()
    assert page.evaluate("document.activeElement.textContent") == "Compare two runs"
    rows = page.locator("[aria-label='What differs between the two runs'] tr").all_inner_texts()
    cells = {row.split("\t")[0]: row.split("\t")[1:] for row in rows}
    assert cells["what differs"] == ["plain-20/seed-0", "resnet-20/seed-1"]
    assert cells["training error %"] == ["30.00", "8.00"]
    assert cells["learning_rate"] == ["0.1", "0.5"]
    assert cells["model.name"] == ["plain", "resnet"]
    assert "model.depth" not in cells
    assert "state" not in cells
    assert page.locator("#compare canvas").count() == 2
    page.locator("#compare select[data-run]").nth(0).select_option("plain-56/seed-0")
    assert page.locator("#compare .side-title").nth(0).inner_text() == "plain-56/seed-0 (diverged)"
    page.get_by_role("button", name="Untick all").click()
    assert drawn(page) == 5


def test_chart_controls_and_keyboard(open_page):
    page = open_page()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the results"
    chart = page.locator("#curves .canvas")
    chart.focus()
    for _ in range(60):  # beyond the last step
        page.keyboard.press("ArrowRight")
    readout = page.locator("#curves .readout")
    assert readout.inner_text().startswith("Step 30: ")
    assert "resnet-20/seed-0 test 9" in page.locator("#curves .tooltip").inner_text().replace(
        ":", ""
    )
    page.keyboard.press("+")
    assert readout.inner_text() == "Steps 8 to 23."
    page.keyboard.press("0")
    assert readout.inner_text() == ""
    page.get_by_label("Metric").first.select_option("loss")
    assert "loss against steps" in chart.get_attribute("aria-label")
    for label in ("log scale", "log steps"):
        page.locator("#curves").get_by_label(label, exact=True).check()
    page.get_by_label("Smoothing").select_option("0.1")
    assert drawn(page) == 5
    legend = page.locator("#curves .legend button", has_text="plain-20")
    legend.click()
    assert legend.get_attribute("aria-pressed") == "false"
    assert drawn(page) == 3


def test_values_under_the_pointer(open_page):
    page = open_page()
    plot = page.locator("#curves .u-over")
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.99, box["y"] + box["height"] / 2)
    text = page.locator("#curves .tooltip").inner_text()
    assert "step 30" in text
    assert "plain-20/seed-1 train: 30" in text
    assert "plain-56" not in text  # it has no values there


def test_themes(open_page):
    page = open_page(color_scheme="light")

    def background():
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    light = background()
    page.get_by_label("Theme").select_option("dark")
    dark = background()
    assert light == "rgb(255, 255, 255)"
    assert dark != light
    page.get_by_label("Theme").select_option("auto")
    page.emulate_media(color_scheme="dark")
    assert background() == dark
    page.get_by_label("Theme").select_option("light")
    assert background() == light


def test_phone_and_page_without_scripts(open_page):
    phone = {"width": 390, "height": 844}
    page = open_page(viewport=phone)
    assert not page.get_by_text("The interactive curves need JavaScript").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == phone["width"]
    page = open_page(viewport=phone, java_script_enabled=False)
    assert page.get_by_text("The interactive curves need JavaScript").is_visible()
    assert not page.get_by_label("Filter runs").is_visible()
    assert len(names(page)) == 6
    assert page.locator("#figures img").first.is_visible()
