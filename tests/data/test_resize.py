import numpy as np
from PIL import Image

from flaxres.data import dataset_shape, load_dataset
from flaxres.data.resize import resize, resize_arrays
from tests.conftest import small_config, write_tfds


def test_the_short_side_is_scaled_and_the_middle_taken():
    columns = np.repeat(np.arange(0, 240, 10, dtype=np.uint8), 2)  # 48 wide, 12 high
    image = Image.fromarray(np.tile(columns, (12, 1)))
    small = np.asarray(resize(image, 6))
    assert small.shape == (6, 6)
    # 24 x 6 pixels, each the mean of two equal columns, of which 9 to 14 are the middle ones.
    inner = np.arange(90, 150, 10)
    np.testing.assert_allclose(small, np.tile(inner, (6, 1)), atol=1)


def test_images_of_the_size_asked_for_stay_as_they_are():
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    np.testing.assert_array_equal(resize_arrays(images, 8), images)
    grey = images[..., :1]
    assert resize_arrays(grey, 16).shape == (3, 16, 16, 1)
    uniform = np.full((1, 5, 9, 3), 77, np.uint8)
    np.testing.assert_array_equal(resize_arrays(uniform, 32), np.full((1, 32, 32, 3), 77))


def test_data_sets_in_another_size(tmp_path):
    config = small_config().dataset
    config.image_size = 32
    assert dataset_shape(config) == ((32, 32, 1), 10)
    assert load_dataset(config).image_shape == (32, 32, 1)
    arrays = write_tfds(tmp_path)
    config.name, config.data_dir, config.image_size = "tiny", str(tmp_path), 4
    assert dataset_shape(config) == ((4, 4, 3), 4)
    dataset = load_dataset(config)
    images, labels = arrays["train"]
    np.testing.assert_array_equal(dataset.train.images, resize_arrays(images, 4))
    np.testing.assert_array_equal(dataset.train.labels, labels)
