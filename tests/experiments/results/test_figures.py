import json
import shutil

import numpy as np
import pytest

from flaxres.experiments.analyses.responses import write_responses
from flaxres.experiments.results import figures
from flaxres.experiments.results.figures import draw_figures, draw_sweep
from flaxres.experiments.results.runs import find_runs
from tests.experiments.results.test_runs import write_run


@pytest.fixture
def drawn(monkeypatch):
    """Figures that the test saves, by file name."""
    figures_by_name = {}
    save = figures._save

    def keep(figure, path, *arguments, **options):
        figures_by_name[path.name] = figure
        return save(figure, path, *arguments, **options)

    monkeypatch.setattr(figures, "_save", keep)
    return figures_by_name


def note(figure):
    """The note above a figure, without line breaks."""
    return " ".join(figure.get_suptitle().split())


def lines(axes):
    """(style, width, x, y) of the curves in a panel."""
    return [
        (line.get_linestyle(), line.get_linewidth(), line.get_xdata(), line.get_ydata())
        for line in axes.lines
        if line.get_linestyle() != ":"
    ]


def test_figure_6_has_panels_curves_and_learning_rate_drops(tmp_path, drawn):
    for model in ("plain-20", "plain-56", "resnet-20", "resnet-56"):
        write_run(tmp_path, model, errors=(50.0, 40.0, 30.0))
    files = draw_figures(find_runs(tmp_path), tmp_path)
    assert sorted(f.name for f in files) == [
        *("figure1.png", "figure1.svg", "figure6.png", "figure6.svg")
    ]
    assert all(file.stat().st_size > 5_000 for file in files)
    plain, residual = drawn["figure6"].axes
    assert (plain.get_title(), residual.get_title()) == ("plain", "residual")
    for axes in (plain, residual):
        dashed, bold = lines(axes)[:2]
        assert (dashed[0], bold[0]) == ("--", "-")
        assert bold[1] > dashed[1]
        np.testing.assert_array_equal(dashed[2], [10, 20, 30])
        np.testing.assert_array_equal(bold[3], [51, 31])
        drops = [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == ":"]
        assert drops == [15, 20]
        assert len(lines(axes)) == 4
    names = [text.get_text() for text in plain.get_legend().get_texts()]
    assert names == ["plain-20", "plain-56"]
    assert plain.lines[0].get_color() == residual.lines[0].get_color()  # same depth, same color
    training, test = drawn["figure1"].axes
    assert (training.get_title(), test.get_title()) == ("training error", "test error")
    assert len(lines(training)) == len(lines(test)) == 2


def test_band_for_several_seeds_and_steps_in_ten_thousands(tmp_path, drawn):
    for seed, error in enumerate((10.0, 20.0)):
        write_run(tmp_path, "resnet-20", seed, (90.0, error), num_steps=64_000)
    draw_figures(find_runs(tmp_path), tmp_path)
    axes = drawn["figure6"].axes[1]
    assert len(axes.collections) == 2
    assert axes.get_xlabel() == "steps (1e4)"
    np.testing.assert_allclose(lines(axes)[0][2], [0.001, 0.002])
    assert "2 seeds" in note(drawn["figure6"])
    assert set(drawn) == {"figure6"}  # figure 1 needs plain models
    write_run(tmp_path, "resnet-32", 0, (90.0, 15.0), num_steps=64_000)
    draw_figures(find_runs(tmp_path), tmp_path)
    assert "of 1 to 2 seeds" in note(drawn["figure6"])


def test_errors_above_the_axis(tmp_path, drawn):
    """The axis ends at 1.08 times the largest error after the first quarter of the steps."""
    for model, first in (("plain-20", 90.0), ("plain-56", 41.0)):
        write_run(tmp_path, model, errors=(first, *[40.0] * 38, 0.0), num_steps=400)
    draw_figures(find_runs(tmp_path), tmp_path)
    axes = drawn["figure6"].axes[0]
    assert axes.get_ylim()[1] == 45  # of the test errors, which are 41 here
    assert note(drawn["figure6"]).endswith("; errors above 45% not shown")
    for line in axes.lines:
        marked = [line.get_ydata()[i] for i in line.get_markevery() or ()]
        assert max(marked, default=0) < 45
    for model in ("plain-20", "plain-56"):
        write_run(tmp_path, model, errors=[40.0] * 40, num_steps=400)
    draw_figures(find_runs(tmp_path), tmp_path)
    assert "not shown" not in note(drawn["figure6"])


def test_runs_with_few_records(tmp_path, drawn):
    write_run(tmp_path, "plain-20", errors=(90.0,))
    write_run(tmp_path, "plain-32", errors=(90.0, 80.0))
    draw_figures(find_runs(tmp_path), tmp_path)
    assert set(drawn) == {"figure1", "figure6"}


def test_figures_are_reproducible(tmp_path):
    for model in ("plain-20", "plain-56"):
        write_run(tmp_path, model, errors=(60.0, 50.0, 40.0))
    first, second = (
        [file.read_bytes() for file in draw_figures(find_runs(tmp_path), tmp_path)]
        for _ in range(2)
    )
    assert first == second


def test_a_figure_of_some_models_is_complete_when_these_are_finished(tmp_path, drawn):
    for model in ("plain-20", "plain-56"):
        write_run(tmp_path, model, errors=(60.0, 50.0, 40.0))
    names = ("plain-20/seed-0", "plain-56/seed-0", "resnet-20/seed-0")
    (tmp_path / "sweep.json").write_text(json.dumps({name: {"seed": 0} for name in names}))
    draw_figures(find_runs(tmp_path), tmp_path)
    assert "incomplete" not in note(drawn["figure1"])
    assert "incomplete: 2 of 3 runs finished" in note(drawn["figure6"])


def test_curves_of_variants(tmp_path, drawn):
    for seed in (0, 1):
        write_run(tmp_path, "resnet-20", seed, errors=(50.0 + seed, 40.0, 30.0))
    write_run(tmp_path, "plain-20", errors=(60.0,))
    (tmp_path / "resnet-20").rename(tmp_path / "resnet-20-slow")
    names = [f"resnet-20-slow/seed-{i}" for i in range(3)] + ["plain-20/seed-0"]
    (tmp_path / "sweep.json").write_text(json.dumps({key: {"seed": 0} for key in names}))
    files = draw_sweep(find_runs(tmp_path), tmp_path)
    assert sorted(file.name for file in files) == ["curves.png", "curves.svg"]
    training, test = drawn["curves"].axes
    assert [len(lines(axes)) for axes in (training, test)] == [2, 2]
    np.testing.assert_array_equal(lines(training)[1][3], [50.5, 40, 30])
    legend = [text.get_text() for text in drawn["curves"].legends[0].get_texts()]
    assert legend == ["plain-20, unfinished: step 10", "resnet-20-slow"]
    assert "incomplete: 2 of 4 runs finished" in note(drawn["curves"])


def test_marks_of_the_papers_errors(tmp_path, drawn):
    def marks():
        draw_figures(find_runs(tmp_path), tmp_path)
        lines = [line for axes in drawn["figure6"].axes for line in axes.lines]
        return [tuple(line.get_ydata()) for line in lines if line.get_marker() == "<"]

    for model in ("plain-20", "resnet-20", "resnet-56", "resnet-26"):
        write_run(tmp_path, model, dataset="cifar10", num_steps=64_000)
    assert marks() == [(8.75,), (6.97,)]  # table 6; it has neither plain-20 nor ResNet-26
    legend = [text.get_text() for text in drawn["figure6"].legends[0].get_texts()]
    assert legend[2:] == ["He et al. 2015, CIFAR-10: final test error"]
    for fields in ({"dataset": "digits", "num_steps": 64_000}, {"dataset": "cifar10"}):
        for run in tmp_path.glob("*/seed-0"):
            shutil.rmtree(run)
        write_run(tmp_path, "resnet-20", **fields)
        assert marks() == []
        assert len(drawn["figure6"].legends[0].get_texts()) == 2


def test_unfinished_models_are_named_so(tmp_path, drawn):
    write_run(tmp_path, "plain-20")
    write_run(tmp_path, "plain-56", errors=(60.0, 50.0))
    write_run(tmp_path, "resnet-56", 0, errors=(60.0, 50.0))
    write_run(tmp_path, "resnet-56", 1)
    draw_figures(find_runs(tmp_path), tmp_path)
    names = [
        text.get_text() for axes in drawn["figure6"].axes for text in axes.get_legend().get_texts()
    ]
    assert names == ["plain-20", "plain-56, unfinished: step 20", "resnet-56"]


def test_models_of_different_depth_are_drawn_as_in_the_paper(tmp_path, drawn):
    write_run(tmp_path, "resnet-20")
    draw_sweep(find_runs(tmp_path), tmp_path)
    assert set(drawn) == {"figure6"}


def test_figure_7_has_responses_in_order_and_sorted(tmp_path, drawn):
    for model, responses in (("plain-20", [1.0, 3.0, 2.0]), ("resnet-20", [0.5, 0.1, 0.4])):
        write_run(tmp_path, model)
        write_responses(dict(enumerate(responses)), tmp_path / model / "seed-0")
    files = draw_figures(find_runs(tmp_path), tmp_path)
    assert {"figure7.png", "figure7.svg"} <= {file.name for file in files}
    in_order, sorted_by_size = drawn["figure7"].axes
    assert [line.get_label() for line in in_order.lines] == ["plain-20", "resnet-20"]
    assert [list(line.get_ydata()) for line in in_order.lines] == [[1, 3, 2], [0.5, 0.1, 0.4]]
    assert [list(line.get_ydata()) for line in sorted_by_size.lines] == [[3, 2, 1], [0.5, 0.4, 0.1]]
    assert in_order.lines[0].get_linestyle() != in_order.lines[1].get_linestyle()
    assert "not shown" not in note(drawn["figure7"])


def test_figure_7_names_the_models_that_it_leaves_out(tmp_path, drawn):
    for depth in (20, 32, 44):
        write_run(tmp_path, f"resnet-{depth}")
        write_responses(dict.fromkeys(range(3), 1.0), tmp_path / f"resnet-{depth}" / "seed-0")
    write_run(tmp_path, "plain-20")  # without responses
    draw_figures(find_runs(tmp_path), tmp_path)
    assert note(drawn["figure7"]).endswith("; not shown: plain-20, resnet-32")


def test_figure_7_numbers_its_layers_with_integers(tmp_path, drawn):
    write_run(tmp_path, "resnet-20")
    write_responses(dict.fromkeys(range(19), 1.0), tmp_path / "resnet-20" / "seed-0")
    draw_figures(find_runs(tmp_path), tmp_path)
    for axes in drawn["figure7"].axes:
        assert list(axes.get_xticks()) == [1, *range(2, 20, 2)]
        assert axes.get_xlim()[0] > 0
        assert all(label.get_visible() for label in axes.get_xticklabels())
