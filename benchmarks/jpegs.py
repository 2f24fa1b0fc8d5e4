"""Generated JPEG files of about the size of ImageNet's: smooth textures with a learnable pattern.

Written to DIR/SPLIT/CLASS/*.jpg. The class is the direction and color of faint stripes.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = 10
# Ranges of width and height in pixels, sampled uniformly: 500 x 375 on average.
SIDES = (400, 600), (300, 450)
# Noise points along the width; each octave has half the amplitude of the previous one.
OCTAVES = (8, 32, 128, 256)
QUALITY = 90


def make_image(label: int, number: int) -> Image.Image:
    """Generates an RGB image; the same label and number always give the same image."""
    rng = np.random.default_rng((label, number))
    width, height = (int(rng.integers(*side, endpoint=True)) for side in SIDES)
    pixels = np.zeros((height, width, 3), np.float32)
    for octave, points in enumerate(OCTAVES):
        shape = (max(2, points * height // width), points, 3)
        noise_image = Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))
        resized = noise_image.resize((width, height), Image.Resampling.BICUBIC)
        pixels += (np.asarray(resized, np.float32) - 128) * 0.5**octave
    angle = math.pi * label / CLASSES
    y, x = np.mgrid[:height, :width].astype(np.float32)
    phase = (x * math.cos(angle) + y * math.sin(angle)) * 2 * math.pi / 24
    stripes = np.sin(phase + rng.uniform(0, 2 * math.pi))[..., None]
    color = np.cos(2 * math.pi * (label / CLASSES + np.arange(3) / 3))
    pixels = 128 + 0.6 * pixels + 30 * stripes * (1 + color)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def make_folder(root: Path, train: int, test: int) -> Path:
    """Writes the images of both splits, except for files that already exist.

    Args:
      root: directory to write to.
      train: number of training images.
      test: number of test images.

    Returns:
      `root`, for `config.dataset.data_dir`.
    """
    with ThreadPoolExecutor() as threads:
        for split, size, first_number in (("train", train, 0), ("test", test, 1_000_000)):
            for label in range(CLASSES):
                (root / split / f"class{label}").mkdir(parents=True, exist_ok=True)

            def write(i: int, split: str = split, first_number: int = first_number) -> None:
                label = i % CLASSES
                path = root / split / f"class{label}" / f"{i:06}.jpg"
                if not path.exists():
                    # Renamed when complete: a killed benchmark leaves no truncated image.
                    temporary = path.with_suffix(".part")
                    make_image(label, first_number + i).save(temporary, "JPEG", quality=QUALITY)
                    temporary.rename(path)

            list(threads.map(write, range(size)))
    return root
