import importlib.util

import pytest

from flaxres.data.tfds_builders import open_builder, open_prepared
from flaxres.errors import DatasetError
from tests.conftest import write_tfds


@pytest.mark.parametrize("name", ["cifar10", "cifar10_jpeg"])
def test_not_prepared_without_tensorflow(tmp_path, monkeypatch, name):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DatasetError) as caught:
        open_prepared(name, str(tmp_path))
    assert "pip install -r requirements-prepare.txt" in str(caught.value)
    command = f"`flaxres prepare --name={name} --data_dir={tmp_path}`"
    assert command in str(caught.value)


def test_a_prepared_data_set_whose_name_is_that_of_a_copy(tmp_path):
    write_tfds(tmp_path, "mine_jpeg")
    assert open_prepared("mine_jpeg", str(tmp_path)).info.splits["train"].num_examples == 50


def test_a_jpeg_copy_of_an_unknown_data_set(tmp_path):
    write_tfds(tmp_path)
    with pytest.raises(DatasetError, match=r"'tinny_jpeg' is neither .*did you mean 'tiny_jpeg'"):
        open_builder("tinny_jpeg", str(tmp_path))
