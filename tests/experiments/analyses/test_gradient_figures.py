"""Figures of gradients: panels, styles and notes."""

from flaxres.experiments.analyses import gradient_figures as figures
from flaxres.experiments.results import plot_style
from tests.conftest import small_config


def plan(**models):
    """`plan_curves` for models with these fields of `config.model`."""
    configs = {}
    for name, fields in models.items():
        configs[name] = small_config()
        configs[name].model.update(fields)
    return figures.plan_curves(configs)


def test_one_panel_for_each_norm_one_color_for_each_gain_and_dashes_for_plain_models():
    curves = plan(
        **{
            f"{name}_{norm}_{gain}": {"name": name, "norm": norm, "init_gain": gain}
            for name in ("plain", "resnet")
            for norm in ("batch", "none")
            for gain in (0.5, 1.0)
        }
    )
    curve = curves["plain_none_0.5"]
    assert (curve.panel, curve.label) == ("without a norm", "plain-8, gain 0.5")
    assert curves["plain_batch_0.5"].panel == "with batch norm"
    for name, other in curves.items():
        assert other.style["linestyle"] == ("--" if name.startswith("plain") else "-")
        same_gain = name.endswith("0.5")
        assert (other.style["color"] == curve.style["color"]) == same_gain
    assert {curve.panel for curve in plan(a={"name": "plain"}, b={"name": "resnet"}).values()} == {
        ""
    }


def test_models_that_differ_in_other_fields_have_a_color_each():
    curves = plan(a={"shortcut": "A"}, b={"shortcut": "B"}, _c={"shortcut": "C"})
    assert len({curve.style["color"] for curve in curves.values()}) == 3
    assert [curve.label for curve in curves.values()] == ["a", "b", " _c"]


def test_runs_that_diverged_are_not_drawn_at_the_last_record(monkeypatch, tmp_path):
    saved = []
    monkeypatch.setattr(plot_style, "save", lambda *arguments: saved.append(arguments))
    finite, broken = {"conv": 1.0, "dense": 2.0}, {"conv": None, "dense": 0.0}
    records = {
        name: [{"step": step, **dict.fromkeys(figures.QUANTITIES, finite)} for step in (0, 9)]
        for name in ("a", "b")
    }
    records["b"][1] = records["b"][1] | {"step": 6, "gradient": broken}
    figures.draw_layers(records, plan(a={}, b={"depth": 14}), tmp_path / "x", "digits")
    figure, _, note = saved[0]
    assert note.endswith("; diverged and not shown after 9 steps: b")
    before, after = figure.axes[:2]
    assert [line.get_label() for line in before.lines] == ["a", "b"]
    assert [line.get_label() for line in after.lines] == ["a"]


def test_values_that_are_zero_or_not_finite_can_be_drawn(tmp_path):
    values = {"conv": None, "dense": 0.0}
    records = [{"step": step, **dict.fromkeys(figures.QUANTITIES, values)} for step in (0, 9)]
    files = figures.draw_layers({"a": records}, plan(a={}), tmp_path / "a", "digits")
    files += figures.draw_training({"a": records}, tmp_path / "b", "digits")
    assert [file.name for file in files] == ["a.png", "a.svg", "b.png", "b.svg"]
    for file in files[1::2]:
        assert "drawn at the edge" in file.read_text()


def draw_training(monkeypatch, tmp_path, counts):
    """Draws runs with these numbers of layers over training; returns the panels and the legend."""
    drawn = []
    monkeypatch.setattr(plot_style, "save", lambda figure, path, note: drawn.append(figure))
    runs = {}
    for number, count in enumerate(counts):
        values = {f"layer{i}": float(i + 1) for i in range(count)}
        records = [{"step": step, **dict.fromkeys(figures.QUANTITIES, values)} for step in (0, 9)]
        runs[f"run-{number}"] = records
    figures.draw_training(runs, tmp_path / "figure", "digits")
    return drawn[0].axes, [text.get_text() for text in drawn[0].legends[0].get_texts()]


def test_layers_over_training_of_models_of_one_depth(monkeypatch, tmp_path):
    panels, legend = draw_training(monkeypatch, tmp_path, [9] * 5)
    assert legend == [f"layer {number} of 9" for number in (1, 3, 5, 7, 9)]
    assert [line.get_ydata()[0] for line in panels[0].lines] == [1, 3, 5, 7, 9]
    assert [axes.get_xlabel() for axes in panels] == ["", "", "steps", "steps", "steps"]
    has_ticks = [axes.xaxis.get_tick_params()["labelbottom"] for axes in panels]
    assert has_ticks == [False, False, True, True, True]
    panels, _ = draw_training(monkeypatch, tmp_path, [9] * 4)
    assert [axes.get_xlabel() for axes in panels] == ["", "", "steps", "steps"]


def test_legend_over_training_holds_for_models_of_different_depth(monkeypatch, tmp_path):
    panels, legend = draw_training(monkeypatch, tmp_path, [9, 17])
    assert (legend[0], legend[2], legend[4]) == (
        "first layer",
        "layer at 1/2 of the depth",
        "last layer",
    )
    assert [[line.get_ydata()[0] for line in axes.lines] for axes in panels] == [
        [1, 3, 5, 7, 9],
        [1, 5, 9, 13, 17],
    ]
