"""Poolings, compared with those of PyTorch and timm."""

import jax
import numpy as np
import pytest

from flaxres.models.pooling import average_pool, blur_pool
from tests.pretrained.torchvision_import import import_torchvision, torch


def to_numpy(y):
    return y.permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("size", [(8, 8), (5, 7)])
def test_values_and_constants(size):
    import_torchvision()
    layers = pytest.importorskip("timm.layers")
    x = np.asarray(jax.random.normal(jax.random.key(0), (2, *size, 3)))
    theirs = torch.from_numpy(x.copy()).permute(0, 3, 1, 2)
    options = {"ceil_mode": True, "count_include_pad": False}
    expected = to_numpy(torch.nn.functional.avg_pool2d(theirs, 2, 2, **options))
    np.testing.assert_allclose(average_pool(x, 2), expected, rtol=1e-5, atol=1e-6)
    expected = to_numpy(layers.BlurPool2d(3, stride=2)(theirs))
    np.testing.assert_allclose(blur_pool(x, 2), expected, rtol=1e-5, atol=1e-6)
