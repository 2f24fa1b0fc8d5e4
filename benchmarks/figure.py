"""Figure of benchmark results.

python -m benchmarks.figure --train_step=A.json --depth=B.json

Left: images per second of flaxres and PyTorch in each dtype, divided by those of PyTorch's fastest
float32 mode (`benchmarks.train_step --json`). Right: time of a step by depth (`benchmarks.scaling
--over=depth --json`). Bars and points are medians, error bars are quartiles.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

from absl import flags
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flaxres import cli
from flaxres.errors import ConfigError, UserError, WorkdirError
from flaxres.experiments.results.plot_style import show_texts_as_written

TRAIN_STEP = flags.DEFINE_list(
    "train_step", None, "JSON files that benchmarks.train_step wrote, such as train_step.json."
)
DEPTH = flags.DEFINE_string(
    "depth", None, "JSON file that benchmarks.scaling --over=depth wrote, such as depth.json."
)
OUTPUT = flags.DEFINE_string("output", "docs/performance.png", "File for the figure.")
# Bars of a model, from left to right: (framework, dtype), label and color.
BARS = {
    ("flaxres", "float32"): ("flaxres float32", "#0072B2"),
    ("flaxres", "bfloat16"): ("flaxres bfloat16", "#56B4E9"),
    ("torch", "float32"): ("PyTorch float32", "#D55E00"),
    ("torch", "bfloat16"): ("PyTorch bfloat16", "#E69F00"),
}
BASELINE = ("torch", "float32")
PANEL_INCHES = {"train_step": 5.6, "depth": 3.6}  # widths
Results = list[dict[str, Any]]


def read(path: str) -> Results:
    """Reads the results in a JSON file.

    Raises:
      ConfigError: the file cannot be read.
    """
    try:
        results: Results = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path} cannot be read ({error}); give a file that a benchmark wrote with --json"
        ) from None
    return results


def draw_train_step(axes: Axes, results: Results) -> None:
    """Draws relative images per second by model, with one bar per framework and dtype."""
    speeds = [fastest_speeds(result["implementations"].values()) for result in results]
    bars = [bar for bar in BARS if all(bar in by_bar for by_bar in speeds)]
    width = 0.84 / len(bars)
    for i, bar in enumerate(bars):
        label, color = BARS[bar]
        relative = [
            {name: value / by_bar[BASELINE]["median"] for name, value in by_bar[bar].items()}
            for by_bar in speeds
        ]
        offset = (i - (len(bars) - 1) / 2) * width
        axes.bar(
            [number + offset for number in range(len(results))],
            [speed["median"] for speed in relative],
            width,
            yerr=_error_bars(relative),
            error_kw={"elinewidth": 0.8},
            label=label,
            color=color,
            edgecolor="white",
        )
    axes.axhline(1, color="black", linewidth=0.6, linestyle=":")
    axes.set_xticks(range(len(results)), [_label(result) for result in results])
    axes.set_ylabel("images/s, relative to PyTorch float32")
    axes.set_ylim(top=1.3 * axes.get_ylim()[1])  # space for the legend
    axes.legend(frameon=False, ncols=2, loc="upper left")


def fastest_speeds(
    implementations: Iterable[dict[str, Any]],
) -> dict[tuple[str, str], dict[str, float]]:
    """Returns images per second by (framework, dtype), in the mode with the highest median."""
    fastest: dict[tuple[str, str], dict[str, float]] = {}
    for implementation in implementations:
        key = implementation["framework"], implementation["dtype"]
        speed = implementation["images_per_second"]
        if key not in fastest or speed["median"] > fastest[key]["median"]:
            fastest[key] = speed
    return fastest


def _label(result: dict[str, Any]) -> str:
    """Returns the name of a model and the size of its images, in two lines."""
    height, width, _ = result["image"]
    name = result["net"].replace("resnet", "ResNet")
    return f"{name}\n{height}x{width}"


def draw_depth(axes: Axes, results: Results) -> None:
    """Draws seconds per step by depth, with one line for residual and one for plain networks."""
    styles: tuple[tuple[str, Literal["-", "--"], str], ...]
    styles = (("resnet", "-", "o"), ("plain", "--", "s"))
    for family, line, marker in styles:
        family_results = [result for result in results if result["net"].startswith(family)]
        if not family_results:
            continue
        depths = [result["depth"] for result in family_results]
        times = [result["step_seconds"] for result in family_results]
        medians = [time["median"] for time in times]
        axes.errorbar(
            depths,
            medians,
            _error_bars(times),
            linestyle=line,
            marker=marker,
            label=family,
            capsize=2,
        )
    axes.set_xlabel("depth (layers)")
    axes.set_ylabel("seconds per step")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)


def _error_bars(spreads: Results) -> list[list[float]]:
    """Returns the lengths of the error bars below and above the medians."""
    return [
        [spread["median"] - spread["low"] for spread in spreads],
        [spread["high"] - spread["median"] for spread in spreads],
    ]


def main() -> None:
    """Draws one panel for each flag given.

    Raises:
      UserError: a file cannot be read or written, or is from another benchmark.
    """
    panels: list[tuple[str, Callable[[Axes, Results], None], Results]] = []
    if TRAIN_STEP.value:
        results = [result for path in TRAIN_STEP.value for result in read(path)]
        panels.append(("train_step", draw_train_step, results))
    if DEPTH.value:
        panels.append(("depth", draw_depth, read(DEPTH.value)))
    if not panels:
        raise ConfigError("nothing to draw; give --train_step or --depth")
    widths = [PANEL_INCHES[name] for name, _, _ in panels]
    figure = Figure(figsize=(sum(widths), 3.6), layout="constrained")
    all_axes = figure.subplots(1, len(panels), squeeze=False, width_ratios=widths)[0]
    for axes, (_, draw, results) in zip(all_axes, panels, strict=True):
        try:
            draw(axes, results)
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"a file is not from the benchmark that its flag expects: {error}"
            ) from None
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_title(str(results[0]["device"]))
    show_texts_as_written(figure)
    try:
        figure.savefig(OUTPUT.value, dpi=150)
    except OSError as error:
        raise WorkdirError(f"{OUTPUT.value} cannot be written: {error.strerror}") from None
    print(OUTPUT.value)


if __name__ == "__main__":
    cli.run(main, trains=False)
