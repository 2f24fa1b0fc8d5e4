import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from flaxres.configs import digits
from flaxres.errors import CheckpointError, ConfigError
from flaxres.inference.trained_model import (
    TrainedModel,
    check_same_data,
    load_run_config,
    load_trained_model,
)
from flaxres.models import create_model
from flaxres.run.input_spec import InputSpec
from tests.conftest import quick_jit


def random_model(name, shape=(8, 8, 1), **fields):
    """Returns a model for the digits with random weights, without a run."""
    config = digits.get_config(name)
    config.model.update(fields)
    config.num_devices = 1
    model = create_model(config.model, 10)
    init = quick_jit(lambda images: model.init(jax.random.key(0), images, train=False))
    input_spec = InputSpec(np.full(shape, 0.25, np.float32), tuple("0123456789"))
    variables = {"batch_stats": {}} | init(np.zeros((1, *shape), np.float32))
    return TrainedModel(Path("somewhere"), config, 0, variables, input_spec, model)


def test_the_newest_checkpoint_is_loaded(digits_run, config):
    trained = load_trained_model(digits_run)
    assert (trained.step, trained.name) == (20, f"resnet-8 in {digits_run}")
    assert trained.config.to_dict() == config.to_dict()
    assert trained.variables["params"]["dense"]["kernel"].shape == (8, 10)
    assert load_trained_model(digits_run, config).input_spec.image_shape == (8, 8, 1)
    config.seed = 1
    with pytest.raises(Exception, match="seed is 0 in the workdir and 1 in this config"):
        load_trained_model(digits_run, config)


def test_runs_that_cannot_be_loaded(tmp_path, digits_run, config):
    for load in (load_trained_model, load_run_config):
        with pytest.raises(CheckpointError, match="holds no run; train it first"):
            load(tmp_path)
        with pytest.raises(CheckpointError, match="nowhere does not exist; check --workdir"):
            load(tmp_path / "nowhere")
        message = f"lies inside the run {digits_run}; use --workdir={digits_run}$"
        with pytest.raises(CheckpointError, match=message):
            load(digits_run / "checkpoints")
    with pytest.raises(ConfigError, match="batch_stats must be running or population"):
        load_trained_model(digits_run, batch_stats="all")
    config.num_replicas = 2
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    with pytest.raises(ConfigError, match=r"2 models trained in one program .num_replicas=2"):
        load_trained_model(tmp_path)
    config.num_replicas = 1
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    with pytest.raises(CheckpointError, match="holds no checkpoint yet"):
        load_trained_model(tmp_path)


def test_input_sizes_that_a_model_accepts():
    trained = random_model("resnet-8", widths=(4, 4, 4))
    trained.check_input_sizes([(8, 8), (9, 30), (4, 4)], "this")
    trained = random_model("lenet-5")  # pads its input to 32 pixels
    trained.check_input_sizes([(8, 8), (20, 32)], "this")
    with pytest.raises(ConfigError, match="this does not work for lenet-5 in somewhere: its dense"):
        trained.check_input_sizes([(8, 8), (32, 40)], "this")
    with pytest.raises(ConfigError, match=r"at least 4 x 4 pixels, got 3 x 9$"):
        random_model("densenet-10-4").check_input_sizes([(3, 9)], "this")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("name", "mnist", "dataset.name is 'mnist' instead of 'digits'"),
        ("test_split", "train", "dataset.test_split is 'train' instead of 'test'"),
        ("classes", ("1", "2"), r"dataset.classes is \('1', '2'\) instead of \(\)"),
        ("data_dir", "elsewhere", None),
        ("mean", "channel", None),
    ],
)
def test_models_of_an_ensemble_have_the_same_data(digits_run, field, value, message):
    trained = load_trained_model(digits_run)
    config = trained.config.copy_and_resolve_references()
    config.dataset[field] = value
    models = [trained, dataclasses.replace(trained, config=config)]
    if message is None:
        check_same_data(models, trained.config)
    else:
        with pytest.raises(ConfigError, match=f"must have the same data .* {message}"):
            check_same_data(models, trained.config)


def test_models_of_an_ensemble_have_the_same_classes_and_images(digits_run):
    trained = load_trained_model(digits_run)
    spec = trained.input_spec
    for input_spec, message in (
        (InputSpec(spec.mean, tuple("0123456798")), "its classes differ from those of"),
        (InputSpec(spec.mean[:7], spec.class_names), r"\(7, 8, 1\) instead of \(8, 8, 1\)"),
    ):
        other = dataclasses.replace(trained, input_spec=input_spec)
        with pytest.raises(ConfigError, match=message):
            check_same_data([trained, other], trained.config)
