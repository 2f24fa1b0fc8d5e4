"""A folder of small JPEGs: DIR/SPLIT/CLASS/*.jpg, with a different color for each class."""

import numpy as np
from PIL import Image

CLASSES = ("blue", "green", "red")


def write_folder(root, sizes=(("train", 45), ("test", 21)), sides=(16, 17)):
    """Writes splits of these sizes into `root` and returns it.

    The height and width of each image are drawn from `sides`: the smallest, and the largest plus 1.
    """
    rng = np.random.default_rng(0)
    for split, size in sizes:
        for i in range(size):
            label = i % len(CLASSES)
            folder = root / split / CLASSES[label]
            folder.mkdir(parents=True, exist_ok=True)
            height, width = rng.integers(*sides, 2)
            pixels = rng.normal(80, 30, (height, width, 3))
            pixels[..., 2 - label] += 100
            pixels = np.clip(pixels, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{i:03}.jpg", quality=90)
    return root
