import os
import socket

import pytest

from flaxres.data.folder_listing import SkippedEntries, list_folders, list_image_files
from flaxres.errors import DatasetError


@pytest.fixture
def class_folder(tmp_path):
    folder = tmp_path / "train" / "red"
    folder.mkdir(parents=True)
    for name in ("2.JPG", "10.jpeg", "1.png"):
        (folder / name).write_bytes(b"")
    return folder


def listed(class_folder):
    skipped = SkippedEntries()
    names = list_image_files(class_folder.parent, "red", skipped)
    return names, str(skipped)


def test_image_files_are_sorted_by_name(class_folder):
    assert listed(class_folder) == (["1.png", "10.jpeg", "2.JPG"], "")


def test_what_is_no_image_file_is_skipped_and_counted(class_folder, monkeypatch):
    for name in ("._1.png", ".hidden.jpg", ".DS_Store", "notes.txt", "5.webp", "jpg", "6.jpg.part"):
        (class_folder / name).write_bytes(b"")
    (class_folder / "7.jpg" / "deeper").mkdir(parents=True)
    for name in ("8.jpg", "deeper/9.JPEG", "deeper/notes"):
        (class_folder / "7.jpg" / name).write_bytes(b"")
    os.mkfifo(class_folder / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(class_folder)  # a socket's path may have 108 bytes
        server.bind("socket.jpg")
        names, skipped = listed(class_folder)
    assert names == ["1.png", "10.jpeg", "2.JPG"]
    assert skipped.split("), ") == [
        "3 hidden files or folders (train/red/.DS_Store, train/red/._1.png, train/red/.hidden.jpg",
        "4 files without .jpg, .jpeg or .png at the end (train/red/5.webp, train/red/6.jpg.part, "
        "train/red/jpg, ...",
        "1 folder in a class folder (train/red/7.jpg with 2 images",
        "2 pipes, sockets or devices (train/red/pipe.jpg, train/red/socket.jpg)",
    ]


def test_links_are_image_files_wherever_they_lead(class_folder):
    """`broken_images` decides about links that lead nowhere, when they are read."""
    (class_folder / "link.jpg").symlink_to("1.png")
    (class_folder / "broken.jpg").symlink_to("nowhere")
    (class_folder / "loop.jpg").symlink_to("loop.jpg")
    names, skipped = listed(class_folder)
    assert names == ["1.png", "10.jpeg", "2.JPG", "broken.jpg", "link.jpg", "loop.jpg"]
    assert skipped == ""


def test_a_class_folder_whose_images_lie_deeper(tmp_path):
    (tmp_path / "red" / "images").mkdir(parents=True)
    (tmp_path / "red" / "images" / "1.jpg").write_bytes(b"")
    with pytest.raises(
        DatasetError,
        match=r"red contains no .* file; move the files from its subfolder images into it",
    ):
        list_image_files(tmp_path, "red", SkippedEntries())


def test_folders_and_other_entries(tmp_path):
    for name in ("b", "a", ".cache"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "nowhere").symlink_to("nothing")
    (tmp_path / "loop").symlink_to("loop")
    assert list_folders(tmp_path) == (["a", "b", "link"], [".cache", "file", "loop", "nowhere"])
    with pytest.raises(DatasetError, match=r"folder .*file cannot be read: Not a directory"):
        list_folders(tmp_path / "file")
