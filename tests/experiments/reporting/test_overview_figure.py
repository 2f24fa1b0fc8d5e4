import xml.etree.ElementTree as ET

from flaxres.experiments.reporting import report
from flaxres.experiments.reporting.overview_figure import HEIGHT, MARGIN, draw_overview
from flaxres.experiments.results.runs import find_runs
from tests.experiments.results.test_runs import write_run

SVG = "{http://www.w3.org/2000/svg}"


def test_overview_has_a_curve_for_each_model_and_panel(tmp_path):
    write_run(tmp_path, "plain-20", 0, errors=(80.0, 60.0, 40.0))
    write_run(tmp_path, "plain-20", 1, errors=(70.0, 50.0, 30.0))
    write_run(tmp_path, "resnet-20", 0)
    root = ET.fromstring(draw_overview(find_runs(tmp_path)))
    curves = root.findall(f"{SVG}polyline")
    names = [curve.find(f"{SVG}title").text for curve in curves]
    assert names == ["plain-20", "resnet-20"] * 2
    points = [tuple(map(float, point.split(","))) for point in curves[0].get("points").split()]
    heights = [HEIGHT - MARGIN - y for _, y in points]
    # Means over seeds: 75, 55, 35; the highest error of all panels is 76.
    expected = [(HEIGHT - 2 * MARGIN) * mean / 76 for mean in (75, 55, 35)]
    assert all(abs(a - b) < 0.1 for a, b in zip(heights, expected, strict=True))


def test_sweeps_of_many_runs_have_an_overview(tmp_path, monkeypatch):
    write_run(tmp_path, "resnet-20", 0)
    write_run(tmp_path, "resnet-20", 1, num_steps=40)
    monkeypatch.setattr(report, "MAX_DRAWN_RUNS", 1)
    report.write_report(tmp_path)
    assert sorted(file.name for file in tmp_path.glob("*.*")) == [
        "overview.svg",
        "report.html",
        "report.md",
    ]
    assert "](overview.svg)" in (tmp_path / "report.md").read_text()
    assert "data:image/svg+xml" in (tmp_path / "report.html").read_text()
