"""Trained models from weights files, names, state dicts and files of variables."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxres.data.augment import normalize
from flaxres.errors import ConfigError, DatasetError, WeightsError
from flaxres.inference.export import write_export
from flaxres.inference.predictor import Predictor
from flaxres.inference.pretrained import load_pretrained, save_weights
from flaxres.inference.trained_model import load_trained_model
from flaxres.pretrained.load import write_variables
from flaxres.run.records import last_record

# Logits of the first of `synthetic_images`.
LOGITS = {
    "resnet-20": (
        *(3.5721, 0.9947, -2.0284, -0.4170, -1.5198),
        *(-0.0697, -0.3612, -4.2784, 2.8773, 1.1420),
    ),
    "resnet-56": (
        *(2.2179, -0.9963, 4.8950, 3.0987, -4.8443),
        *(-1.0799, -0.3423, -4.0584, -4.4526, 5.5965),
    ),
    "plain-20": (
        *(2.4535, 1.2991, -0.8458, 3.5396, -8.1229),
        *(0.9908, -8.1186, -0.7330, 1.4083, 8.0047),
    ),
    "plain-32": (
        *(2.8040, -0.6084, -0.1131, 1.0141, -3.1248),
        *(-3.4535, -3.5798, -2.6103, 5.0683, 4.4302),
    ),
    "plain-56": (
        *(-1.5941, 0.1580, -0.8458, 2.0404, -0.0874),
        *(-0.0481, -3.0390, -3.3948, 3.2661, 3.5341),
    ),
}


def synthetic_images():
    colors = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), dtype=np.uint8)
    return colors.repeat(8, axis=1).repeat(8, axis=2)


@pytest.mark.parametrize("name", LOGITS)
def test_logits_of_the_pretrained_weights_of_flaxres(name):
    trained = load_pretrained(f"{name}-cifar10_jpeg")
    assert trained.name == f"{name} in {name}-cifar10_jpeg"
    images = normalize(jnp.asarray(synthetic_images()), trained.input_spec.mean)
    logits = trained.logits(trained.variables, images)
    np.testing.assert_allclose(logits[0], LOGITS[name], atol=2e-3)
    assert trained.input_spec.class_names[3] == "cat"


def test_a_run_and_its_weights_file_are_the_same_model(tmp_path, digits_run, config):
    trained = load_trained_model(digits_run)
    path = tmp_path / "net.safetensors"
    save_weights(trained, path)
    loaded = load_pretrained(path)
    assert (loaded.step, loaded.errors) == (20, trained.errors)
    assert loaded.errors["test_error"] == last_record(digits_run)["test_error"]
    assert loaded.config.to_dict() == trained.config.to_dict()
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, trained.variables)
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), dtype=np.uint8)
    one, other = (Predictor([t], t.config).launch(images, 3) for t in (trained, loaded))
    np.testing.assert_array_equal(one, other)
    again = tmp_path / "again.safetensors"
    save_weights(loaded, again)
    assert again.read_bytes() == path.read_bytes()
    # A config may change the data set and the evaluation, but not the model.
    config.eval_batch_size, config.learning_rate = 77, 0.5
    loaded = load_pretrained(path, config)
    assert (loaded.config.eval_batch_size, loaded.config.learning_rate) == (77, 0.1)
    config.model.widths = (4, 8, 16)
    with pytest.raises(ConfigError, match=r"model.widths is \(4, 8, 16\) instead of \(4, 8, 8\)"):
        load_pretrained(path, config)
    population = load_pretrained(path, batch_stats="population")
    assert (population.batch_stats, population.errors) == ("population", {})
    expected = load_trained_model(digits_run, batch_stats="population").variables
    jax.tree.map(np.testing.assert_array_equal, population.variables, expected)


def test_weights_that_do_not_fit_their_config(tmp_path, digits_run):
    trained = load_trained_model(digits_run)
    variables = {"params": {}, "batch_stats": trained.variables["batch_stats"]}
    save_weights(dataclasses.replace(trained, variables=variables), tmp_path / "net.safetensors")
    with pytest.raises(WeightsError, match="does not fit the model resnet-8: missing params/"):
        load_pretrained(tmp_path / "net.safetensors")


def test_files_without_a_config(tmp_path, digits_run, config):
    trained = load_trained_model(digits_run)
    path = tmp_path / "net.msgpack"
    write_variables(path, trained.variables)
    with pytest.raises(ConfigError, match=r"--config is missing; .* is a file of variables"):
        load_pretrained(path)
    loaded = load_pretrained(path, config)
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, trained.variables)
    np.testing.assert_array_equal(loaded.input_spec.mean, trained.input_spec.mean)
    assert (loaded.step, loaded.input_spec.class_names) == (0, tuple("0123456789"))
    config.transfer.new_head, config.init_from = True, "x"
    with pytest.raises(ConfigError, match=r"transfer\.new_head cannot be used with --weights"):
        load_pretrained(path, config)
    config.transfer.new_head = False
    config.dataset.name, config.dataset.data_dir = "folder", str(tmp_path)
    with pytest.raises(DatasetError, match="has no class names and no mean image"):
        load_pretrained(path, config)
    copy = tmp_path / "run"
    shutil.copytree(digits_run, copy)
    assert load_pretrained(copy).source == copy


def test_a_state_dict_with_a_config(tmp_path, digits_run, config):
    trained = load_trained_model(digits_run)
    path = tmp_path / "net.safetensors"
    write_export(trained, path, "torch")
    with pytest.raises(ConfigError, match=r"transfer\.shortcut_padding must be both-sides"):
        load_pretrained(path, config)
    loaded = load_pretrained(path, config, overrides={"transfer.shortcut_padding": "end"})
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, trained.variables)
    with pytest.raises(ConfigError, match=r"--config is missing; .* is a PyTorch state dict"):
        load_pretrained(path)
