"""Ends of residual branches: factors in the last norm, and factors with the addition."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxres.models.layers import Layers, make_conv
from flaxres.models.norms import make_norm
from flaxres.models.residual_branch import BranchOptions, branch_factor, is_foldable
from flaxres.models.shortcuts import Shortcut, add_and_relu


class BlockEnd(nn.Module):
    """Batch norm, the operations of a branch, and the addition."""

    branch: BranchOptions

    @nn.compact
    def __call__(self, x, y, drop_factor):
        norm = make_norm("batch", train=True, dtype=jnp.float32, momentum=0.9, epsilon=1e-5)
        options = {"stride": 1, "layers": Layers(make_conv(), norm)}
        return add_and_relu(
            Shortcut("A"), x, norm(name="norm"), y, **options, branch=self.branch,
            drop_factor=drop_factor,
        )  # fmt: skip


@pytest.mark.parametrize("factor", [np.float32(0.25), np.float32([0, 2])])
@pytest.mark.parametrize("se_reduction", [0, 4])
def test_values_and_gradients_by_hand(se_reduction, factor):
    """With and without the kernels' fused norm: relu(x + factor * weights * norm(y))."""
    x, y = (jax.random.normal(jax.random.key(i), (2, 4, 4, 16)) for i in (0, 1))
    module = BlockEnd(BranchOptions(se_reduction))
    variables = module.init(jax.random.key(2), x, y, None)

    def output(y, factor):
        return module.apply(variables, x, y, factor, mutable=["batch_stats"])[0]

    def expected(y, factor):
        branch = (y - y.mean((0, 1, 2))) / jnp.sqrt(y.var((0, 1, 2)) + 1e-5)
        if se_reduction:
            fc1, fc2 = (variables["params"]["se"][name] for name in ("fc1", "fc2"))
            hidden = nn.relu(branch.mean((1, 2)) @ fc1["kernel"])
            branch = branch * nn.sigmoid(hidden @ fc2["kernel"])[:, None, None]
        return nn.relu(x + factor.reshape(-1, 1, 1, 1) * branch)

    factor = jnp.asarray(factor)
    np.testing.assert_allclose(output(y, factor), expected(y, factor), rtol=1e-4, atol=1e-5)
    actual, other = (
        jax.grad(lambda *args, f=f: jnp.sum(f(*args) ** 2), (0, 1))(y, factor)
        for f in (output, expected)
    )
    for a, b in zip(actual, other, strict=True):
        np.testing.assert_allclose(a, b, 0, 1e-4 * np.abs(b).max())


def test_only_factors_of_all_images_are_in_the_norm():
    shared, of_images = jnp.float32(0.5), jnp.ones(2)
    assert branch_factor(BranchOptions(), None, 4) is None
    assert is_foldable(BranchOptions(), branch_factor(BranchOptions(), shared, 4))
    assert not is_foldable(BranchOptions(), branch_factor(BranchOptions(), of_images, 4))
    assert not is_foldable(BranchOptions(4), None)
