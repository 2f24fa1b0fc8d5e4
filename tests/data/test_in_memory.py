import os
from pathlib import Path

import numpy as np
import pytest

from flaxres.data.decode import BrokenImageError
from flaxres.data.folder import open_folder
from flaxres.data.in_memory import load_sources
from flaxres.data.resize import resize
from flaxres.data.source import ArraySource, Sources
from flaxres.errors import DatasetError
from tests.data.jpegs import write_folder


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path, (("train", 12), ("test", 6)), sides=(20, 40))


def test_images_are_resized_to_one_size(folder):
    sources = open_folder(folder, "train", "test")
    dataset = load_sources(sources, 16, eval_short_side=20)
    assert dataset.train.images.shape == (12, 16, 16, 3)
    assert (dataset.num_classes, dataset.validation) == (3, None)
    for index in range(12):
        image, label = sources.train.load(index)
        np.testing.assert_array_equal(dataset.train.images[index], np.asarray(resize(image, 16)))
        assert dataset.train.labels[index] == label
    image, _ = sources.test.load(2)
    width, height = (max(20, round(side * 20 / min(image.size))) for side in image.size)
    scaled = np.asarray(image.resize((width, height), 2))
    top, left = (height - 16) // 2, (width - 16) // 2
    expected = scaled[top : top + 16, left : left + 16]
    np.testing.assert_array_equal(dataset.test.images[2], expected)


def test_images_of_several_sizes_are_an_error(folder):
    with pytest.raises(
        DatasetError, match=r"has \d+ x \d+ pixels, but the first image has \d+ x \d+; choose"
    ):
        load_sources(open_folder(folder, "train", "test"), 0)


def test_broken_images_are_an_error_or_skipped(folder, capsys):
    sources = open_folder(folder, "train", "test")
    name = sources.train.describe(4)
    with open(name, "wb") as file:
        file.write(b"broken")
    with pytest.raises(BrokenImageError, match=f"{name} cannot be decoded"):
        load_sources(sources, 16)
    dataset = load_sources(sources, 16, skip_broken=True)
    assert len(dataset.train) == 11
    assert f"Skipped 1 of 12 images that cannot be decoded ({name})\n" in capsys.readouterr().err
    np.testing.assert_array_equal(dataset.train.labels, np.delete(sources.train.labels(), 4))


def test_files_that_cannot_be_read_are_broken_images(folder, capsys):
    """The first images of the file order, the last one, and neighbors."""
    sources = open_folder(folder, "train", "test")
    names = [sources.train.describe(index) for index in (0, 1, 5, 11)]
    for name in names:
        os.unlink(name)
    os.symlink("nowhere", names[1])
    os.mkfifo(names[2])
    os.mkdir(names[3])
    with pytest.raises(BrokenImageError, match=f"{names[0]} cannot be read: No such file"):
        load_sources(sources, 16)
    dataset = load_sources(sources, 16, skip_broken=True)
    assert len(dataset.train) == 8
    (notice,) = capsys.readouterr().err.splitlines()
    assert notice == (
        f"Skipped 4 of 12 images that cannot be decoded ({', '.join(names[:3])}, ...)"
    )


def test_damaged_metadata_is_reported_once(folder, capsys):
    sources = open_folder(folder, "train", "test")
    expected = load_sources(sources, 16).train.images
    names = [sources.train.describe(index) for index in (2, 3)]
    for name in names:
        content = Path(name).read_bytes()
        Path(name).write_bytes(content[:2] + b"\xff\xe1\x00\x0cExif\0\0no" + content[2:])
    np.testing.assert_array_equal(load_sources(sources, 16).train.images, expected)
    (notice,) = capsys.readouterr().err.splitlines()
    assert notice == (
        "2 of 12 images were read without their metadata, which is damaged or too large "
        f"({', '.join(names)})"
    )


def test_more_images_than_memory_are_an_error(monkeypatch):
    images = np.zeros((3, 4, 4, 3), np.uint8)
    source = ArraySource("set", images, np.zeros(3, np.int32))
    monkeypatch.setattr(ArraySource, "__len__", lambda self: 2**50)
    with pytest.raises(DatasetError, match=r"images of 4 x 4 pixels need .* GiB of memory; choose"):
        load_sources(Sources("set", source, source, ("a", "b"), 3), 0)


def test_a_label_that_is_not_a_class_is_an_error():
    images = np.zeros((3, 4, 4, 3), np.uint8)
    source = ArraySource("set", images, np.array([0, 5, 1], np.int32))
    with pytest.raises(DatasetError, match="image 1 of set has the label 5; there are 2 classes"):
        load_sources(Sources("set", source, source, ("a", "b"), 3), 0)
