"""Layer responses, compared with a direct computation of each layer in NumPy."""

import jax
import numpy as np
import pytest

from flaxres.experiments.analyses.responses import layer_responses
from flaxres.models import create_model
from tests.conftest import init


def reference_responses(variables, images, mean_image, has_shortcuts):
    """Returns the responses of plain-8 and ResNet-8 (A), layer by layer, in float64."""
    params, stats = variables["params"], variables["batch_stats"]
    responses = {}

    def layer(x, convolution_path, norm_path, stride=1):
        convolution, norm, running = params, params, stats
        for part in convolution_path:
            convolution = convolution[part]
        for part in norm_path:
            norm, running = norm[part], running[part]
        kernel = convolution["kernel"]
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        n, h, w, _ = x.shape
        y = np.zeros((n, h, w, kernel.shape[3]))
        for i in range(3):
            for j in range(3):
                y += padded[:, i : i + h, j : j + w] @ np.float64(kernel[i, j])
        y = y[:, ::stride, ::stride]
        y = (y - running["mean"]) / np.sqrt(running["var"] + 1e-5) * norm["scale"] + norm["bias"]
        responses["/".join(norm_path)] = y.std()
        return y

    x = np.maximum(layer(images / 255.0 - mean_image, ("conv",), ("norm",)), 0)
    for stage in (1, 2, 3):
        block, stride = f"stage{stage}_block1", 1 if stage == 1 else 2
        y = np.maximum(layer(x, (block, "conv1"), (block, "norm1"), stride), 0)
        y = layer(y, (block, "conv2"), (block, "norm2"))
        shortcut = x[:, ::stride, ::stride]
        added_channels = y.shape[3] - shortcut.shape[3]
        shortcut = np.pad(shortcut, ((0, 0), (0, 0), (0, 0), (0, added_channels)))
        x = np.maximum(y + shortcut * has_shortcuts, 0)
    return responses


@pytest.mark.parametrize(("name", "batch_size"), [("plain", 16), ("resnet", 7), ("resnet", 5)])
def test_responses_match_a_direct_computation(config, name, batch_size):
    config.model.name, config.model.shortcut = name, "A" if name == "resnet" else "none"
    config.model.widths = (16, 16, 32)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (16, 9, 8, 1), dtype=np.uint8)
    mean_image = rng.random((9, 8, 1), np.float32)
    model = create_model(config.model, 10)
    variables = init(model, images / 255.0)
    random = jax.tree.map(lambda leaf: leaf + 0.3 * rng.random(leaf.shape, np.float32), variables)
    responses = layer_responses(model, random, images, mean_image, batch_size)
    expected = reference_responses(random, images, mean_image, has_shortcuts=name == "resnet")
    assert list(responses) == list(expected)
    np.testing.assert_allclose(list(responses.values()), list(expected.values()), rtol=1e-4)


def test_layers_with_two_digits_in_their_name_stay_in_order(config):
    config.model.depth = 68
    model = create_model(config.model, 10)
    images = np.zeros((2, 4, 4, 1), np.uint8)
    variables = init(model, images / 255.0)
    layers = list(layer_responses(model, variables, images, images[0] / 255.0, 2))
    assert len(layers) == 67
    assert layers.index("stage1_block9/norm2") + 1 == layers.index("stage1_block10/norm1")
