"""Padding and shapes of LeNet-5."""

import jax
import jax.numpy as jnp
import numpy as np

from flaxres.models.lenet import LeNet
from tests.conftest import init


def test_small_images_are_padded_to_the_size_in_the_paper():
    model = LeNet(num_classes=10, norm="none")
    images = jax.random.normal(jax.random.key(1), (2, 28, 28, 1))
    variables = init(model, images)
    # (32 - 4) / 2 = 14 and (14 - 4) / 2 = 5: 5 x 5 pixels of 16 feature maps.
    assert variables["params"]["hidden1"]["kernel"].shape == (400, 120)
    padded = jnp.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)))
    logits, padded_logits = (model.apply(variables, x, train=False) for x in (images, padded))
    np.testing.assert_array_equal(logits, padded_logits)
    assert logits.shape == (2, 10)
