"""Fingerprints of folders, TFDS data sets and arrays, and the listings in them."""

import base64
import dataclasses
import errno
import hashlib
import os
import zlib

import numpy as np
import pytest

from flaxres.data import fingerprint, folder, open_sources
from flaxres.data.fingerprint import ArrayDigest, FileList, file_sizes, sample_files
from flaxres.data.fingerprint_differences import describe_differences
from tests.conftest import write_tfds
from tests.data.jpegs import write_folder


def fingerprint_of(config, **fields):
    config.dataset.update(fields)
    return open_sources(config.dataset).fingerprint


def test_a_folder(tmp_path, config, monkeypatch):
    root = write_folder(tmp_path / "data")
    (root / "unused" / "x").mkdir(parents=True)
    found = fingerprint_of(config, name="folder", data_dir=str(root), train_split="train[:50%]")
    assert found.dataset == "folder"
    assert found.classes == ("blue", "green", "red")
    assert found.splits.keys() == {"train", "test"}
    # All images of a split count, because a slice of a folder depends on all of them.
    assert found.splits["train"].images == 45
    files = found.splits["train"].files["green"]
    directory = root / "train" / "green"
    assert files.count == 15
    assert files.sizes() == {f.name: f.stat().st_size for f in directory.iterdir()}
    content = b"".join(
        b"%s\0%d\0" % (name.encode(), (directory / name).stat().st_size)
        for name in sorted(os.listdir(directory))
    )
    assert files.digest == hashlib.sha256(content).hexdigest()

    assert found == fingerprint_of(config, classes=("red", "blue"))  # of the whole folder
    monkeypatch.setattr(folder, "MAX_LISTED_FILES", 50)
    large = fingerprint_of(config)
    assert large.splits["train"].files["green"] == dataclasses.replace(files, listing="")
    assert large.digest == found.digest
    moved = root.rename(tmp_path / "moved")
    assert fingerprint_of(config, data_dir=str(moved)).digest == found.digest
    (moved / "train" / "red" / "002.jpg").write_bytes(b"")
    assert fingerprint_of(config).digest != found.digest


def test_a_tfds_data_set(tmp_path, config):
    write_tfds(tmp_path)
    found = fingerprint_of(config, name="tiny", data_dir=str(tmp_path), train_split="train[:80%]")
    assert found.dataset == "tiny 1.0.0"
    assert found.classes == ("0", "1", "2", "3")
    assert {name: split.images for name, split in found.splits.items()} == {"train": 50, "test": 20}
    shard = tmp_path / "tiny" / "1.0.0" / "tiny-test.array_record-00000-of-00001"
    sizes = found.splits["test"].files["shards"].sizes()
    assert sizes == {shard.name: shard.stat().st_size}
    only_train = fingerprint_of(config, train_split="train", test_split="train")
    assert only_train.splits.keys() == {"train"}


def test_samples_are_the_start_and_the_end_of_each_shard(tmp_path):
    start, middle, end = (bytes([i]) * 64 * 1024 for i in range(3))
    long, short = tmp_path / "long", tmp_path / "short"
    long.write_bytes(start + middle + end)
    short.write_bytes(b"short")
    digest = hashlib.sha256(start + end + b"short" + b"short").hexdigest()
    assert sample_files([long, short]) == digest
    assert sample_files([long, tmp_path / "missing", short]) == ""


def test_a_shard_that_cannot_be_read_is_no_change_of_the_data(tmp_path, config, monkeypatch):
    """Loading the images reports the read error."""
    write_tfds(tmp_path)
    before = fingerprint_of(config, name="tiny", data_dir=str(tmp_path))

    def fail(path, *arguments):
        raise OSError(errno.EIO, "Input/output error", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(fingerprint, "open", fail, raising=False)
        unreadable = fingerprint_of(config)
    assert not any(split.samples for split in unreadable.splits.values())
    assert describe_differences(before, unreadable) == []
    assert describe_differences(unreadable, before) == []


def test_other_records_in_files_of_the_same_size(tmp_path, config):
    write_tfds(tmp_path)
    before = fingerprint_of(config, name="tiny", data_dir=str(tmp_path))
    shard = tmp_path / "tiny" / "1.0.0" / "tiny-train.array_record-00000-of-00001"
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)
    assert describe_differences(before, fingerprint_of(config)) == [
        "records of split train differ, in files of the same names and sizes"
    ]


def test_the_digits(config):
    found = fingerprint_of(config, train_split="train[:100]", image_size=16)
    assert found.dataset == "digits"
    assert found.classes == tuple("0123456789")
    arrays = found.splits["train"].arrays
    assert arrays["images"].shape == (1437, 8, 8, 1)
    assert (arrays["labels"].shape, arrays["labels"].dtype) == ((1437,), "int32")
    assert found.splits["test"].images == 360


def test_digests_of_arrays():
    array = np.arange(6, dtype=np.int16).reshape(2, 3)
    expected = hashlib.sha256(bytes([0, 0, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0])).hexdigest()
    assert ArrayDigest.of(array) == ArrayDigest((2, 3), "int16", expected)
    transposed = ArrayDigest.of(np.asfortranarray(array))
    assert transposed.digest == expected


def test_listings_hold_any_name(tmp_path):
    names = [b"a b.jpg", b"\xff.jpg", b"\x1b[31m\n.jpg", "é.jpg".encode(), b"n" * 251 + b".jpg"]
    for size, name in enumerate(names):
        with open(os.fsencode(tmp_path) + b"/" + name, "wb") as file:
            file.write(b"x" * size)
    sizes = file_sizes(tmp_path, [*names, b"missing"])
    assert sizes == {**{name: size for size, name in enumerate(names)}, b"missing": -1}
    assert FileList.of(sizes, keep_listing=True).sizes() == {
        **{"a b.jpg": 0, r"\udcff.jpg": 1, r"\x1b[31m\n.jpg": 2, "é.jpg": 3},
        **{"n" * 251 + ".jpg": 4, "missing": -1},
    }
    assert FileList.of(sizes, keep_listing=False).sizes() is None
    assert file_sizes(tmp_path / "none", names) == dict.fromkeys(names, fingerprint.UNREADABLE)


def test_names_of_classes_are_those_of_earlier_versions(tmp_path, config):
    """Runs of earlier versions keep names in this form; another one would be changed data."""
    root = write_folder(tmp_path / "data")
    names = {"red": "r\N{NO-BREAK SPACE}\u200d", "green": "g\n"}
    for split in ("train", "test"):
        for name, odd_name in names.items():
            (root / split / name).rename(root / split / odd_name)
    found = fingerprint_of(config, name="folder", data_dir=str(root))
    assert found.classes == ("blue", r"g\n", r"r\xa0\u200d")
    assert found.splits["test"].files.keys() == set(found.classes)


@pytest.mark.parametrize(
    "listing",
    [
        *("x", "ab cd", "0" * 20),
        base64.b85encode(zlib.compress(b"b\x001\0")).decode(),
        base64.b85encode(zlib.compress(b"\0" * 10**8)).decode(),  # inflated only in part
        base64.b85encode(zlib.compress(b"a\x001\0")[:-9]).decode(),
    ],
)
def test_a_damaged_listing_is_an_error(listing):
    files = FileList.of({b"a": 1}, keep_listing=True)
    assert files.sizes() == {"a": 1}
    with pytest.raises(ValueError, match=r"damaged|base85|overflow"):
        dataclasses.replace(files, listing=listing).sizes()
