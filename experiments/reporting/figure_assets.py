"""Figures of a workdir, with their captions, and as data URIs within a page."""

from __future__ import annotations

import base64
import dataclasses
import io
import warnings
from collections.abc import Iterable
from pathlib import Path

from flaxres.errors import DamagedFileError, print_note
from flaxres.experiments.analyses import ANALYSES
from flaxres.run.text_files import read_regular

CAPTIONS = {
    "figure6": "plain models left, residual models right, after figure 6 of He15 (arXiv "
    "1512.03385)",
    "figure1": "the shallowest and the deepest plain model, after figure 1 of He15 (arXiv "
    "1512.03385): training error left, test error right",
    "figure7": "standard deviation of the response of each 3x3 layer, after figure 7 of He15 "
    "(arXiv 1512.03385)",
    "curves": "training error left, test error right",
    "overview": "mean training error of each model left, mean test error right; a curve shows its "
    "name under the pointer",
} | ANALYSES
# SVG is sharp at any size, but large if there are many points. The page then has the PNG.
MAX_SVG_BYTES = 400_000
MAX_IMAGE_BYTES = 50_000_000  # of a figure; the page contains it
CSS_PIXELS_PER_INCH = 96  # by definition
EXTENSIONS = ("png", "svg")
MEDIA_TYPES = {"svg": "image/svg+xml", "png": "image/png"}


@dataclasses.dataclass(frozen=True)
class FigureAsset:
    """A figure, stored in one or two formats.

    Attributes:
      name: name of the files, without extension.
      files: path by extension, 'png' or 'svg'; at least one.
    """

    name: str
    files: dict[str, Path]

    @property
    def caption(self) -> str:
        """Caption for the name of the figure; empty if the name is unknown."""
        matches = [key for key in CAPTIONS if self.name == key or self.name.startswith(f"{key}_")]
        return CAPTIONS[max(matches, key=len)] if matches else ""

    @property
    def link(self) -> Path:
        """File to link to: the PNG if there is one, otherwise the SVG."""
        return self.files.get("png") or self.files["svg"]

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height in CSS pixels at the size it was drawn; None without a PNG."""
        if "png" not in self.files:
            return None
        from PIL import Image

        with Image.open(self.files["png"]) as image:
            dots_per_inch = image.info.get("dpi", (CSS_PIXELS_PER_INCH,) * 2)
            width, height = (
                round(CSS_PIXELS_PER_INCH * pixels / dots)
                for pixels, dots in zip(image.size, dots_per_inch, strict=True)
            )
        return width, height

    def data_uri(self) -> str:
        """Returns a data URI for an img element, where ids of different SVGs cannot collide.

        Raises:
          OSError: the file cannot be read.
        """
        svg = self.files.get("svg")
        is_small = svg is not None and svg.stat().st_size <= MAX_SVG_BYTES
        extension = "svg" if is_small or "png" not in self.files else "png"
        content = base64.b64encode(self.files[extension].read_bytes()).decode()
        return f"data:{MEDIA_TYPES[extension]};base64,{content}"


def collect_figures(files: Iterable[Path]) -> list[FigureAsset]:
    """Returns one figure for each name in `files`, in order; files of other formats are ignored."""
    formats_by_path: dict[Path, dict[str, Path]] = {}
    for file in files:
        if (extension := file.suffix.removeprefix(".")) in EXTENSIONS:
            formats_by_path.setdefault(file.with_suffix(""), {})[extension] = file
    return [FigureAsset(path.name, formats) for path, formats in formats_by_path.items()]


def keep_images(files: Iterable[Path]) -> list[Path]:
    """Returns the files that are images; a note on standard error names the others.

    Links are left out too, because the content of their targets would become part of the page.
    """
    images = []
    for file in files:
        try:
            _check_image(file, file.suffix.removeprefix("."))
            images.append(file)
        except (DamagedFileError, FileNotFoundError) as error:
            print_note(f"a figure is left out: {error}")
    return images


def _check_image(file: Path, extension: str) -> None:
    """Checks that a file is an image of a reasonable size, or of another format.

    Raises:
      FileNotFoundError: there is no such file.
      DamagedFileError: it is no image.
    """
    if extension not in EXTENSIONS:
        return
    if file.is_symlink():
        raise DamagedFileError(f"{file} must be a regular file, but it is a link")
    data = read_regular(file, MAX_IMAGE_BYTES)
    if extension == "svg":
        if b"<svg" not in data[:2000]:
            raise DamagedFileError(f"{file} is no SVG image")
        return
    from PIL import Image

    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image.info.get("dpi")
    except Exception as error:  # Pillow raises many types for damaged files
        raise DamagedFileError(f"{file} is no PNG image") from error
