import numpy as np
import pytest

from flaxres.data import load_dataset
from flaxres.errors import DatasetError, WorkdirError
from flaxres.run.input_spec import (
    INPUT_SPEC_FILE,
    InputSpec,
    class_names,
    read_input_spec,
    store_input_spec,
    write_input_spec,
)
from tests.conftest import write_tfds


def test_a_run_stores_its_mean_image_and_class_names(digits_run, config):
    assert (digits_run / INPUT_SPEC_FILE).exists()
    config.dataset.name = "nothing"  # so that no data set can be read
    input_spec = read_input_spec(digits_run, config)
    config.dataset.name = "digits"
    np.testing.assert_array_equal(input_spec.mean, load_dataset(config.dataset).mean_image())
    assert input_spec.class_names == tuple("0123456789")
    assert (input_spec.image_shape, input_spec.num_classes) == ((8, 8, 1), 10)


def test_class_names_in_any_script_are_restored(tmp_path, config):
    mean = np.random.default_rng(0).random((2, 3, 3), np.float32)
    write_input_spec(tmp_path, InputSpec(mean, ("n01440764 tench, Tinca tinca", "Schleie", "鯉")))
    input_spec = read_input_spec(tmp_path, config)
    np.testing.assert_array_equal(input_spec.mean, mean)
    assert input_spec.class_names == ("n01440764 tench, Tinca tinca", "Schleie", "鯉")
    store_input_spec(tmp_path, config, lambda: 1 / 0)  # the file exists
    assert [path.name for path in tmp_path.iterdir()] == [INPUT_SPEC_FILE]


def test_an_older_run_reads_them_from_its_data_set(tmp_path, config):
    input_spec = read_input_spec(tmp_path, config)
    np.testing.assert_array_equal(input_spec.mean, load_dataset(config.dataset).mean_image())
    config.dataset.name = "folder"
    config.dataset.data_dir = str(tmp_path / "photos")
    with pytest.raises(
        DatasetError, match=r"has no inputs\.npz, and .* folder .*photos does not exist"
    ):
        read_input_spec(tmp_path, config)


def test_class_names(tmp_path, config):
    config.dataset.classes = ("7", "1")
    assert class_names(config.dataset) == ("7", "1")
    write_tfds(tmp_path)
    config.dataset.update({"name": "tiny", "data_dir": str(tmp_path), "classes": ()})
    assert class_names(config.dataset) == ("0", "1", "2", "3")


@pytest.mark.parametrize("content", [b"", b"PK nothing"])
def test_a_damaged_file_is_rejected(tmp_path, config, content):
    (tmp_path / INPUT_SPEC_FILE).write_bytes(content)
    with pytest.raises(WorkdirError, match=r"inputs\.npz is damaged .* remove it"):
        read_input_spec(tmp_path, config)


def test_a_file_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkdirError, match="cannot be written"):
        write_input_spec(tmp_path / "file", InputSpec(np.zeros((1, 1, 1), np.float32), ("a", "b")))
