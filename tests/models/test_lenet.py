import jax
import jax.numpy as jnp
import numpy as np

from flaxres.models.lenet import LeNet
from tests.conftest import init


def test_small_images_are_padded_to_those_of_the_paper():
    net = LeNet(num_classes=10, norm="none")
    images = jax.random.normal(jax.random.key(1), (2, 28, 28, 1))
    variables = init(net, images)
    # 32 - 4, halved, - 4, halved: 5 x 5 pixels of 16 maps.
    assert variables["params"]["hidden1"]["kernel"].shape == (400, 120)
    padded = jnp.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)))
    one, other = (net.apply(variables, x, train=False) for x in (images, padded))
    np.testing.assert_array_equal(one, other)
    assert one.shape == (2, 10)
