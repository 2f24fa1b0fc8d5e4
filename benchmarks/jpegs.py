"""JPEGs of the sizes that ImageNet's have, made here: smooth textures with a pattern to learn.

DIR/SPLIT/CLASS/*.jpg; the class is the direction and the colour of faint stripes.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = 10
SIDES = (400, 600), (300, 450)  # pixels of width and height, drawn evenly: 500 x 375 on average
OCTAVES = (
    8,
    32,
    128,
    256,
)  # points of noise on the long side, each half as strong as the one before
QUALITY = 90


def make_image(label: int, number: int) -> Image.Image:
    """The image of a class and a number: RGB, always the same."""
    rng = np.random.default_rng((label, number))
    width, height = (int(rng.integers(*side, endpoint=True)) for side in SIDES)
    pixels = np.zeros((height, width, 3), np.float32)
    for octave, points in enumerate(OCTAVES):
        shape = (max(2, points * height // width), points, 3)
        noise = Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))
        noise = np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC), np.float32)
        pixels += (noise - 128) * 0.5**octave
    angle = math.pi * label / CLASSES
    y, x = np.mgrid[:height, :width].astype(np.float32)
    phase = (x * math.cos(angle) + y * math.sin(angle)) * 2 * math.pi / 24
    stripes = np.sin(phase + rng.uniform(0, 2 * math.pi))[..., None]
    color = np.cos(2 * math.pi * (label / CLASSES + np.arange(3) / 3))
    pixels = 128 + 0.6 * pixels + 30 * stripes * (1 + color)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def make_folder(root: Path, train: int, test: int) -> Path:
    """Writes so many images of each split, unless they are there.

    Returns:
      `root`, for `config.dataset.data_dir`.
    """
    with ThreadPoolExecutor() as threads:
        for split, size, first in (("train", train, 0), ("test", test, 1_000_000)):
            for label in range(CLASSES):
                (root / split / f"class{label}").mkdir(parents=True, exist_ok=True)

            def write(i: int, split: str = split, first: int = first) -> None:
                label = i % CLASSES
                path = root / split / f"class{label}" / f"{i:06}.jpg"
                if not path.exists():
                    part = path.with_suffix(".part")  # a killed benchmark leaves no half image
                    make_image(label, first + i).save(part, "JPEG", quality=QUALITY)
                    part.rename(path)

            list(threads.map(write, range(size)))
    return root
