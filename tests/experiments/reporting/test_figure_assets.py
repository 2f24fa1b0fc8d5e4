import base64

import pytest
from matplotlib.figure import Figure

from flaxres.experiments.reporting import figure_assets
from flaxres.experiments.reporting.figure_assets import collect_figures
from flaxres.experiments.results.plot_style import save


@pytest.fixture
def files(tmp_path):
    """PNG and SVG of a figure of 4 by 3 inches."""
    figure = Figure(figsize=(4, 3))
    figure.subplots().plot([1, 2])
    return save(figure, tmp_path / "batch_norm_gap", "a note")


def test_formats_of_one_figure_are_grouped(files, tmp_path):
    other = tmp_path / "drawn (2).svg"
    figures = collect_figures([*files, tmp_path / "batch_norm_gap.csv", other])
    assert [(figure.name, sorted(figure.files)) for figure in figures] == [
        ("batch_norm_gap", ["png", "svg"]),
        ("drawn (2)", ["svg"]),
    ]
    assert [figure.link.suffix for figure in figures] == [".png", ".svg"]


def test_size_is_in_css_pixels(files):
    assert collect_figures(files)[0].size == (4 * 96, 3 * 96)
    assert collect_figures(files[1:])[0].size is None


def test_data_uri_has_the_svg_unless_it_is_large(files, monkeypatch):
    (figure,) = collect_figures(files)
    png, svg = (file.read_bytes() for file in files)
    head, _, content = figure.data_uri().partition(",")
    assert (head, base64.b64decode(content)) == ("data:image/svg+xml;base64", svg)
    monkeypatch.setattr(figure_assets, "MAX_SVG_BYTES", len(svg) - 1)
    head, _, content = figure.data_uri().partition(",")
    assert (head, base64.b64decode(content)) == ("data:image/png;base64", png)
    (svg_only,) = collect_figures(files[1:])
    assert svg_only.data_uri().startswith("data:image/svg+xml")


@pytest.mark.parametrize(
    ("name", "caption"),
    [
        ("batch_norm_gap", "inputs and outputs of batch norm"),
        ("batch_norm", "inputs and outputs of batch norm"),
        ("figure1", "the shallowest and the deepest plain model"),
        ("figure12", ""),
        ("other", ""),
    ],
)
def test_caption_depends_on_the_name(tmp_path, name, caption):
    (figure,) = collect_figures([tmp_path / f"{name}.png"])
    assert figure.caption.startswith(caption)
    assert bool(figure.caption) == bool(caption)
