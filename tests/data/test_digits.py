import numpy as np
import pytest
from sklearn.datasets import load_digits as sklearn_digits
from sklearn.model_selection import train_test_split

from flaxres.data import digits
from flaxres.data.digits import load_digits
from flaxres.errors import DatasetError


def test_split_sizes_shapes_and_dtypes():
    digits = load_digits()
    assert (len(digits.train), len(digits.test)) == (1437, 360)
    assert digits.image_shape == (8, 8, 1)
    assert digits.num_classes == 10
    assert digits.train.images.dtype == np.uint8
    assert digits.train.labels.dtype == np.int32
    assert (digits.train.images.min(), digits.train.images.max()) == (0, 255)


def test_split_is_stratified_disjoint_and_complete():
    digits = load_digits()
    images, labels = sklearn_digits(return_X_y=True)
    expected_counts = np.bincount(labels) * 360 / len(labels)
    assert (abs(np.bincount(digits.test.labels) - expected_counts) <= 1).all()

    def rows(images, labels):
        levels = np.rint(images.reshape(len(labels), -1) / 255 * 16)
        return sorted(tuple(row) for row in np.column_stack([levels, labels]))

    all_images = np.concatenate([digits.train.images, digits.test.images])
    all_labels = np.concatenate([digits.train.labels, digits.test.labels])
    assert rows(all_images, all_labels) == rows(images * (255 / 16), labels)


@pytest.mark.parametrize("test_size", [10, 99, 360, 901])
def test_split_is_that_of_scikit_learn(test_size):
    labels = sklearn_digits(return_X_y=True)[1]
    rows = np.arange(len(labels))
    expected = train_test_split(rows, test_size=test_size, stratify=labels, random_state=0)
    for actual, split in zip(digits._stratified_split(labels, test_size), expected, strict=True):
        np.testing.assert_array_equal(actual, split)


def test_without_scikit_learn_the_error_names_it(monkeypatch):
    monkeypatch.setattr(digits.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DatasetError, match=r"digits\.csv\.gz.*; pip install scikit-learn"):
        digits._read_table()


def test_split_is_fixed():
    """Pins the order of the images, so results of different versions are comparable."""
    labels = load_digits().test.labels
    assert labels[:12].tolist() == [7, 6, 3, 7, 7, 3, 2, 8, 9, 3, 2, 6]
    assert int(labels @ np.arange(360)) == 282_004


def test_slices_of_splits():
    digits = load_digits("train[:80%]", "train[80%:]")
    assert (len(digits.train), len(digits.test)) == (1150, 287)
    digits = load_digits("train[:-100]", "train[-100:]")
    assert (len(digits.train), len(digits.test)) == (1337, 100)
    whole = load_digits().train.labels
    np.testing.assert_array_equal(np.concatenate([digits.train.labels, digits.test.labels]), whole)


@pytest.mark.parametrize("split", ["validation", "train[", "train[a:b]", ""])
def test_an_unknown_split_is_an_error(split):
    with pytest.raises(DatasetError, match=r"has the splits train \(1,437\), test"):
        load_digits(split)


def test_an_empty_split_is_an_error():
    with pytest.raises(DatasetError, match="is empty"):
        load_digits("train", "test[:0]")


def test_a_validation_split_is_loaded_too():
    dataset = load_digits("train[:1200]", "test", "train[1200:]")
    assert [len(split) for split in (dataset.train, dataset.validation, dataset.test)] == [
        *(1200, 237, 360)
    ]
    whole = load_digits().train
    np.testing.assert_array_equal(dataset.validation.images, whole.images[1200:])
