"""Report of a half-finished sweep, parsed as HTML and as Markdown."""

import datetime
import html.parser
import json
import re
import shutil
import urllib.parse

import pytest

from flaxres.errors import WorkdirError
from flaxres.experiments.reporting.report import write_report
from flaxres.experiments.results.runs import find_runs
from flaxres.experiments.results.tables import escape_markdown
from tests.experiments.results.test_runs import write_run

NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
SPECIAL = "a<b>&\"'|`*_c_"
COMMAND = "/somewhere/python -m flaxres.main --config=a.py:plain-56 '--workdir=/a & b/<c>'"
VOID_TAGS = {"meta", "link", "img", "br", "hr", "input"}


class Page(html.parser.HTMLParser):
    """Parsed HTML page: tags with attributes, text, and rows of cells by label of the table."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.tables, self._open, self._label = [], {}, [], None
        self.text = ""
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        if tag not in VOID_TAGS:
            self._open.append(tag)
        if tag == "table":
            self.tables[self._label] = []
        elif tag == "tr":
            self.tables[self._label].append([])
        elif tag in ("td", "th"):
            self.tables[self._label][-1].append("")
        elif "aria-label" in attributes:
            self._label = attributes["aria-label"]

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open[-1:] != ["script"]:
            self.text += data
        if self._open and self._open[-1] in ("td", "th"):
            self.tables[self._label][-1][-1] += data

    def rows(self, label):
        header, *rows = self.tables[label]
        return {row[0]: dict(zip(header, row, strict=True)) for row in rows}


def update_json(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Sweep with finished, unfinished, failed and planned runs, and its report."""
    workdir = tmp_path_factory.mktemp("sweep") / "half <b>"
    write_run(workdir, "plain-20", 0)
    write_run(workdir, "plain-20", 1, errors=(40.0, 30.0))
    write_run(workdir, "resnet-20", 0, errors=(5.0, 4.0, 1.0))
    write_run(workdir, "resnet-20", 1, errors=(5.0, 4.0, 3.0))
    write_run(workdir, "plain-56", 0, errors=(90.0,))
    for path in workdir.glob("*/seed-0/config.json"):
        update_json(path, name=SPECIAL)
    for path in workdir.glob("*/seed-*/info.json"):
        update_json(path, commit=40 * "c", device="<CPU>")
    log = f"# 2026-01-02T03:04:05+00:00 host: {COMMAND}\nerror: no <room>\n"
    (workdir / "plain-56" / "seed-0" / "output.log").write_text(log)
    plan = {f"{model}/seed-0": {"num_steps": 30} for model in ("plain-20", "plain-56", "net<i>")}
    (workdir / "sweep.json").write_text(json.dumps(plan))
    (workdir / "analyses").mkdir()
    write_report(workdir, NOW)
    for extension in ("png", "svg"):  # any image will do
        source = workdir / f"figure6.{extension}"
        shutil.copy(source, workdir / "analyses" / f"responses.{extension}")
    shutil.copy(workdir / "figure6.png", workdir / "analyses" / "of <mine> (2).png")
    files = write_report(workdir, NOW)
    assert files == [workdir / "report.html", workdir / "report.md"]
    return workdir


@pytest.fixture(scope="module")
def page(sweep):
    return Page((sweep / "report.html").read_text())


@pytest.fixture(scope="module")
def markdown(sweep):
    return (sweep / "report.md").read_text()


def test_page_is_self_contained(page):
    tags = [tag for tag, _ in page.tags]
    assert not {"iframe", "object", "base"} & set(tags)
    scripts = [a for tag, a in page.tags if tag == "script"]
    assert len(scripts) > 1
    assert not any("src" in a for a in scripts)
    images = [a for tag, a in page.tags if tag == "img"]
    assert [a["alt"].partition(":")[0] for a in images] == [
        "figure6",
        "figure1",
        "of <mine> (2)",
        "responses",
    ]
    assert all(re.match(r"data:image/(svg\+xml|png);base64,", a["src"]) for a in images)
    assert all(int(a["width"]) > 0 for a in images)
    loaded = [a.get("src", "data:") for _, a in page.tags]
    loaded += [a["href"] for _, a in page.tags if "href" in a]
    assert all(re.match("data:|#", address) for address in loaded)
    assert not any(name.startswith("on") for _, a in page.tags for name in a)
    targets = {a["id"] for _, a in page.tags if "id" in a}
    assert {a["href"][1:] for tag, a in page.tags if tag == "a"} <= targets


def test_incomplete_runs_come_first(page, markdown):
    for text in (page.text, markdown):
        top = text[: text.index("Results")]
        assert "Incomplete: 3 of 6 runs finished" in top
        assert "1 unfinished, 1 failed, 1 not begun; 66% of all steps are done" in top
        assert "at step 20 of 30 (66%)" in top
        assert "failed at step 10 of 30 (33%): no" in top
    states = {name: row["state"] for name, row in page.rows("Runs").items()}
    assert states == {
        "plain-20/seed-0": "finished",
        "plain-20/seed-1": "unfinished",
        "plain-56/seed-0": "failed",
        "resnet-20/seed-0": "finished",
        "resnet-20/seed-1": "finished",
        "net<i>/seed-0": "not begun",
    }
    classes = [a["class"] for tag, a in page.tags if tag == "tr" and "class" in a]
    assert set(classes) == {"finished", "unfinished", "failed", "not-begun"}


def test_numbers_equal_the_metrics_of_the_runs(page, sweep):
    rows = page.rows("Runs")
    for net, group in find_runs(sweep).items():
        for run in group:
            row = rows[f"{net}/seed-{run.config['seed']}"]
            assert float(row["training error %"]) == run.last("train_error")
            assert float(row["test error %"]) == run.last("test_error")
            assert row["device"] == "<CPU>"
            assert row["commit"] == "cccccccccc"
    results = page.rows("Results by model")
    assert results["resnet-20"]["final training error %"] == "2.00 ± 1.41 (2 seeds)"
    assert results["plain-20"]["final test error %"] == "13.50 (1 of 2 seeds)"
    assert results["plain-56"]["runs finished"] == "0 of 1"
    assert results["net<i>"]["steps"] == "not begun"


def test_special_characters_are_displayed(page, markdown, sweep):
    assert page.rows("Fields that differ between runs")["plain-20/seed-0"]["name"] == SPECIAL
    assert COMMAND in page.text
    assert COMMAND in markdown
    assert "half <b>" in page.text
    raw = (sweep / "report.html").read_text()
    for tag in ("<b>&", "<room>", "<CPU>", "<i>", "<mine>", "<c>"):
        assert tag not in raw
    fenced = re.sub(r"```sh\n.*?\n```", "", markdown, flags=re.DOTALL)
    assert not re.findall(r"(?<!\\)<(?!/?(?:details|summary)>)", fenced)


def test_markdown_tables_have_one_cell_per_column(markdown, page):
    tables = re.findall(r"(?:^\|.*\n)+", markdown, flags=re.MULTILINE)
    cells = [
        [len(re.findall(r"(?<!\\)\|", line)) - 1 for line in table.splitlines()] for table in tables
    ]
    static = [table for label, table in page.tables.items() if not label.startswith("What differs")]
    expected = [[len(row) for row in table] for table in static]
    # Markdown has the same rows and a rule below each header.
    assert [set(counts) for counts in cells] == [set(counts) for counts in expected]
    assert [len(counts) for counts in cells] == [len(counts) + 1 for counts in expected]


def test_markdown_links_to_files(markdown, sweep):
    links = re.findall(r"!\[[^\n]*\]\((\S+)\)", markdown)
    assert len(links) == 4
    for link in links:
        assert (sweep / urllib.parse.unquote(link)).suffix == ".png"
        assert (sweep / urllib.parse.unquote(link)).is_file()


def test_reports_of_the_same_workdir_differ_only_in_the_time(sweep, tmp_path):
    before = [(sweep / name).read_text() for name in ("report.html", "report.md")]
    files = write_report(sweep, NOW + datetime.timedelta(days=1))
    for old, file in zip(before, files, strict=True):
        lines = zip(old.split("\n"), file.read_text().split("\n"), strict=True)
        different = [(a, b) for a, b in lines if a != b]
        assert len(different) == 1
        assert all("2026-01-0" in line for line in different[0])


def test_single_finished_run(tmp_path):
    write_run(tmp_path, "resnet-20")
    workdir = tmp_path / "resnet-20" / "seed-0"
    write_report(workdir)
    assert (workdir / "curves.png").is_file()
    page = Page((workdir / "report.html").read_text())
    assert "The run is finished" in page.text
    assert list(page.rows("Runs")) == ["resnet-20/seed-0"]
    assert "Fields that differ between runs" not in page.tables


def test_sweep_without_metrics(tmp_path):
    (tmp_path / "sweep.json").write_text(json.dumps({"resnet-20/seed-0": {}}))
    write_report(tmp_path)
    page = Page((tmp_path / "report.html").read_text())
    assert "No run has metrics yet." in page.text
    assert "Incomplete: 0 of 1 runs finished" in page.text
    assert "No run has metrics yet." in (tmp_path / "report.md").read_text()


def test_workdir_that_cannot_be_written(tmp_path):
    (tmp_path / "sweep.json").write_text(json.dumps({"resnet-20/seed-0": {}}))
    (tmp_path / "report.html").mkdir()
    with pytest.raises(WorkdirError, match=r"report of .* cannot be written \(.* is a directory"):
        write_report(tmp_path)


def test_reports_without_figures_import_neither_jax_nor_matplotlib(tmp_path, python):
    write_run(tmp_path, "resnet-20")
    code = (
        "import pathlib, sys\n"
        "from flaxres.experiments.reporting import report\n"
        "report.draw_figures = lambda *_: []\n"
        "report.write_report(pathlib.Path(sys.argv[1]))\n"
        "print({'jax', 'matplotlib'} & set(sys.modules))\n"
    )
    result = python("-c", code, str(tmp_path))
    assert (result.stdout, result.stderr, result.returncode) == ("set()\n", "", 0)


def test_directory_without_runs_is_a_one_line_error(tmp_path, python):
    result = python("-m", "experiments.report", f"--workdir={tmp_path}")
    assert result.returncode == 1
    assert re.fullmatch(r"error: .* holds no run: there is no config\.json .*\n", result.stderr)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("weight_decay_on", "weight_decay_on"),
        ("_a_ *b* `c`", r"\_a\_ \*b\* \`c\`"),
        ("<a href>|&amp;[x]", r"\<a href\>\|\&amp;\[x\]"),
        ("two\nlines", "two lines"),
    ],
)
def test_escape_markdown(text, expected):
    assert escape_markdown(text) == expected
