import numpy as np
import pytest

from flaxres.data import Dataset, StreamedDataset, load_dataset, open_dataset
from flaxres.data.folder import open_folder
from flaxres.data.resize import resize
from flaxres.errors import ConfigError, DatasetError
from tests.conftest import small_config
from tests.data.jpegs import write_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("folder"), sides=(14, 30))


@pytest.fixture
def config(folder):
    config = small_config()
    config.dataset.name, config.dataset.data_dir = "folder", str(folder)
    config.dataset.image_size = 12
    return config


def test_placement_of_the_images(config):
    assert isinstance(open_dataset(config), Dataset)
    config.dataset.device_gib = 45 * 12 * 12 * 3 / 2**30
    assert isinstance(open_dataset(config), Dataset)
    config.dataset.device_gib *= 0.99
    streamed = open_dataset(config)
    assert isinstance(streamed, StreamedDataset)
    assert streamed.image_shape == (12, 12, 3)
    assert (len(streamed.train), streamed.num_classes) == (45, 3)
    config.dataset.placement = "device"
    assert isinstance(open_dataset(config), Dataset)
    config.dataset.placement, config.dataset.device_gib = "auto", 4.0
    config.augment.crop = "random-resized"
    assert isinstance(open_dataset(config), StreamedDataset)


def test_data_sets_in_memory_can_be_streamed():
    config = small_config()
    config.dataset.placement = "stream"
    streamed = open_dataset(config)
    assert streamed.image_shape == (8, 8, 1)
    np.testing.assert_array_equal(streamed.mean_image(), load_dataset(config.dataset).mean_image())


def test_replicas_need_the_images_on_the_device(config):
    config.num_replicas, config.dataset.device_gib = 2, 0.0
    with pytest.raises(ConfigError, match="num_replicas above 1 needs a data set on the device"):
        open_dataset(config)


@pytest.mark.parametrize("kind", ["pixel", "channel"])
def test_the_mean_of_all_images_equals_that_of_the_data_set_in_memory(config, kind):
    config.dataset.mean, config.dataset.eval_short_side = kind, 16
    config.dataset.placement = "stream"
    mean = open_dataset(config).mean_image()
    np.testing.assert_array_equal(mean, load_dataset(config.dataset).mean_image())
    source = open_folder(config.dataset.data_dir, "train", "test").train
    pixels = np.stack([np.asarray(resize(source.load(i)[0], 12)) for i in range(45)]) / 255
    expected = pixels.mean(axis=0 if kind == "pixel" else (0, 1, 2))
    np.testing.assert_allclose(mean, np.broadcast_to(expected, (12, 12, 3)), rtol=1e-6)


def test_the_mean_of_some_images_and_of_their_center_crops(config):
    config.augment.crop, config.dataset.eval_short_side = "random-resized", 14
    config.dataset.mean_images = 20
    mean = open_dataset(config).mean_image()
    np.testing.assert_array_equal(mean, open_dataset(config).mean_image())
    config.seed = 7  # independent of the seed: all runs of a sweep have the same mean
    np.testing.assert_array_equal(mean, open_dataset(config).mean_image())
    config.dataset.mean_images = 45
    full_mean = open_dataset(config).mean_image()
    assert 0 < np.abs(mean - full_mean).max() < 0.2
    source = open_folder(config.dataset.data_dir, "train", "test").train
    center_crops = [np.asarray(resize(source.load(i)[0], 12, 14)) for i in range(45)]
    np.testing.assert_allclose(full_mean, np.mean(center_crops, axis=0) / 255, rtol=1e-5)


def test_broken_images_are_not_part_of_the_mean(config, tmp_path):
    config.dataset.data_dir = str(write_folder(tmp_path, sides=(14, 30)))
    config.dataset.placement = "stream"
    source = open_folder(config.dataset.data_dir, "train", "test").train
    with open(source.describe(0), "wb"):
        pass
    with pytest.raises(DatasetError, match="is empty"):
        open_dataset(config).mean_image()
    config.dataset.broken_images = "skip"
    pixels = [np.asarray(resize(source.load(i)[0], 12)) for i in range(1, 45)]
    mean = open_dataset(config).mean_image()
    np.testing.assert_allclose(mean, np.mean(pixels, axis=0) / 255, rtol=1e-5)
    config.dataset.image_size = 0
    assert open_dataset(config).image_shape == (*reversed(source.load(1)[0].size), 3)
