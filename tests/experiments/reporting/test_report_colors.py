"""Contrast of the colors of a report, by the formula of WCAG 2.2."""

import re

import pytest

from flaxres.experiments.reporting import page_assets

TEXT, GRAPHICS = 4.5, 3.0  # smallest ratios, WCAG 2.2, 1.4.3 (AA) and 1.4.11


def luminance(color):
    digits = color[1:] if len(color) == 7 else "".join(2 * digit for digit in color[1:])
    channels = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    red, green, blue = (
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(first, second):
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def themes():
    css = (page_assets.DIRECTORY / "page" / "report.css").read_text()
    blocks = re.findall(r"color-scheme: (light|dark);([^}]*)", css)[:3]
    return [(name, dict(re.findall(r"--([\w-]+): (#\w+)", text))) for name, text in blocks]


def test_both_dark_themes_are_the_same():
    assert [name for name, _ in themes()] == ["light", "dark", "dark"]
    assert themes()[1] == themes()[2]


@pytest.mark.parametrize(("name", "colors"), themes()[:2])
def test_contrast(name, colors):
    for text in ("text", "weak", "link", "fail", "warn"):
        for background in ("page", "card"):
            assert contrast(colors[text], colors[background]) >= TEXT, (text, background)
    for text in ("text", "warn", "fail", "link"):  # in the box of incomplete runs
        assert contrast(colors[text], colors["warn-page"]) >= TEXT, text
    graphics = [color for color in colors if color.startswith("curve-") or color == "edge"]
    assert len(graphics) == 8
    for color in graphics:
        assert contrast(colors[color], colors["page"]) >= GRAPHICS, color
