"""State dicts with torchvision's and timm's names, made by PyTorch modules, and files of them."""

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
from tests.models import torch_nets  # noqa: E402


def net_of(name, stem="cifar", pixels=32, **fields):
    """Our net, the shapes of its variables, and PyTorch's net."""
    config = set_model(default_config(), name, stem).model
    config.update(fields)
    torch.manual_seed(0)
    theirs = torch_nets.build(config, 10, pixels).eval()
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    model = create_model(config, 10)
    images = np.zeros((1, pixels, pixels, 3), np.float32)
    create = functools.partial(model.init, train=False)
    return config, model, jax.eval_shape(create, jax.random.key(0), images), theirs


def arrays(module):
    return {name: value.detach().numpy() for name, value in module.state_dict().items()}


def assert_same_logits(model, variables, theirs, pixels=32):
    images = np.random.default_rng(0).normal(size=(2, pixels, pixels, 3)).astype(np.float32)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    logits = jax.jit(functools.partial(model.apply, train=False))(variables, images)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("name", "stem", "pixels"), [("resnet-8", "cifar", 32), ("vgg-11", "imagenet", 64)]
)
def test_the_first_convolution_takes_in_what_images_were_divided_by(name, stem, pixels):
    fields = {"hidden": (8,)} if name == "vgg-11" else {}
    config, model, shapes, theirs = net_of(name, stem, pixels, **fields)
    std = (0.229, 0.5, 2.0)
    variables = convert(arrays(theirs), shapes, config, std=std)
    divided = lambda images: theirs(images / torch.tensor(std)[:, None, None])  # noqa: E731
    assert_same_logits(model, variables, divided, pixels)
    with pytest.raises(ConfigError, match=r"transfer\.std must be 3 numbers, got 1"):
        convert(arrays(theirs), shapes, config, std=(0.5,))


def test_vgg_with_biases_before_its_norms_and_dense_layers_over_maps():
    config, model, shapes, _ = net_of("vgg-11", "imagenet", 64, hidden=(64, 48))
    torch.manual_seed(1)
    theirs = torch_nets.Vgg(config, 10, 64, bias=True).eval()
    weights = arrays(theirs)
    assert "features.0.bias" in weights
    assert_same_logits(model, convert(weights, shapes, config), theirs, 64)
    # timm keeps the hidden layers as convolutions, and the last layer as head.fc.
    timm = {name: value for name, value in weights.items() if "classifier" not in name}
    timm["pre_logits.fc1.weight"] = weights["classifier.0.weight"].reshape(64, 512, 2, 2)
    timm["pre_logits.fc2.weight"] = weights["classifier.3.weight"].reshape(48, 64, 1, 1)
    timm["head.fc.weight"] = weights["classifier.6.weight"]
    timm |= {
        f"{name}.bias": weights[f"classifier.{i}.bias"]
        for i, name in ((0, "pre_logits.fc1"), (3, "pre_logits.fc2"), (6, "head.fc"))
    }
    assert_same_logits(model, convert(timm, shapes, config), theirs, 64)


def test_densenet_in_torchvision_s_files_has_dots_in_names():
    config, _, shapes, theirs = net_of("densenet-121", "imagenet")
    weights = arrays(theirs)
    dotted = {
        name.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."): value
        for name, value in weights.items()
    }
    assert set(dotted) != set(weights)
    one, other = (convert(names, shapes, config) for names in (weights, dotted))
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_a_file(tmp_path):
    config, model, shapes, theirs = net_of("resnet-8-B")
    state = {f"module.{name}": value for name, value in theirs.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "net.pth")
    weights = read_state_dict(tmp_path / "net.pth")
    assert_same_logits(model, convert(weights, shapes, config), theirs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("fc.bias"), "it has no fc.bias for dense/bias"),
        (lambda w: w.update({"fc.weight": np.zeros((5, 64))}), "fc.weight has shape"),
        (lambda w: w.update({"layer4.0.conv1.weight": np.zeros(3)}), "no place for 1 of its"),
        (lambda w: w.clear(), r"is not of resnet-8-B: it has no \w+\."),
    ],
)
def test_state_dicts_of_other_nets(change, message):
    config, _, shapes, theirs = net_of("resnet-8-B")
    weights = arrays(theirs)
    change(weights)
    with pytest.raises(WeightsError, match=message):
        convert(weights, shapes, config)


def test_nets_that_pytorch_has_no_names_for():
    model = set_model(default_config(), "lenet-5").model
    with pytest.raises(ConfigError, match="names of lenet nets are not known"):
        convert({}, {"params": {"dense": {"bias": np.zeros(3)}}}, model)


class Command:
    """What a hostile file would hold."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_files_that_are_no_state_dicts(tmp_path):
    with pytest.raises(WeightsError, match="there is no file"):
        read_state_dict(tmp_path / "absent.pth")
    (tmp_path / "text.pth").write_text("weights")
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps(Command(tmp_path / "made")))
    torch.save({"net": Command(tmp_path / "made")}, tmp_path / "code.pth")
    for name in ("text.pth", "empty.pth", "pickle.pth", "code.pth"):
        with pytest.raises(WeightsError, match="must hold tensors alone") as caught:
            read_state_dict(tmp_path / name)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "made").exists()
    torch.save(torch.zeros(3), tmp_path / "tensor.pth")
    torch.save({"epoch": 3}, tmp_path / "numbers.pth")
    for name in ("tensor.pth", "numbers.pth"):
        with pytest.raises(WeightsError, match="is not a PyTorch state dict"):
            read_state_dict(tmp_path / name)


def test_training_begins_with_them(tmp_path, python):
    config, _, _, theirs = net_of("resnet-8-B", widths=(4, 8, 8))
    theirs.conv1 = torch.nn.Conv2d(1, 4, 3, padding=1, bias=False)
    torch.save(theirs.state_dict(), tmp_path / "net.pth")
    flags = (
        *("-m", "flaxres.main", "--config=configs/digits.py:resnet-8-B"),
        *("--config.model.widths=(4,8,8)", "--config.num_steps=1", "--config.learning_rate=1e-30"),
        *("--config.boundaries=()", f"--workdir={tmp_path / 'run'}"),
    )
    done = python(*flags, f"--init_from={tmp_path / 'net.pth'}")
    assert done.returncode == 0, done.stderr
    from flaxres.data import load_dataset
    from flaxres.run.checkpoint import Checkpoints
    from flaxres.training.compiled_steps import CompiledSteps

    experiment = default_config()
    experiment.dataset.name, experiment.batch_size = "digits", 128
    experiment.num_devices = 1
    experiment.model.update(config)
    like = CompiledSteps(experiment, load_dataset(experiment.dataset)).state_shape
    with Checkpoints(tmp_path / "run") as checkpoints:
        state = checkpoints.restore(like, pytest.fail)
    shapes = {"params": like.params, "batch_stats": like.batch_stats}
    expected = convert(arrays(theirs), shapes, config)["params"]
    jax.tree.map(
        lambda ours, leaf: np.testing.assert_allclose(ours, leaf, rtol=1e-6, atol=1e-12),
        state.params,
        expected,
    )
    done = python(*flags[:-1], f"--workdir={tmp_path / 'other'}", "--init_from=absent.pth")
    assert done.returncode == 1
    assert "error: there is no file absent.pth" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("net", "head"), [("resnet-8-B", "fc"), ("vgg-11", "classifier")])
def test_a_new_head_in_the_place_of_one_for_other_classes(net, head):
    config, _, shapes, theirs = net_of(net)
    weights = arrays(theirs)
    whole = convert(weights, shapes, config)
    inputs = weights[f"{head}.weight"].shape[1]
    other = weights | {f"{head}.weight": np.zeros((7, inputs)), f"{head}.bias": np.zeros(7)}
    message = rf"{head}\.\w+ has shape \(7.*, which does not fit dense/.*transfer\.new_head=True$"
    with pytest.raises(WeightsError, match=message):
        convert(other, shapes, config)
    headless = {name: leaf for name, leaf in weights.items() if not name.startswith(head)}
    for given in (other, headless):
        found = convert(given, shapes, config, new_head=True)
        assert "dense" not in found["params"]
        found["params"]["dense"] = whole["params"]["dense"]
        jax.tree.map(np.testing.assert_array_equal, found, whole)
    with pytest.raises(WeightsError, match="the net has no place for 1 of its arrays"):
        convert(headless | {"fc9.weight": np.zeros(3)}, shapes, config, new_head=True)
