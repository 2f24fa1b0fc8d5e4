"""Logits and one SGD step of each model, compared with a PyTorch module of the same weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxres.config import default_config, set_model
from flaxres.models import create_model, densenet, resnet
from flaxres.pretrained.torch_state_dict import convert
from flaxres.training.optimizer import make_optimizer
from flaxres.training.steps import make_train_step
from flaxres.training.train_state import create_state

torch = pytest.importorskip("torch", reason="pip install torch==2.13.0")
from tests.models import torch_models  # noqa: E402

CLASSES = 10
MODELS = [  # name, stem, batch size, a depth with every kind of block
    ("resnet-20", "cifar", 8, 14),
    ("resnet-18", "cifar", 4, 12),
    ("resnet-18", "imagenet", 4, 12),
    ("resnet-50", "imagenet", 4, 17),
    ("resnext-50-32x4d", "imagenet", 4, 17),
    ("densenet-121", "imagenet", 4, 21),
    ("vgg-13-skip", "cifar", 4, 13),
]
PIXELS = 32


def biased_running_variance(module, inputs, _):
    """Forward hook that makes PyTorch's running variance the biased one, as in Flax.

    PyTorch divides by n - 1, Flax by n.
    """
    if module.training:
        x = inputs[0].detach()
        n = x.numel() / x.shape[1]
        variance = x.var((0, 2, 3), unbiased=False)
        module.running_var.data.sub_(module.momentum * variance / (n - 1))


def state_dict_arrays(module):
    """Returns copies of the arrays in the state dict of a PyTorch module."""
    return {name: value.detach().numpy().copy() for name, value in module.state_dict().items()}


def assert_close(ours, theirs, rtol):
    """Checks that the error of each array is below `rtol` of its norm, plus float32 rounding."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(theirs):
        our_leaf = functools.reduce(lambda tree, key: tree[key.key], path, ours)
        error = np.linalg.norm(np.asarray(our_leaf) - leaf)
        assert error <= rtol * np.linalg.norm(leaf) + 1e-7 * np.sqrt(leaf.size), (
            jax.tree_util.keystr(path)
        )


@pytest.fixture
def short_depths(monkeypatch):
    """Adds models of the ImageNet families with few blocks."""
    monkeypatch.setitem(resnet.IMAGENET_STAGES["basic"], 12, (2, 1, 1, 1))
    monkeypatch.setitem(resnet.IMAGENET_STAGES["bottleneck"], 17, (2, 1, 1, 1))
    monkeypatch.setitem(densenet.IMAGENET_STAGES, 21, (2, 2, 2, 2))


@pytest.mark.parametrize(("name", "stem", "batch_size", "depth"), MODELS)
def test_logits_and_a_step(short_depths, name, stem, batch_size, depth):
    check_logits_and_a_step(name, stem, batch_size, depth)


@pytest.mark.nets
@pytest.mark.parametrize(("name", "stem", "batch_size", "_"), MODELS)
def test_logits_and_a_step_of_the_whole_model(name, stem, batch_size, _):
    check_logits_and_a_step(name, stem, batch_size)


def check_logits_and_a_step(name, stem, batch_size, depth=None):
    """Compares with PyTorch; `depth` replaces the depth of the name."""
    config = set_model(default_config(), name, stem)
    config.model.depth = depth or config.model.depth
    config.augment.pad, config.augment.flip = 0, False
    config.learning_rate, config.weight_decay = 0.01, 1e-3
    torch.manual_seed(0)
    theirs = torch_models.build(config.model, CLASSES, PIXELS)
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # values as after some training
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.1)
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.register_forward_hook(biased_running_variance)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(batch_size, PIXELS, PIXELS, 3)).astype(np.float32)
    labels = rng.integers(0, CLASSES, batch_size)
    batch = torch.from_numpy(images).permute(0, 3, 1, 2)

    model = create_model(config.model, CLASSES)
    optimizer = make_optimizer(config)
    create = functools.partial(create_state, model, optimizer, config, images.shape[1:])
    shapes = jax.eval_shape(create, 0)
    collections = ("params", "batch_stats")

    def convert_weights():
        return convert(
            state_dict_arrays(theirs),
            {name: getattr(shapes, name) for name in collections},
            config.model,
            shortcut_padding="end",
        )

    variables = convert_weights()
    state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    state = state.replace(**jax.tree.map(jnp.asarray, variables))

    theirs.eval()
    with torch.no_grad():
        expected = theirs(batch).numpy()
    logits = jax.jit(functools.partial(model.apply, train=False))(variables, images)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())

    # The step is in float64. In float32, two programs round some inputs of ReLUs to different sides
    # of 0, and the gradients of deep models then differ by a few percent.
    theirs.train().double()
    sgd = torch.optim.SGD(theirs.parameters(), 0.01, momentum=0.9, weight_decay=1e-3)
    loss = torch.nn.functional.cross_entropy(theirs(batch.double()), torch.from_numpy(labels))
    loss.backward()
    sgd.step()
    with jax.enable_x64(True):
        model = create_model(config.model, CLASSES, "float64")
        step = jax.jit(make_train_step(model, optimizer, config))
        state, sums = step(state, np.float64(images), jnp.asarray(labels, jnp.int32))
    assert float(sums.loss / batch_size) == pytest.approx(loss.item(), rel=1e-6)
    after = convert_weights()
    assert_close(state.batch_stats, after["batch_stats"], rtol=1e-5)
    updates = [
        jax.tree.map(np.subtract, params, variables["params"])
        for params in (jax.device_get(state.params), after["params"])
    ]
    assert_close(*updates, rtol=1e-4)
