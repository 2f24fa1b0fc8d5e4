import numpy as np

from flaxres.config import default_config
from flaxres.data import Dataset, Split, dataset_shape, load_dataset


def test_mean_image_uses_only_the_training_split():
    train = np.array([[[[0]], [[255]]], [[[255]], [[255]]], [[[0]], [[0]]]], np.uint8)
    test = np.full((5, 2, 1, 1), 77, np.uint8)
    labels = np.zeros(3, np.int32)
    dataset = Dataset("x", Split(train, labels), Split(test, np.zeros(5, np.int32)), num_classes=1)
    np.testing.assert_allclose(dataset.mean_image()[:, 0, 0], [1 / 3, 2 / 3], rtol=1e-6)
    assert dataset.mean_image().dtype == np.float32
    assert dataset.image_shape == (2, 1, 1)


def test_load_dataset_caches_the_last_one():
    config = default_config().dataset
    config.name = "digits"
    assert load_dataset(config) is load_dataset(config)
    dataset = load_dataset(config)
    assert dataset.validation is None
    assert dataset_shape(config) == (dataset.image_shape, dataset.num_classes)
