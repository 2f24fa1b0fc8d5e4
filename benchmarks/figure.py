"""Figure of benchmark results.

python -m benchmarks.figure --train_step=A.json --depth=B.json

Left: images per second of flaxres and PyTorch (`benchmarks.train_step --json`). Right: time of a
step by depth (`benchmarks.scaling --over=depth --json`). Bars and points are medians, error bars
are quartiles.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from absl import flags
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flaxres import cli
from flaxres.errors import ConfigError, UserError, WorkdirError

TRAIN_STEP = flags.DEFINE_list(
    "train_step", None, "JSON files that benchmarks.train_step wrote, such as train_step.json."
)
DEPTH = flags.DEFINE_string(
    "depth", None, "JSON file that benchmarks.scaling --over=depth wrote, such as depth.json."
)
OUTPUT = flags.DEFINE_string("output", "docs/performance.png", "File for the figure.")
COLORS = {"flaxres": "#0072B2", "torch compiled": "#E69F00", "torch eager": "#CCBB88"}
HATCHES = ("", "//", "..")
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
    """Draws images per second by model, with one bar per framework."""
    frameworks = [framework for framework in COLORS if framework in results[0]]
    width = 0.8 / len(frameworks)
    for i, framework in enumerate(frameworks):
        speeds = [result[framework]["images_per_second"] for result in results]
        medians = [speed["median"] for speed in speeds]
        offset = (i - (len(frameworks) - 1) / 2) * width
        positions = [number + offset for number in range(len(results))]
        axes.bar(
            positions,
            medians,
            width,
            yerr=_error_bars(speeds),
            label=framework,
            color=COLORS[framework],
            hatch=HATCHES[i],
            edgecolor="white",
        )
    axes.set_xticks(range(len(results)), [result["net"] for result in results])
    axes.set_ylabel("images/s")
    axes.legend(frameon=False)


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
    panels: list[tuple[Callable[[Axes, Results], None], Results]] = []
    if TRAIN_STEP.value:
        panels.append((draw_train_step, [r for path in TRAIN_STEP.value for r in read(path)]))
    if DEPTH.value:
        panels.append((draw_depth, read(DEPTH.value)))
    if not panels:
        raise ConfigError("nothing to draw; give --train_step or --depth")
    figure = Figure(figsize=(4.6 * len(panels), 3.6), layout="constrained")
    for axes, (draw, results) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
    ):
        try:
            draw(axes, results)
        except (KeyError, TypeError) as error:
            raise UserError(
                f"a file is not from the benchmark that its flag expects: {error}"
            ) from None
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_title(str(results[0]["device"]))
    try:
        figure.savefig(OUTPUT.value, dpi=150)
    except OSError as error:
        raise WorkdirError(f"{OUTPUT.value} cannot be written: {error.strerror}") from None
    print(OUTPUT.value)


if __name__ == "__main__":
    cli.run(main, trains=False)
