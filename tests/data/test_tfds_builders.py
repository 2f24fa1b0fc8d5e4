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


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tiny_JPEG", "'tiny_jpeg'"),
        ("tiny_jpeg ", "'tiny_jpeg'"),
        ("tiny_jpeg:1.0.0", "'tiny_jpeg'"),
        ("tiny_jpeg_jpeg", "'tiny_jpeg'"),
        ("mne_jpeg", "'mine_jpeg'"),
        ("cifar1_jpeg", "'cifar10_jpeg'"),
        ("dice", "'dices'"),
        ("digit", "'digits'"),
        ("_jpeg", None),
    ],
)
def test_suggestions_are_names_that_can_be_opened(tmp_path, name, expected):
    write_tfds(tmp_path)
    write_tfds(tmp_path, "mine_jpeg")
    with pytest.raises(DatasetError) as caught:
        open_builder(name, str(tmp_path))
    _, _, suggestion = str(caught.value).partition("; did you mean ")
    assert suggestion == (f"{expected}?" if expected else "")
