"""Config fields in the model that `create_model` builds."""

import jax.numpy as jnp
import pytest

from flaxres.configs import cifar10
from flaxres.models import create_model


@pytest.mark.parametrize(("name", "shortcut"), [("plain-32", "none"), ("resnet-44-C", "C")])
def test_fields_reach_the_model(name, shortcut):
    config = cifar10.get_config(name).model
    config.widths = (4, 8, 12)
    config.norm = "group"
    config.norm_momentum = 0.5
    config.remat = True
    model = create_model(config, num_classes=3, dtype="bfloat16")
    assert model.stages == ((config.depth - 2) // 6,) * 3
    assert (model.shortcut.option, model.num_classes) == (shortcut, 3)
    assert (model.widths, model.norm, model.norm_momentum) == ((4, 8, 12), "group", 0.5)
    assert model.remat
    assert model.dtype == jnp.bfloat16
