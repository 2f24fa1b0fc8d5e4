"""The figures of a workdir, with captions, and as data within a page."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from experiments.analyses import ANALYSES
from experiments.results.plot_style import EXTENSIONS

CAPTIONS = {
    "figure6": "plain nets left, residual nets right, after figure 6 of He15 (arXiv 1512.03385)",
    "figure1": "the shallowest and the deepest plain net, after figure 1 of He15 (arXiv "
    "1512.03385): training error left, test error right",
    "figure7": "how strongly each 3x3 layer responds, after figure 7 of He15 (arXiv 1512.03385)",
    "curves": "training error left, test error right",
} | ANALYSES
# SVG is sharp in any size, but large where there are many points; then PNG is taken.
MAX_SVG_BYTES = 400_000
CSS_PIXELS_PER_INCH = 96  # by definition
MEDIA_TYPES = {"svg": "image/svg+xml", "png": "image/png"}


@dataclasses.dataclass(frozen=True)
class FigureAsset:
    """A figure in files of one or two formats.

    Attributes:
      name: of the files, without extension.
      files: by extension, png or svg; at least one.
    """

    name: str
    files: dict[str, Path]

    @property
    def caption(self) -> str:
        """What it shows, as far as its name tells."""
        known = [key for key in CAPTIONS if self.name == key or self.name.startswith(f"{key}_")]
        return CAPTIONS[max(known, key=len)] if known else ""

    @property
    def link(self) -> Path:
        """The file to link to: the PNG where there is one."""
        return self.files.get("png") or self.files["svg"]

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height in CSS pixels as it was drawn, where the PNG says so."""
        if "png" not in self.files:
            return None
        with Image.open(self.files["png"]) as image:
            dots = image.info.get("dpi", (CSS_PIXELS_PER_INCH,) * 2)
            return tuple(
                round(CSS_PIXELS_PER_INCH * pixels / per_inch)
                for pixels, per_inch in zip(image.size, dots, strict=True)
            )

    def data(self) -> str:
        """A data URI of it, which stands alone: ids within SVGs cannot meet.

        Raises:
          OSError: it cannot be read.
        """
        svg = self.files.get("svg")
        small = svg is not None and svg.stat().st_size <= MAX_SVG_BYTES
        extension = "svg" if small or "png" not in self.files else "png"
        content = base64.b64encode(self.files[extension].read_bytes()).decode()
        return f"data:{MEDIA_TYPES[extension]};base64,{content}"


def pictures(files: Iterable[Path]) -> list[FigureAsset]:
    """The figures among `files`, the formats of one together, in their order."""
    found: dict[Path, dict[str, Path]] = {}
    for file in files:
        if (extension := file.suffix.removeprefix(".")) in EXTENSIONS:
            found.setdefault(file.with_suffix(""), {})[extension] = file
    return [FigureAsset(path.name, formats) for path, formats in found.items()]
