import os
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


def test_other_files_are_left_out_with_one_notice(tmp_path, capsys):
    """The images and their order are the same with and without the other files."""
    write_folder(tmp_path, (("train", 6), ("test", 3)))
    Image.new("RGB", (4, 4)).save(tmp_path / "train/red/UPPER.PNG")
    before = open_folder(tmp_path, "train", "test").train
    files = [before.describe(i) for i in range(7)]
    assert capsys.readouterr().err == ""
    (tmp_path / "train/.cache").mkdir()
    (tmp_path / "train/0.jpg").write_text("beside the class folders")
    (tmp_path / "train/red/notes.txt").write_text("no image")
    (tmp_path / "train/red/._UPPER.PNG").write_text("what macOS adds")
    (tmp_path / "train/green/0.jpg").mkdir()
    os.mkfifo(tmp_path / "test/blue/1.jpg")
    for _ in range(2):
        sources = open_folder(tmp_path, "train", "test")
    assert sources.class_names == CLASSES
    assert [sources.train.describe(i) for i in range(7)] == files
    assert len(sources.test) == 3
    (notice,) = capsys.readouterr().err.splitlines()
    assert notice == (
        f"Left out of {tmp_path}: 2 hidden files or folders (train/.cache, train/red/._UPPER.PNG), "
        "1 file without .jpg, .jpeg or .png at the end (train/red/notes.txt), "
        "1 folder in a class folder (train/green/0.jpg with 0 images), "
        "1 pipe, socket or device (test/blue/1.jpg), "
        "1 file beside the class folders (train/0.jpg)"
    )


def test_the_order_of_the_files_of_a_folder_never_changes(tmp_path):
    """As in version 0.1.0; a resumed run must see the same images."""
    for split, count in (("train", 6), ("test", 2)):
        for name in ("b", "a", "B"):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(count):
                (tmp_path / split / name / f"{i}.jpg").write_bytes(b"")
    train = open_folder(tmp_path, "train[:12]", "test").train
    files = [train.describe(i).removeprefix(f"{tmp_path}/train/")[:3] for i in range(12)]
    assert " ".join(files) == "B/2 a/4 B/3 b/0 B/0 B/4 a/1 B/5 b/4 b/1 b/2 a/5"


def test_names_of_classes_and_files_of_any_bytes(tmp_path):
    names = ["[red]", "a\nb", "\x1b[31m", "caf\udce9", "n" * 255, "'\"$(x)", "猫", "A", "a"]
    for split in ("train", "test"):
        for name in names:
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (2, 2)).save(tmp_path / split / name / "1.jpg")
            (tmp_path / split / name / "1.jpg").rename(
                tmp_path / split / name / f"{name[:250]}.jpg"
            )
    sources = open_folder(tmp_path, "train", "test")
    assert sources.class_names == tuple(sorted(names))
    for index in range(len(names)):
        _, label = sources.train.load(index)
        name = sources.class_names[label]
        assert sources.train.describe(index) == f"{tmp_path}/train/{name}/{name[:250]}.jpg"
    assert sources.select_classes(["a\nb", "caf\udce9"]).train.labels().tolist() in ([0, 1], [1, 0])


def test_class_folders_may_be_links(tmp_path):
    write_folder(tmp_path, (("train", 6), ("test", 3)))
    (tmp_path / "train" / "red").rename(tmp_path / "elsewhere")
    (tmp_path / "train" / "red").symlink_to(tmp_path / "elsewhere")
    sources = open_folder(tmp_path, "train", "test")
    assert sources.class_names == CLASSES
    assert len(sources.train) == 6


def test_a_folder_without_the_splits_is_an_error(tmp_path, folder):
    with pytest.raises(DatasetError, match=r"needs --config\.dataset\.data_dir"):
        open_folder(None, "train", "test")
    with pytest.raises(DatasetError, match="does not exist; it must contain SPLIT"):
        open_folder(tmp_path / "nowhere", "train", "test")
    with pytest.raises(DatasetError, match=r"a folder 'val'.*it contains test, train$"):
        open_folder(folder, "train", "val", "test")
    with pytest.raises(DatasetError, match=r"set --config\.dataset\.test_split=test$"):
        open_folder(folder, "train", "val")
    with pytest.raises(DatasetError, match=rf"did you mean --config.dataset.data_dir={folder}\?$"):
        open_folder(folder / "train", "train", "test")
    with pytest.raises(DatasetError, match="is empty"):
        open_folder(folder, "train[5:5]", "test")
    (tmp_path / "train").mkdir()
    with pytest.raises(DatasetError, match="contains no class folders but nothing; it must"):
        open_folder(tmp_path, "train", "train")
    (tmp_path / "train" / "1.jpg").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"contains no class folders but 1\.jpg; it must"):
        open_folder(tmp_path, "train", "train")
    for data_dir in ("~nosuchuser/x", "n" * 300, str(tmp_path / "train" / "1.jpg")):
        with pytest.raises(DatasetError, match=f"folder {data_dir} does not exist"):
            open_folder(data_dir, "train", "test")


def test_differing_classes_and_a_class_without_images_are_errors(tmp_path):
    write_folder(tmp_path, (("train", 6), ("test", 3)))
    (tmp_path / "test/yellow").mkdir()
    with pytest.raises(DatasetError, match=r"class folder .*yellow contains no"):
        open_folder(tmp_path, "train", "test")
    Image.new("RGB", (4, 4)).save(tmp_path / "test/yellow/1.png")
    with pytest.raises(DatasetError, match="but yellow is only in test"):
        open_folder(tmp_path, "train", "test")


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    write_folder(tmp_path, (("train", 6), ("test", 3)))
    source = open_folder(tmp_path, "train", "test").train
    name = source.describe(2)
    with open(name, "wb"):
        pass
    with pytest.raises(BrokenImageError, match=f"{name} is empty"):
        source.load(2)
    os.unlink(name)
    for make, problem in (
        (lambda: None, "cannot be read: No such file"),
        (lambda: os.symlink("nowhere", name), "cannot be read: No such file"),
        (lambda: os.mkdir(name), "is a directory"),
        (lambda: os.mkfifo(name), "is a named pipe"),
    ):
        make()
        with pytest.raises(BrokenImageError, match=f"{name} {problem}"):
            source.load(2)
        if os.path.isdir(name):
            os.rmdir(name)
        elif os.path.lexists(name):
            os.unlink(name)
