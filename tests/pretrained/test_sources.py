"""Sources of pretrained weights: names, files and directories."""

import hashlib
import re

import pytest

from flaxres.errors import WeightsError
from flaxres.pretrained import sources
from flaxres.pretrained.sources import SHIPPED, Kind, find_source, is_directory, source_kind
from flaxres.pretrained.weights_file import read_weights


@pytest.mark.parametrize("name", SHIPPED)
def test_pretrained_weights_of_flaxres(name):
    path = find_source(name)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == SHIPPED[name]
    assert source_kind(path) is Kind.WEIGHTS
    weights = read_weights(path)
    assert weights.step == 64_000
    assert weights.config.dataset.data_dir is None
    model = name.removesuffix("-cifar10_jpeg")
    errors = {"plain-20": 13.5, "plain-32": 13.44, "plain-56": 15.12}
    errors |= {"resnet-20": 12.27, "resnet-56": 11.41}
    assert weights.errors["test_error"] == errors[model]  # results/README.md


def test_files_of_the_user_precede_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "resnet-20-cifar10_jpeg"
    assert find_source(name).is_absolute()
    (tmp_path / name).mkdir()
    assert str(find_source(name)) == name
    assert source_kind(find_source(name)) is Kind.RUN


def test_damaged_and_missing_weights(tmp_path, monkeypatch):
    name = "plain-20-cifar10_jpeg"
    monkeypatch.setattr(sources, "DIRECTORY", tmp_path)
    with pytest.raises(WeightsError, match=r"No such file or directory: .*; install flaxres again"):
        find_source(name)
    (tmp_path / f"{name}.safetensors").write_bytes(b"no weights")
    with pytest.raises(WeightsError, match="is damaged; install flaxres again"):
        find_source(name)


def test_unknown_names_get_the_nearest(tmp_path):
    message = re.escape(
        "--weights=resnet-20-cifar10 does not exist; give a run directory, a weights file "
        "(.safetensors), a file of variables (.msgpack), a PyTorch state dict, or one of the "
        "pretrained weights plain-20-cifar10_jpeg, plain-32-cifar10_jpeg, plain-56-cifar10_jpeg, "
        "resnet-20-cifar10_jpeg, resnet-56-cifar10_jpeg; did you mean 'resnet-20-cifar10_jpeg'?"
    )
    with pytest.raises(WeightsError, match=message):
        is_directory(find_source("resnet-20-cifar10"), "--weights")
    assert is_directory(tmp_path)
