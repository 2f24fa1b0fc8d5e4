"""PyTorch state dicts with torchvision's and timm's names, in memory and in files."""

import functools

import jax
import numpy as np
import pytest

from flaxres.config import default_config, set_model
from flaxres.data import load_dataset
from flaxres.errors import ConfigError, WeightsError
from flaxres.models import create_model
from flaxres.pretrained.torch_file import read_state_dict
from flaxres.pretrained.torch_state_dict import convert
from flaxres.training.compiled_steps import CompiledSteps
from flaxres.training.initial_weights import load_pretrained_weights
from tests.conftest import small_config

torch = pytest.importorskip("torch", reason="pip install torch==2.13.0")
from tests.models import torch_models  # noqa: E402


def make_models(name, stem="cifar", pixels=32, **fields):
    """Returns config, flax model and variable shapes of a model, and the same model in PyTorch."""
    config = set_model(default_config(), name, stem).model
    config.update(fields)
    torch.manual_seed(0)
    torch_model = torch_models.randomize(torch_models.build(config, 10, pixels))
    model = create_model(config, 10)
    images = np.zeros((1, pixels, pixels, 3), np.float32)
    create = functools.partial(model.init, train=False)
    return config, model, jax.eval_shape(create, jax.random.key(0), images), torch_model


@pytest.fixture(scope="module")
def small_model():
    return make_models("resnet-8-B")


def state_arrays(module):
    return {name: value.detach().numpy() for name, value in module.state_dict().items()}


def assert_same_logits(model, variables, torch_model, pixels=32):
    images = np.random.default_rng(0).normal(size=(2, pixels, pixels, 3)).astype(np.float32)
    with torch.no_grad():
        expected = torch_model(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    logits = jax.jit(functools.partial(model.apply, train=False))(variables, images)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("name", "stem", "pixels"), [("resnet-8-B", "cifar", 32), ("vgg-11", "imagenet", 64)]
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


def test_state_dict_of_a_checkpoint_file(tmp_path, small_model):
    config, model, shapes, torch_model = small_model
    state = {f"module.{name}": value for name, value in torch_model.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "model.pth")
    weights = read_state_dict(tmp_path / "model.pth")
    assert_same_logits(model, convert(weights, shapes, config), torch_model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("fc.bias"), r"missing fc\.bias \(for dense/bias\); to train on other"),
        (lambda w: w.update({"fc.weight": np.zeros((5, 64))}), "wrong shape: fc.weight has shape"),
        (
            lambda w: w.update({"layer4.0.conv1.weight": np.zeros(3)}),
            r"unexpected layer4\.0\.conv1\.weight$",
        ),
        (
            lambda w: w.clear(),
            r"does not fit the model resnet-8-B: missing bn1\.running_mean \(for norm/mean\), "
            r"bn1\.running_var \(for norm/var\), layer1\.0\.bn1\.running_mean \(for "
            r"stage1_block1/norm1/mean\) and \d+ more$",
        ),
        (
            lambda w: (w.update(w_=w.pop("conv1.weight")), w.pop("bn1.bias")),
            r"missing conv1\.weight \(for conv/kernel\), bn1\.bias \(for norm/bias\); "
            r"unexpected w_$",
        ),
        (
            lambda w: w.update({"conv1.weight": w["conv1.weight"].astype(np.int8)}),
            r"conv1\.weight of the state dict must hold floating-point numbers, got int8",
        ),
        (
            lambda w: w.update({"bn1.running_var": np.full(16, np.inf)}),
            r"bn1\.running_var of the state dict holds NaN, infinite",
        ),
        (lambda w: w.update({"conv1.weight": np.full((16, 3, 3, 3), 1e300)}), "too large numbers"),
        (lambda w: w.update({"conv1.bias": np.zeros(3)}), r"unexpected conv1\.bias$"),
        (
            # An array of 4 TiB in four bytes: it is never copied.
            lambda w: w.update({"conv1.weight": np.broadcast_to(np.float32(0), (2**40,))}),
            r"conv1\.weight has shape \(1099511627776,\), which does not fit",
        ),
    ],
)
def test_state_dicts_of_another_model_are_rejected(small_model, change, message):
    config, _, shapes, torch_model = small_model
    weights = state_arrays(torch_model)
    change(weights)
    with pytest.raises(WeightsError, match=message):
        convert(weights, shapes, config)


def test_models_without_known_pytorch_names():
    model = set_model(default_config(), "lenet-5").model
    with pytest.raises(ConfigError, match="PyTorch names of lenet models are unknown"):
        convert({}, {"params": {"dense": {"bias": np.zeros(3)}}}, model)


def test_training_starts_from_a_state_dict(tmp_path):
    config, _, _, torch_model = make_models("resnet-8-B", widths=(4, 8, 8))
    torch_model.conv1 = torch.nn.Conv2d(1, 4, 3, padding=1, bias=False)
    torch.save(torch_model.state_dict(), tmp_path / "model.pth")
    experiment = small_config()
    experiment.model.update(config)
    experiment.init_from = str(tmp_path / "model.pth")
    compiled_steps = CompiledSteps(experiment, load_dataset(experiment.dataset))
    variables = jax.device_get(compiled_steps.initial_state().variables)
    shapes = compiled_steps.state_shape.variables
    expected = convert(state_arrays(torch_model), shapes, config)
    jax.tree.map(np.testing.assert_array_equal, variables, expected)


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


def test_what_a_state_dict_does_not_show_is_reported(tmp_path, capsys):
    config, _, shapes, torch_model = make_models("resnet-11-bottleneck", widths=(4, 4, 8))
    path = tmp_path / "model.pth"
    torch.save(torch_model.state_dict(), path)
    for stride_on, note in (("3x3", "as in torchvision and timm; other"), ("1x1", "unlike torch")):
        config.stride_on = stride_on
        load_pretrained_weights(path, shapes, config, std=(0.2, 0.2, 0.2))
        message = f"{path} is read with the stride of bottlenecks on the {stride_on} convolution"
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"note: {message}, {note}")
    load_pretrained_weights(path, shapes, config)
    assert "are not divided by a standard deviation" in capsys.readouterr().err
    config.stride_on = "auto"
    with pytest.raises(ConfigError, match=r"model\.stride_on must be 1x1 or 3x3 to read .*'auto'"):
        load_pretrained_weights(path, shapes, config)
