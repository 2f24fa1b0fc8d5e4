import numpy as np
from PIL import Image

from benchmarks.jpegs import SIDES, make_folder, make_image


def test_images_are_deterministic_and_within_the_sizes():
    first = make_image(3, 5)
    np.testing.assert_array_equal(np.asarray(first), np.asarray(make_image(3, 5)))
    assert (np.asarray(make_image(3, 6))[:300, :400] != np.asarray(first)[:300, :400]).any()
    for length, (low, high) in zip(first.size, SIDES, strict=True):
        assert low <= length <= high


def test_existing_images_are_kept(tmp_path):
    make_folder(tmp_path, 10, 10)
    files = sorted(tmp_path.rglob("*.jpg"))
    assert len(files) == 20
    times = [file.stat().st_mtime_ns for file in files]
    make_folder(tmp_path, 10, 10)
    assert [file.stat().st_mtime_ns for file in files] == times
    Image.open(files[0]).load()
