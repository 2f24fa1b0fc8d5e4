"""Differences of fingerprints, in cases that folders on disk (tests/corpus) do not cover."""

import dataclasses

import pytest

from flaxres.data.fingerprint import (
    UNREADABLE,
    ArrayDigest,
    FileList,
    Fingerprint,
    SplitFingerprint,
    unknown_data,
)
from flaxres.data.fingerprint_differences import (
    describe_differences,
    describe_labels,
    join_differences,
)


def folder(keep_listing=True, **splits):
    """Returns the fingerprint of a folder from sizes by split, class and name."""
    return Fingerprint(
        "folder",
        tuple(sorted(next(iter(splits.values())))),
        {
            split: SplitFingerprint(
                sum(map(len, classes.values())),
                {
                    name: FileList.of({f.encode(): s for f, s in files.items()}, keep_listing)
                    for name, files in classes.items()
                },
            )
            for split, classes in splits.items()
        },
    )


SAME = {"0.png": 9, "1.png": 9}  # noise of one size, with the same names in each class


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        # Classes whose files look the same are not taken for renamed ones if they change.
        (
            {"train": {"a": SAME, "b": SAME}, "test": {"a": SAME, "b": SAME}},
            {
                "train": {"a": {**SAME, "2.png": 9}, "b": {**SAME, "3.png": 9}},
                "test": {"a": SAME, "b": SAME},
            },
            ["added 1 image in train/a (2.png)", "added 1 image in train/b (3.png)"],
        ),
        (
            {"train": {"a": SAME, "b": SAME, "c": SAME}},
            {"train": {"a": SAME, "c": SAME, "x": SAME}},
            ["class folders renamed: b -> x"],
        ),
        # Three folders exchange their names in a circle.
        (
            {"train": {"a": {"0": 1}, "b": {"1": 1}, "c": {"2": 1}}},
            {"train": {"a": {"1": 1}, "b": {"2": 1}, "c": {"0": 1}}},
            ["class folders renamed: a -> c, b -> a, c -> b"],
        ),
        # A folder takes the name of a removed one.
        (
            {"train": {"a": {"0": 1}, "b": {"1": 1}}},
            {"train": {"b": {"0": 1}, "c": {"5": 1}}},
            [
                "class folders renamed: a -> b",
                "class folders removed: b (1 image)",
                "class folders added: c (1 image)",
            ],
        ),
        (
            {"train": {"a": {"0": 1, "1": 10**6}}},
            {"train": {"a": {"0": 1, "1": 5}}},
            ["size changed in train/a: 1 (1,000,000 -> 5 bytes)"],
        ),
        (
            {"train": {"a": {"0": 1, "1": 1000}}},
            {"train": {"a": {"0": 1, "1": UNREADABLE}}},
            ["size changed in train/a: 1 (1,000 bytes -> missing or unreadable)"],
        ),
    ],
)
def test_folders(before, after, expected):
    assert describe_differences(folder(**before), folder(**after)) == expected
    assert describe_differences(folder(**before), folder(**before)) == []


def test_folders_without_listings():
    before = folder(False, train={"a": {"0": 1}, "b": {"1": 1}, "c": {"2": 1}})
    after = folder(False, train={"a": {"0": 1, "9": 1}, "d": {"1": 1}, "c": {"2": 3}})
    assert describe_differences(before, after) == [
        "class folders renamed: b -> d",
        "train/a has 2 images instead of 1",
        "names or sizes of the 1 image in train/c differ",
    ]
    # A listing is not part of the data.
    listed = folder(True, train={"a": {"0": 1}, "b": {"1": 1}, "c": {"2": 1}})
    assert describe_differences(before, listed) == []


def test_other_data_sets():
    def tfds(images=5, classes=("a", "b"), version="1.0.0"):
        shards = FileList.of({b"s": 1}, keep_listing=True)
        return Fingerprint(
            f"set {version}", classes, {"train": SplitFingerprint(images, {"shards": shards})}
        )

    for after, expected in (
        (tfds(version="2.0.0"), ["the data set is set 2.0.0 instead of set 1.0.0"]),
        (tfds(images=1), ["split train has 1 image instead of 5"]),
        (tfds(classes=("b", "a")), ["classes changed: a -> b (label 0), b -> a (label 1)"]),
        (tfds(classes=("a", "b", "c")), ["classes added: c"]),
        (dataclasses.replace(tfds(), splits={}), ["other splits are used: train"]),
    ):
        assert describe_differences(tfds(), after) == expected

    # Fingerprints of earlier versions have no samples.
    for samples, differences in (("", 0), ("1", 0), ("2", 1)):
        before, after = (
            dataclasses.replace(
                tfds(), splits={"train": dataclasses.replace(tfds().splits["train"], samples=text)}
            )
            for text in (samples, "1")
        )
        assert len(describe_differences(before, after)) == differences

    def digits(array):
        return Fingerprint("digits", ("0",), {"train": SplitFingerprint(3, {}, {"images": array})})

    before = digits(ArrayDigest((3, 8), "uint8", "0"))
    for array, expected in (
        (ArrayDigest((3, 8), "uint8", "1"), "images of split train have other values"),
        (ArrayDigest((3, 9), "int8", "0"), "images of split train: int8 (3, 9) instead of uint8 "),
    ):
        (line,) = describe_differences(before, digits(array))
        assert line.startswith(expected)


def test_data_of_which_only_the_classes_are_known():
    after = folder(train={"a": {"0": 1}, "b": {"1": 1}})
    for classes, expected in (
        (("a", "b"), []),
        (("a", "x"), ["class folders changed: x -> b (label 1)"]),
        (("a", "b", "c"), ["class folders removed: c"]),
    ):
        assert describe_differences(Fingerprint("", classes), after) == expected
    assert describe_differences(unknown_data(), unknown_data()) == []


def test_labels():
    before = folder(train={"cat": {"0": 1}, "dog": {"1": 1}, "emu": {"2": 1}})
    renamed = folder(train={"kat": {"0": 1}, "dog": {"1": 1}, "emu": {"2": 1}})
    expected = "labels change: dog 1 -> 0, emu 2 -> 1, kat (was cat) 0 -> 2"
    assert describe_labels(before, renamed) == expected
    assert describe_labels(before, renamed, ("emu", "dog")) is None  # the run keeps their labels
    same_order = folder(train={"cab": {"0": 1}, "dog": {"1": 1}, "emu": {"2": 1}})
    assert describe_labels(before, same_order) is None
    many = {f"c{i}": {str(i): 1} for i in range(9)}
    line = describe_labels(folder(train=many), folder(train={"a": {"a": 1}, **many}))
    assert line == (
        "labels change: c0 0 -> 1, c1 1 -> 2, c2 2 -> 3, c3 3 -> 4, c4 4 -> 5 and 4 more"
    )


def test_many_differences_are_cut_off():
    assert join_differences(["a", "b"]) == "a; b"
    assert join_differences(list("abcdefghijk")) == "a; b; c; d; e; f; g; h; and 3 more differences"
