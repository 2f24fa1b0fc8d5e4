"""PyTorch state dicts with torchvision's and timm's names, in memory and in files."""

import functools
import os
import pickle

import jax
import numpy as np
import pytest

from flaxres.config import default_config, set_model
from flaxres.errors import ConfigError, WeightsError
from flaxres.models import create_model
from flaxres.pretrained.torch_state_dict import convert, read_state_dict

torch = pytest.importorskip("torch", reason="pip install torch==2.13.0")
from tests.models import torch_models  # noqa: E402


def make_models(name, stem="cifar", pixels=32, **fields):
    """Returns config, flax model and variable shapes of a model, and the same model in PyTorch."""
    config = set_model(default_config(), name, stem).model
    config.update(fields)
    torch.manual_seed(0)
    torch_model = torch_models.build(config, 10, pixels).eval()
    for module in torch_model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    model = create_model(config, 10)
    images = np.zeros((1, pixels, pixels, 3), np.float32)
    create = functools.partial(model.init, train=False)
    return config, model, jax.eval_shape(create, jax.random.key(0), images), torch_model


def state_arrays(module):
    return {name: value.detach().numpy() for name, value in module.state_dict().items()}


def assert_same_logits(model, variables, torch_model, pixels=32):
    images = np.random.default_rng(0).normal(size=(2, pixels, pixels, 3)).astype(np.float32)
    with torch.no_grad():
        expected = torch_model(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    logits = jax.jit(functools.partial(model.apply, train=False))(variables, images)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("name", "stem", "pixels"), [("resnet-8", "cifar", 32), ("vgg-11", "imagenet", 64)]
)
def test_image_std_is_folded_into_the_first_convolution(name, stem, pixels):
    fields = {"hidden": (8,)} if name == "vgg-11" else {}
    config, model, shapes, torch_model = make_models(name, stem, pixels, **fields)
    std = (0.229, 0.5, 2.0)
    variables = convert(state_arrays(torch_model), shapes, config, image_std=std)
    divided = lambda images: torch_model(images / torch.tensor(std)[:, None, None])  # noqa: E731
    assert_same_logits(model, variables, divided, pixels)
    with pytest.raises(ConfigError, match=r"transfer\.image_std must be 3 numbers, got 1"):
        convert(state_arrays(torch_model), shapes, config, image_std=(0.5,))


def test_vgg_with_convolution_biases_and_dense_layers_over_feature_maps():
    config, model, shapes, _ = make_models("vgg-11", "imagenet", 64, hidden=(64, 48))
    torch.manual_seed(1)
    torch_model = torch_models.Vgg(config, 10, 64, bias=True).eval()
    weights = state_arrays(torch_model)
    assert "features.0.bias" in weights
    assert_same_logits(model, convert(weights, shapes, config), torch_model, 64)
    # In timm the hidden layers are convolutions, and the last layer is head.fc.
    timm = {name: value for name, value in weights.items() if "classifier" not in name}
    timm["pre_logits.fc1.weight"] = weights["classifier.0.weight"].reshape(64, 512, 2, 2)
    timm["pre_logits.fc2.weight"] = weights["classifier.3.weight"].reshape(48, 64, 1, 1)
    timm["head.fc.weight"] = weights["classifier.6.weight"]
    timm |= {
        f"{name}.bias": weights[f"classifier.{i}.bias"]
        for i, name in ((0, "pre_logits.fc1"), (3, "pre_logits.fc2"), (6, "head.fc"))
    }
    assert_same_logits(model, convert(timm, shapes, config), torch_model, 64)


def test_densenet_names_with_dots_in_torchvision_files():
    config, _, shapes, torch_model = make_models("densenet-121", "imagenet")
    weights = state_arrays(torch_model)
    dotted = {
        name.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."): value
        for name, value in weights.items()
    }
    assert set(dotted) != set(weights)
    one, other = (convert(names, shapes, config) for names in (weights, dotted))
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_state_dict_of_a_checkpoint_file(tmp_path):
    config, model, shapes, torch_model = make_models("resnet-8-B")
    state = {f"module.{name}": value for name, value in torch_model.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "model.pth")
    weights = read_state_dict(tmp_path / "model.pth")
    assert_same_logits(model, convert(weights, shapes, config), torch_model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("fc.bias"), r"missing fc\.bias \(for dense/bias\)$"),
        (lambda w: w.update({"fc.weight": np.zeros((5, 64))}), "fc.weight has shape"),
        (
            lambda w: w.update({"layer4.0.conv1.weight": np.zeros(3)}),
            r"unexpected layer4\.0\.conv1\.weight$",
        ),
        (lambda w: w.clear(), r"does not fit the model resnet-8-B: missing \w+\."),
    ],
)
def test_state_dicts_of_another_model_are_rejected(change, message):
    config, _, shapes, torch_model = make_models("resnet-8-B")
    weights = state_arrays(torch_model)
    change(weights)
    with pytest.raises(WeightsError, match=message):
        convert(weights, shapes, config)


def test_models_without_known_pytorch_names():
    model = set_model(default_config(), "lenet-5").model
    with pytest.raises(ConfigError, match="PyTorch names of lenet models are unknown"):
        convert({}, {"params": {"dense": {"bias": np.zeros(3)}}}, model)


class HostileCommand:
    """An object whose pickle runs a command when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_files_without_a_state_dict_are_rejected(tmp_path):
    with pytest.raises(WeightsError, match="there is no file"):
        read_state_dict(tmp_path / "absent.pth")
    (tmp_path / "text.pth").write_text("weights")
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps(HostileCommand(tmp_path / "made")))
    torch.save({"model": HostileCommand(tmp_path / "made")}, tmp_path / "code.pth")
    for name in ("text.pth", "empty.pth", "pickle.pth", "code.pth"):
        with pytest.raises(WeightsError, match="must hold only tensors") as caught:
            read_state_dict(tmp_path / name)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "made").exists()
    torch.save(torch.zeros(3), tmp_path / "tensor.pth")
    torch.save({"epoch": 3}, tmp_path / "numbers.pth")
    for name in ("tensor.pth", "numbers.pth"):
        with pytest.raises(WeightsError, match="is not a PyTorch state dict"):
            read_state_dict(tmp_path / name)


def test_training_starts_from_a_state_dict(tmp_path, python):
    config, _, _, torch_model = make_models("resnet-8-B", widths=(4, 8, 8))
    torch_model.conv1 = torch.nn.Conv2d(1, 4, 3, padding=1, bias=False)
    torch.save(torch_model.state_dict(), tmp_path / "model.pth")
    flags = (
        *("-m", "flaxres.main", "--config=configs/digits.py:resnet-8-B"),
        *("--config.model.widths=(4,8,8)", "--config.num_steps=1", "--config.learning_rate=1e-30"),
        *("--config.boundaries=()", f"--workdir={tmp_path / 'run'}"),
    )
    done = python(*flags, f"--init_from={tmp_path / 'model.pth'}")
    assert done.returncode == 0, done.stderr
    from flaxres.data import load_dataset
    from flaxres.run.checkpoint import Checkpoints
    from flaxres.training.compiled_steps import CompiledSteps

    experiment = default_config()
    experiment.dataset.name, experiment.batch_size = "digits", 128
    experiment.num_devices = 1
    experiment.model.update(config)
    template = CompiledSteps(experiment, load_dataset(experiment.dataset)).state_shape
    with Checkpoints(tmp_path / "run") as checkpoints:
        state = checkpoints.restore(template, pytest.fail)
    shapes = {"params": template.params, "batch_stats": template.batch_stats}
    expected = convert(state_arrays(torch_model), shapes, config)["params"]
    jax.tree.map(
        lambda actual, leaf: np.testing.assert_allclose(actual, leaf, rtol=1e-6, atol=1e-12),
        state.params,
        expected,
    )
    done = python(*flags[:-1], f"--workdir={tmp_path / 'other'}", "--init_from=absent.pth")
    assert done.returncode == 1
    assert "error: there is no file absent.pth" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("name", "head"), [("resnet-8-B", "fc"), ("vgg-11", "classifier")])
def test_new_head_replaces_a_head_for_other_classes(name, head):
    config, _, shapes, torch_model = make_models(name)
    weights = state_arrays(torch_model)
    variables = convert(weights, shapes, config)
    inputs = weights[f"{head}.weight"].shape[1]
    other = weights | {f"{head}.weight": np.zeros((7, inputs)), f"{head}.bias": np.zeros(7)}
    message = rf"{head}\.\w+ has shape \(7.*, which does not fit dense/.*transfer\.new_head=True$"
    with pytest.raises(WeightsError, match=message):
        convert(other, shapes, config)
    headless = {key: leaf for key, leaf in weights.items() if not key.startswith(head)}
    for given in (other, headless):
        converted = convert(given, shapes, config, new_head=True)
        assert "dense" not in converted["params"]
        converted["params"]["dense"] = variables["params"]["dense"]
        jax.tree.map(np.testing.assert_array_equal, converted, variables)
    with pytest.raises(WeightsError, match=r"unexpected fc9\.weight$"):
        convert(headless | {"fc9.weight": np.zeros(3)}, shapes, config, new_head=True)
