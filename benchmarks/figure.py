"""Draws results of the benchmarks: python -m benchmarks.figure --train_step=A.json --depth=B.json.

Left, images per second of flaxres and PyTorch (`benchmarks.train_step --json`); right, how the time
of a step grows with depth (`benchmarks.scaling --over=depth --json`). Bars and points are medians,
lines on them quartiles.
"""

from __future__ import annotations

import json
from pathlib import Path

from absl import flags
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flaxres import cli
from flaxres.errors import ConfigError, UserError, WorkdirError

TRAIN_STEP = flags.DEFINE_list("train_step", None, "Files that benchmarks.train_step wrote.")
DEPTH = flags.DEFINE_string("depth", None, "File that benchmarks.scaling wrote.")
OUTPUT = flags.DEFINE_string("output", "docs/performance.png", "Where the figure goes.")
SIDES = {"flaxres": "#0072B2", "torch compiled": "#E69F00", "torch eager": "#CCBB88"}
HATCHES = ("", "//", "..")


def read(path: str) -> list[dict]:
    """The results in a file.

    Raises:
      ConfigError: it cannot be read.
    """
    try:
        return json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read ({error}); give a file of --json") from None


def draw_sides(axes: Axes, results: list[dict]) -> None:
    """Images per second of each net, beside one another."""
    sides = [side for side in SIDES if side in results[0]]
    width = 0.8 / len(sides)
    for i, side in enumerate(sides):
        speeds = [result[side]["images_per_second"] for result in results]
        medians = [speed["median"] for speed in speeds]
        ends = [
            [s["median"] - s["low"] for s in speeds],
            [s["high"] - s["median"] for s in speeds],
        ]
        places = [n + (i - (len(sides) - 1) / 2) * width for n in range(len(results))]
        style = {"color": SIDES[side], "hatch": HATCHES[i], "edgecolor": "white"}
        axes.bar(places, medians, width, yerr=ends, label=side, **style)
    axes.set_xticks(range(len(results)), [result["net"] for result in results])
    axes.set_ylabel("images/s")
    axes.legend(frameon=False)


def draw_depth(axes: Axes, results: list[dict]) -> None:
    """Seconds of a step by depth."""
    for kind, line, marker in (("resnet", "-", "o"), ("plain", "--", "s")):
        own = [result for result in results if result["net"].startswith(kind)]
        if not own:
            continue
        depths = [result["depth"] for result in own]
        times = [result["step_seconds"] for result in own]
        medians = [time["median"] for time in times]
        ends = [
            [t["median"] - t["low"] for t in times],
            [t["high"] - t["median"] for t in times],
        ]
        axes.errorbar(depths, medians, ends, linestyle=line, marker=marker, label=kind, capsize=2)
    axes.set_xlabel("depth (layers)")
    axes.set_ylabel("seconds a step")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)


def main() -> None:
    """Draws what was given."""
    panels = []
    if TRAIN_STEP.value:
        panels.append((draw_sides, [r for path in TRAIN_STEP.value for r in read(path)]))
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
            raise UserError(f"a file is not of the benchmark that its flag says: {error}") from None
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_title(str(results[0]["device"]))
    try:
        figure.savefig(OUTPUT.value, dpi=150)
    except OSError as error:
        raise WorkdirError(f"{OUTPUT.value} cannot be written: {error.strerror}") from None
    print(OUTPUT.value)


if __name__ == "__main__":
    cli.run(main, trains=False)
