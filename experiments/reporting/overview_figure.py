"""Overview of a sweep with many models, as an SVG image that is written without matplotlib.

The page shows it where scripts do not run, and report.md links to it. A figure of matplotlib cannot
tell so many curves apart, and takes longer than the rest of the report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

import numpy as np

from flaxres.errors import counted, printable
from flaxres.experiments.reporting.curves import reduce_curve
from flaxres.experiments.results.runs import Run, mean_and_std

PANELS = (("train_error", "training error (%)"), ("test_error", "test error (%)"))
DASHES = {"train_error": ' stroke-dasharray="4 3"', "test_error": ""}
COLORS = ("#0072B2", "#C04A00", "#008060", "#B8568C", "#8F6400", "#2B8CC4", "#444444")
WIDTH, HEIGHT, MARGIN, GAP = 960, 330, 48, 24  # pixels
MAX_POINTS = 120  # of a curve
NUM_TICKS = 5


def draw_overview(runs: Mapping[str, Sequence[Run]]) -> str:
    """Returns an SVG image of the mean error of each variant against steps.

    Training error is on the left, test error on the right. The title of a curve is the name of its
    variant, which browsers show under the pointer.

    Args:
      runs: runs by variant; at least one.
    """
    num_steps = max(run.config["num_steps"] for group in runs.values() for run in group)
    means = {
        (variant, metric): mean_and_std(group, metric)[:2]
        for variant, group in runs.items()
        for metric, _ in PANELS
    }
    top = max((values.max() for _, values in means.values() if len(values)), default=1.0) or 1.0
    width = (WIDTH - 2 * MARGIN - GAP) / len(PANELS)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'height="{HEIGHT}" role="img" font-family="sans-serif" font-size="12">'
        f"<title>Mean error of {counted(len(runs), 'model')} against steps</title>"
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>'
    ]
    for number, (metric, title) in enumerate(PANELS):
        left = MARGIN + number * (width + GAP)
        parts.append(_axes(left, width, num_steps, top, title))
        for index, variant in enumerate(runs):
            steps, values = means[variant, metric]
            curve = reduce_curve(steps, values, MAX_POINTS)
            x = left + width * curve.steps / num_steps
            y = _y(curve.values, top)
            points = " ".join(f"{a:.0f},{b:.1f}" for a, b in zip(x, y, strict=True))
            parts.append(
                f'<polyline points="{points}" fill="none" stroke="{COLORS[index % len(COLORS)]}"'
                f"{DASHES[metric]}><title>{escape(printable(variant))}</title></polyline>"
            )
    return "\n".join([*parts, "</svg>\n"])


def _y(values: np.ndarray, top: float) -> np.ndarray:
    return HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * values / top


def _axes(left: float, width: float, num_steps: int, top: float, title: str) -> str:
    bottom = HEIGHT - MARGIN
    parts = [_text(left + width / 2, 30, title)]
    for fraction in np.linspace(0, 1, NUM_TICKS):
        y = float(_y(np.array(top * fraction), top))
        x = left + width * fraction
        parts += [
            f'<path d="M{left:.0f} {y:.1f}h{width:.0f}" stroke="#ddd"/>',
            _text(x, bottom + 18, f"{num_steps * fraction:,.0f}"),
        ]
        if left == MARGIN:  # the panels share the axis of errors
            parts.append(_text(left - 6, y + 4, f"{top * fraction:.3g}", "end"))
    parts.append(_text(left + width / 2, HEIGHT - 8, "steps"))
    return "".join(parts)


def _text(x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}">{text}</text>'
