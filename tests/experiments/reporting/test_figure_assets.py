import base64

import pytest
from matplotlib.figure import Figure

from experiments.reporting import figure_assets as module
from experiments.reporting.figure_assets import pictures
from experiments.results.plot_style import save


@pytest.fixture
def drawn(tmp_path):
    """The files of a figure of 4 by 3 inches."""
    figure = Figure(figsize=(4, 3))
    figure.subplots().plot([1, 2])
    return save(figure, tmp_path / "batch_norm_gap", "a note")


def test_the_formats_of_a_figure_belong_together(drawn, tmp_path):
    other = tmp_path / "drawn (2).svg"
    found = pictures([*drawn, tmp_path / "batch_norm_gap.csv", other])
    assert [(picture.name, sorted(picture.files)) for picture in found] == [
        ("batch_norm_gap", ["png", "svg"]),
        ("drawn (2)", ["svg"]),
    ]
    assert [picture.link.suffix for picture in found] == [".png", ".svg"]


def test_size_is_that_of_the_figure_in_css_pixels(drawn):
    assert pictures(drawn)[0].size == (4 * 96, 3 * 96)
    assert pictures(drawn[1:])[0].size is None


def test_data_is_the_svg_unless_it_is_large(drawn, monkeypatch):
    (picture,) = pictures(drawn)
    png, svg = (file.read_bytes() for file in drawn)
    head, _, content = picture.data().partition(",")
    assert (head, base64.b64decode(content)) == ("data:image/svg+xml;base64", svg)
    monkeypatch.setattr(module, "MAX_SVG_BYTES", len(svg) - 1)
    head, _, content = picture.data().partition(",")
    assert (head, base64.b64decode(content)) == ("data:image/png;base64", png)
    (alone,) = pictures(drawn[1:])
    assert alone.data().startswith("data:image/svg+xml")


@pytest.mark.parametrize(
    ("name", "caption"),
    [
        ("batch_norm_gap", "what batch norm takes and gives"),
        ("batch_norm", "what batch norm takes and gives"),
        ("figure1", "the shallowest and the deepest plain net"),
        ("figure12", ""),
        ("other", ""),
    ],
)
def test_captions_go_by_the_name(tmp_path, name, caption):
    (picture,) = pictures([tmp_path / f"{name}.png"])
    assert picture.caption.startswith(caption)
    assert bool(picture.caption) == bool(caption)
