import numpy as np
import pytest

from flaxres.data.source import ArraySource, Sources, Subset, check_label, parse_split
from flaxres.errors import DatasetError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (12, 4, 5, 3), dtype=np.uint8)
LABELS = np.arange(12, dtype=np.int32) % 4
NAMES = ("cat", "dog", "owl", "pig")


def sources():
    source = ArraySource("animals", IMAGES, LABELS)
    return Sources("animals", source, source, NAMES, 3)


def test_images_of_an_array_source():
    source = sources().train
    image, label = source.load(7)
    np.testing.assert_array_equal(np.asarray(image), IMAGES[7])
    assert (label, len(source), source.describe(7)) == (3, 12, "image 7 of animals")
    gray = ArraySource("gray", IMAGES[..., :1], LABELS)
    np.testing.assert_array_equal(np.asarray(gray.load(1)[0]), IMAGES[1, ..., 0])


def test_selected_classes_get_new_labels_in_their_order():
    selected = sources().select_classes(("pig", "cat"))
    assert selected.class_names == ("pig", "cat")
    assert selected.num_classes == 2
    rows = [i for i in range(12) if LABELS[i] in (0, 3)]
    assert len(selected.train) == len(rows)
    for index, row in enumerate(rows):
        image, label = selected.train.load(index)
        np.testing.assert_array_equal(np.asarray(image), IMAGES[row])
        assert label == {3: 0, 0: 1}[LABELS[row]]
        assert selected.train.labels()[index] == label
        assert selected.train.describe(index) == f"image {row} of animals"
    assert sources().select_classes(()).class_names == NAMES


def test_subset_of_a_subset():
    inner = Subset(sources().train, np.array([5, 3, 1]))
    outer = Subset(inner, np.array([2, 0]))
    assert [outer.describe(i) for i in range(2)] == ["image 1 of animals", "image 5 of animals"]
    np.testing.assert_array_equal(outer.labels(), LABELS[[1, 5]])


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (("cat", "cow"), r"must be classes of animals \(cat, dog, owl, pig\), got 'cow'"),
        (("cat",), "two or more different classes, got cat"),
        (("cat", "cat"), "two or more different classes"),
    ],
)
def test_classes_that_cannot_be_selected(classes, message):
    with pytest.raises(DatasetError, match=message):
        sources().select_classes(classes)


@pytest.mark.parametrize(
    ("spec", "rows"),
    [
        ("train", range(200)),
        ("train[50:]", range(50, 200)),
        ("train[:25%]", range(50)),
        ("train[-10:]", range(190, 200)),
        ("train[10%:20]", range(20, 20)),
    ],
)
def test_slices_of_splits(spec, rows):
    if not len(rows):
        with pytest.raises(DatasetError, match="is empty"):
            parse_split(spec, {"train": 200}, "set")
        return
    name, parsed = parse_split(spec, {"train": 200}, "set")
    assert (name, range(200)[parsed]) == ("train", rows)


@pytest.mark.parametrize("spec", ["validation", "train[1:2:3]", "train+test", ""])
def test_an_unknown_split_is_an_error(spec):
    with pytest.raises(DatasetError, match=r"has the splits train \(200\)"):
        parse_split(spec, {"train": 200}, "set")


def test_a_label_that_is_not_a_class_is_an_error():
    check_label(3, 4, "image 1")
    for label in (4, -1):
        with pytest.raises(
            DatasetError, match=f"image 1 has the label {label}; there are 4 classes"
        ):
            check_label(label, 4, "image 1")
