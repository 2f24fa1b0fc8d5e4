"""Weights files: written, read, and rejected if they are damaged or something else."""

import json
import struct

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from flaxres.configs import digits
from flaxres.errors import WeightsError
from flaxres.pretrained.weights_file import Weights, is_weights_file, read_weights, write_weights
from flaxres.run.input_spec import InputSpec

VARIABLES = {
    "params": {"dense": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3).T}},
    "batch_stats": {},
}


def make_weights():
    config = digits.get_config("resnet-8")
    config.dataset.data_dir = "/home/somebody/data"
    config.init_from = "/home/somebody/resnet8.pth"
    spec = InputSpec(np.full((8, 8, 1), 0.25, np.float32), ("zero", "one"))
    return Weights(config, 7, VARIABLES, spec, {"test_error": 12.27})


@pytest.fixture
def path(tmp_path):
    write_weights(tmp_path / "net.safetensors", make_weights())
    return tmp_path / "net.safetensors"


def change_metadata(path, **changes):
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    metadata = json.loads(header["__metadata__"]["flaxres"]) | changes
    header["__metadata__"]["flaxres"] = json.dumps(metadata)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def test_a_file_holds_a_model_and_no_paths(path):
    read, written = read_weights(path), make_weights()
    assert is_weights_file(path)
    assert (read.step, read.errors) == (7, {"test_error": 12.27})
    assert read.input_spec.class_names == ("zero", "one")
    np.testing.assert_array_equal(read.input_spec.mean, written.input_spec.mean)
    kernel = VARIABLES["params"]["dense"]["kernel"]
    np.testing.assert_array_equal(read.variables["params"]["dense"]["kernel"], kernel)
    assert read.variables["batch_stats"] == {}
    written.config.dataset.data_dir, written.config.init_from = None, "resnet8.pth"
    assert read.config.to_dict() == written.config.to_dict()
    assert b"somebody" not in path.read_bytes()
    # The library reads it, and a second writing gives the same bytes.
    np.testing.assert_array_equal(load_file(path)["params/dense/kernel"], kernel)
    other = path.with_name("other.safetensors")
    write_weights(other, make_weights())
    assert other.read_bytes() == path.read_bytes()


def test_fields_added_after_the_file_get_their_defaults(path):
    config = make_weights().config.to_dict()
    del config["momentum"], config["transfer"]["frozen"]
    change_metadata(path, config=config, note="of a newer version")
    assert read_weights(path).config.momentum == 0.9


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "was written by flaxres .*; update flaxres"),
        ({"step": -1}, r"damaged, or not a weights file .*step"),
        ({"image_shape": [8, 8, 3]}, r"mean_image has shape \(8, 8, 1\), not \(8, 8, 3\)"),
        ({"class_names": []}, "damaged, or not a weights file .*class_names"),
        ({"config": {"seed": 0}}, "no 'num_steps'|lacks|missing"),
    ],
)
def test_bad_metadata(path, changes, message):
    change_metadata(path, **changes)
    with pytest.raises(WeightsError, match=message):
        read_weights(path)


def test_names_are_not_nested_without_end(path):
    arrays = load_file(path)
    arrays["params/" + "a/" * 5000 + "kernel"] = arrays.pop("params/dense/kernel")
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    save_file(arrays, path, metadata)
    with pytest.raises(WeightsError, match="has more than 30 parts"):
        read_weights(path)


def test_other_files(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert is_weights_file(path)  # so that reading it reports the damage
    with pytest.raises(WeightsError, match="is damaged, or not a weights file"):
        read_weights(path)
    save_file({"fc.weight": np.zeros((2, 2), np.float32)}, path)
    assert not is_weights_file(path)
    with pytest.raises(WeightsError, match="PyTorch state dict without a config; give --config"):
        read_weights(path)
    path.unlink()
    assert not is_weights_file(path)
    with pytest.raises(WeightsError, match=r"net\.safetensors cannot be read"):
        read_weights(path)
