import io

import pytest
from matplotlib import mathtext
from matplotlib.figure import Figure

from flaxres.experiments.results import plot_style

NAME = "$3^{rd}$ run"  # between two dollars, Matplotlib would set a formula


@pytest.fixture
def figure():
    figure = Figure(layout="constrained")
    axes = figure.subplots()
    axes.plot([1e-6, 1e6], [1e-6, 1e6], label=NAME)
    axes.set_yscale("log")
    plot_style.label_axes(axes, NAME, NAME, NAME)
    axes.set_title(f"{NAME}\nsecond line", loc="left")
    axes.text(1, 1, NAME)
    axes.legend()
    figure.legend(title=NAME)
    return figure


def test_names_are_no_formulas(figure, tmp_path, monkeypatch):
    """Formulas are parsed only for numbers on the axes."""
    parsed = set()
    parse = mathtext.MathTextParser.parse

    def record(parser, text, *arguments, **options):
        parsed.add(text)
        return parse(parser, text, *arguments, **options)

    monkeypatch.setattr(mathtext.MathTextParser, "parse", record)
    figure.savefig(io.BytesIO(), format="png")
    assert NAME in parsed  # what this test is about
    parsed.clear()
    files = plot_style.save(figure, tmp_path / "figure", f"{NAME} of $5")
    assert [file.name for file in files] == ["figure.png", "figure.svg"]
    assert r"$\mathdefault{10^{2}}$" in parsed
    assert not any("rd" in text or "$5" in text for text in parsed)


def test_control_characters_are_escaped(figure, tmp_path):
    (axes,) = figure.axes
    axes.set_title("tabby\u2028cat\x1b[2J\nsecond line")
    plot_style.save(figure, tmp_path / "figure", "note")
    assert axes.get_title() == "tabby\\u2028cat\\x1b[2J\nsecond line"


def test_labels_with_an_underscore_are_in_legends():
    axes = Figure().subplots()
    axes.plot([0, 1], [0, 1], label=plot_style.label_of("_mine"))
    assert [text.get_text() for text in axes.legend().get_texts()] == [" _mine"]
