"""Data sets of black images."""

import pytest

from benchmarks.blank_dataset import blank_dataset
from flaxres.configs import imagenet
from flaxres.data import StreamedDataset
from flaxres.errors import ConfigError
from tests.conftest import small_config


def test_a_streamed_data_set_is_not_built():
    dataset = blank_dataset(imagenet.get_config("resnet-18"))
    assert isinstance(dataset, StreamedDataset)
    assert dataset.image_shape == (224, 224, 3)
    assert len(dataset.train) == 1_281_167


def test_unknown_data_set():
    config = small_config()
    config.dataset.name = "folder"
    with pytest.raises(ConfigError, match=r"dataset.name must be one of cifar10.*got 'folder'"):
        blank_dataset(config)
