"""Layer responses against a direct computation of each layer in NumPy."""

import jax
import numpy as np
import pytest

from experiments.analyses.responses import layer_responses
from flaxres.models import create_model
from tests.conftest import init


def direct(variables, images, mean):
    """Responses of plain-8 and ResNet-8 (A), one layer after the other, in float64."""
    params, stats = variables["params"], variables["batch_stats"]
    responses = {}

    def layer(x, path, norm, stride=1):
        kernel, scale, running = params, params, stats
        for part in path:
            kernel = kernel[part]
        for part in norm:
            scale, running = scale[part], running[part]
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        n, h, w, _ = x.shape
        y = np.zeros((n, h, w, kernel["kernel"].shape[3]))
        for i in range(3):
            for j in range(3):
                y += padded[:, i : i + h, j : j + w] @ np.float64(kernel["kernel"][i, j])
        y = y[:, ::stride, ::stride]
        y = (y - running["mean"]) / np.sqrt(running["var"] + 1e-5) * scale["scale"] + scale["bias"]
        responses["/".join(norm)] = y.std()
        return y

    x = np.maximum(layer(images / 255.0 - mean, ("conv",), ("norm",)), 0)
    for stage in (1, 2, 3):
        block, stride = f"stage{stage}_block1", 1 if stage == 1 else 2
        y = np.maximum(layer(x, (block, "conv1"), (block, "norm1"), stride), 0)
        y = layer(y, (block, "conv2"), (block, "norm2"))
        shortcut = x[:, ::stride, ::stride]
        more = y.shape[3] - shortcut.shape[3]
        shortcut = np.pad(shortcut, ((0, 0), (0, 0), (0, 0), (0, more)))
        x = np.maximum(y + shortcut * variables["residual"], 0)
    return responses


@pytest.mark.parametrize(("name", "batch_size"), [("plain", 16), ("resnet", 7), ("resnet", 5)])
def test_responses_are_those_of_a_direct_computation(config, name, batch_size):
    config.model.name, config.model.shortcut = name, "A" if name == "resnet" else "none"
    config.model.widths = (16, 16, 32)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (16, 9, 8, 1), dtype=np.uint8)
    mean = rng.random((9, 8, 1), np.float32)
    model = create_model(config.model, 10)
    variables = init(model, images / 255.0)
    random = jax.tree.map(lambda leaf: leaf + 0.3 * rng.random(leaf.shape, np.float32), variables)
    ours = layer_responses(model, random, images, mean, batch_size)
    theirs = direct({**random, "residual": name == "resnet"}, images, mean)
    assert list(ours) == list(theirs)
    np.testing.assert_allclose(list(ours.values()), list(theirs.values()), rtol=1e-4)


def test_layers_come_in_their_order_where_a_name_has_two_digits(config):
    config.model.depth = 68
    model = create_model(config.model, 10)
    images = np.zeros((2, 4, 4, 1), np.uint8)
    variables = init(model, images / 255.0)
    layers = list(layer_responses(model, variables, images, images[0] / 255.0, 2))
    assert len(layers) == 67
    assert layers.index("stage1_block9/norm2") + 1 == layers.index("stage1_block10/norm1")
