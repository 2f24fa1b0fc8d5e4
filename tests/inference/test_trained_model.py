import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from configs import digits
from flaxres.errors import CheckpointError, ConfigError
from flaxres.inference.trained_model import (
    TrainedModel,
    check_same_data,
    load_trained_model,
    run_config,
)
from flaxres.models import create_model
from flaxres.run.input_spec import InputSpec
from tests.conftest import quick_jit


def random_net(name, shape=(8, 8, 1), **fields):
    """A net for the digits with random weights, of no run."""
    config = digits.get_config(name)
    config.model.update(fields)
    config.num_devices = 1
    model = create_model(config.model, 10)
    init = quick_jit(lambda images: model.init(jax.random.key(0), images, train=False))
    inputs = InputSpec(np.full(shape, 0.25, np.float32), tuple("0123456789"))
    variables = {"batch_stats": {}} | init(np.zeros((1, *shape), np.float32))
    return TrainedModel(Path("somewhere"), config, 0, variables, inputs, model)


def test_the_newest_checkpoint_is_loaded(digits_run, config):
    net = load_trained_model(digits_run)
    assert (net.step, net.name) == (20, f"resnet-8 in {digits_run}")
    assert net.config.to_dict() == config.to_dict()
    assert net.variables["params"]["dense"]["kernel"].shape == (8, 10)
    assert load_trained_model(digits_run, config).inputs.image_shape == (8, 8, 1)
    config.seed = 1
    with pytest.raises(Exception, match="seed is 0 in the workdir and 1 in this config"):
        load_trained_model(digits_run, config)


def test_what_cannot_be_loaded(tmp_path, digits_run, config):
    for load in (load_trained_model, run_config):
        with pytest.raises(CheckpointError, match="holds no run; train it first"):
            load(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="batch_stats must be running or population"):
        load_trained_model(digits_run, batch_stats="all")
    config.num_replicas = 2
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    with pytest.raises(ConfigError, match="num_replicas=2 nets in one program"):
        load_trained_model(tmp_path)
    config.num_replicas = 1
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    with pytest.raises(CheckpointError, match="holds no checkpoint yet"):
        load_trained_model(tmp_path)


def test_sizes_that_a_net_takes():
    net = random_net("resnet-8", widths=(4, 4, 4))
    net.check_shapes([(8, 8), (9, 30), (4, 4)], "this")
    net = random_net("lenet-5")  # it pads to 32 pixels
    net.check_shapes([(8, 8), (20, 32)], "this")
    with pytest.raises(ConfigError, match="this is not for lenet-5 in somewhere: its dense layers"):
        net.check_shapes([(8, 8), (32, 40)], "this")
    with pytest.raises(ConfigError, match=r"at least 4 x 4 pixels, got 3 x 9$"):
        random_net("densenet-10-4").check_shapes([(3, 9)], "this")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("name", "mnist", "dataset.name is 'mnist' there and 'digits' here"),
        ("test_split", "train", "dataset.test_split is 'train' there and 'test' here"),
        ("classes", ("1", "2"), r"dataset.classes is \('1', '2'\) there and \(\) here"),
        ("data_dir", "elsewhere", None),
        ("mean", "channel", None),
    ],
)
def test_nets_of_an_ensemble_have_the_same_data(digits_run, field, value, message):
    net = load_trained_model(digits_run)
    config = net.config.copy_and_resolve_references()
    config.dataset[field] = value
    nets = [net, dataclasses.replace(net, config=config)]
    if message is None:
        check_same_data(nets, net.config)
    else:
        with pytest.raises(ConfigError, match=f"must have the same data .* {message}"):
            check_same_data(nets, net.config)


def test_nets_of_an_ensemble_have_the_same_classes_and_images(digits_run):
    net = load_trained_model(digits_run)
    for inputs, message in (
        (InputSpec(net.inputs.mean, tuple("0123456798")), "its classes are others than those of"),
        (
            InputSpec(net.inputs.mean[:7], net.inputs.class_names),
            r"\(7, 8, 1\) there and \(8, 8, 1\)",
        ),
    ):
        with pytest.raises(ConfigError, match=message):
            check_same_data([net, dataclasses.replace(net, inputs=inputs)], net.config)
