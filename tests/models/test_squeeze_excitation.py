"""Squeeze-and-excitation, compared with NumPy."""

import jax
import numpy as np
import pytest

from flaxres.models.layer_counts import summarize
from flaxres.models.residual_branch import BranchOptions
from flaxres.models.squeeze_excitation import SqueezeExcitation
from tests.conftest import cifar_model


@pytest.mark.parametrize(("channels", "inner"), [(8, 2), (3, 1)])
def test_weights_of_channels_by_hand(channels, inner):
    x = np.asarray(jax.random.normal(jax.random.key(0), (2, 3, 5, channels)))
    module = SqueezeExcitation(reduction=4)
    weights, variables = module.init_with_output(jax.random.key(1), x)
    fc1, fc2 = (variables["params"][name] for name in ("fc1", "fc2"))
    assert fc1["kernel"].shape == (channels, inner)
    hidden = np.maximum(x.mean((1, 2)) @ fc1["kernel"] + fc1["bias"], 0)
    expected = 1 / (1 + np.exp(-(hidden @ fc2["kernel"] + fc2["bias"])))
    np.testing.assert_allclose(weights[:, 0, 0], expected, rtol=1e-5)


@pytest.mark.parametrize(("block", "pre_activation"), [("basic", False), ("bottleneck", True)])
def test_counts_in_all_blocks(block, pre_activation):
    """Each block gets 2 c^2 / r weights and c + c / r biases: Hu18, section 6.2, and the biases."""
    depth = 8 if block == "basic" else 11
    fields = {"block": block, "pre_activation": pre_activation}
    without, with_se = (
        summarize(cifar_model(depth, "B", branch=branch, **fields), (8, 8, 3))
        for branch in (BranchOptions(), BranchOptions(16))
    )
    widths = [width * (1 if block == "basic" else 4) for width in (16, 32, 64)]
    weights = sum(2 * c * c // 16 for c in widths)
    biases = sum(c + c // 16 for c in widths)

    def total(layers, field):
        return sum(getattr(layer, field) for layer in layers)

    assert total(with_se, "params") - total(without, "params") == weights + biases
    assert total(with_se, "macs") - total(without, "macs") == weights
