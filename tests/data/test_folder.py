import pickle

import numpy as np
import pytest
from PIL import Image

from flaxres.data.decode import BrokenImageError
from flaxres.data.folder import open_folder
from flaxres.errors import DatasetError
from tests.data.jpegs import CLASSES, write_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("folder"), (("train", 30), ("test", 9)))


def test_images_and_labels_of_a_folder(folder):
    sources = open_folder(folder, "train", "test")
    assert sources.class_names == CLASSES
    assert (len(sources.train), len(sources.test), sources.channels) == (30, 9, 3)
    seen = set()
    for index in range(30):
        image, label = sources.train.load(index)
        file = sources.train.describe(index)
        assert f"/train/{CLASSES[label]}/" in file
        np.testing.assert_array_equal(np.asarray(image), np.asarray(Image.open(file)))
        assert sources.train.labels()[index] == label
        seen.add(file)
    assert len(seen) == 30
    assert list(sources.train.labels()) != sorted(sources.train.labels())  # the classes are mixed
    reopened = open_folder(folder, "train", "test")
    assert [reopened.train.describe(i) for i in range(30)] == [
        sources.train.describe(i) for i in range(30)
    ]


def test_a_folder_source_can_be_pickled(folder):
    source = open_folder(folder, "train[:50%]", "test").train
    unpickled = pickle.loads(pickle.dumps(source))
    assert [unpickled.describe(i) for i in range(15)] == [source.describe(i) for i in range(15)]
    assert unpickled.load(3)[1] == source.load(3)[1]


def test_slices_of_splits(folder):
    whole = open_folder(folder, "train", "test").train
    sources = open_folder(folder, "train[:20]", "test", "train[20:]")
    names = [sources.train.describe(i) for i in range(20)]
    names += [sources.validation.describe(i) for i in range(10)]
    assert names == [whole.describe(i) for i in range(30)]


def test_hidden_folders_and_other_files_are_ignored(tmp_path):
    write_folder(tmp_path, (("train", 6), ("test", 3)))
    (tmp_path / "train/.cache").mkdir()
    (tmp_path / "train/red/notes.txt").write_text("no image")
    Image.new("RGB", (4, 4)).save(tmp_path / "train/red/UPPER.PNG")
    sources = open_folder(tmp_path, "train", "test")
    assert sources.class_names == CLASSES
    assert len(sources.train) == 7


def test_a_folder_without_the_splits_is_an_error(tmp_path, folder):
    with pytest.raises(DatasetError, match=r"needs --config\.dataset\.data_dir"):
        open_folder(None, "train", "test")
    with pytest.raises(DatasetError, match="does not exist; it must contain SPLIT"):
        open_folder(tmp_path / "nowhere", "train", "test")
    with pytest.raises(DatasetError, match=r"must contain a folder 'val'.*it contains test, train"):
        open_folder(folder, "train", "val")
    with pytest.raises(DatasetError, match="is empty"):
        open_folder(folder, "train[5:5]", "test")
    (tmp_path / "train").mkdir()
    with pytest.raises(DatasetError, match="contains no class folders"):
        open_folder(tmp_path, "train", "train")


def test_differing_classes_and_a_class_without_images_are_errors(tmp_path):
    write_folder(tmp_path, (("train", 6), ("test", 3)))
    (tmp_path / "test/yellow").mkdir()
    with pytest.raises(DatasetError, match=r"class folder .*yellow contains no"):
        open_folder(tmp_path, "train", "test")
    Image.new("RGB", (4, 4)).save(tmp_path / "test/yellow/1.png")
    with pytest.raises(DatasetError, match="same class folders, but yellow is in only one of them"):
        open_folder(tmp_path, "train", "test")


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    write_folder(tmp_path, (("train", 6), ("test", 3)))
    source = open_folder(tmp_path, "train", "test").train
    name = source.describe(2)
    with open(name, "wb"):
        pass
    with pytest.raises(BrokenImageError, match=f"{name} is empty"):
        source.load(2)
    (tmp_path / name).unlink()
    with pytest.raises(DatasetError, match=f"{name} cannot be read: No such file"):
        source.load(2)
