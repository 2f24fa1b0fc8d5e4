"""Plain networks with other initial kernels and activations than those of He15."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxres.config import check_config, default_config, set_model
from flaxres.errors import ConfigError
from flaxres.models import create_model
from flaxres.models.activations import tailored_relu, tailored_slope
from flaxres.models.plain import PlainNet
from flaxres.models.resnet import ResNet
from tests.conftest import quick_jit

IMAGES = jax.random.normal(jax.random.key(1), (2, 8, 8, 1))
WIDTHS = (4, 8, 8)


def plain_model(**fields):
    """Returns the checked plain-8 model with some fields of `config.model` changed."""
    config = set_model(default_config(), "plain-8")
    config.model.update({"widths": WIDTHS} | fields)
    check_config(config)
    return create_model(config.model, 10, frozen=("stage1",))


def test_defaults_are_the_network_of_he15():
    assert type(plain_model()) is ResNet
    changed = plain_model(init="delta-orthogonal", remat=True, norm="group")
    assert type(changed) is PlainNet
    assert changed.clone(kernel_init="he", activation="relu").widths == WIDTHS
    assert (changed.remat, changed.norm, changed.frozen) == (True, "group", ("stage1",))


def test_all_kernels_are_initialized_and_the_activation_is_used():
    """Convolutions with a delta kernel are products of the pixels that all strides keep."""
    model = plain_model(init="delta-orthogonal", activation="tailored-relu", norm="none")
    variables = quick_jit(functools.partial(model.init, train=False))(jax.random.key(0), IMAGES)
    params = variables["params"]
    x, slope = np.asarray(IMAGES[:, ::4, ::4]), tailored_slope(7, 0.9)
    names = [("conv",), *((f"stage{s}_block1", f"conv{i}") for s in (1, 2, 3) for i in (1, 2))]
    for path in names:
        kernel = functools.reduce(lambda tree, name: tree[name], path, params)["kernel"]
        assert np.count_nonzero(kernel) == np.count_nonzero(kernel[1, 1])
        x = np.asarray(tailored_relu(jnp.asarray(x @ kernel[1, 1]), slope))
    expected = x.mean((1, 2)) @ params["dense"]["kernel"]
    logits = quick_jit(functools.partial(model.apply, train=False))(variables, IMAGES)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"init": "orthogonal"}, "model.init must be one of he, delta-orthogonal, dirac, got 'or"),
        ({"activation": "tanh"}, "model.activation must be relu unless model.norm is none, got 't"),
        ({"init": "dirac", "widths": (8, 4, 4)}, "model.widths must be non-decreasing with model"),
        ({"zero_init": True}, "model.zero_init must be false for a plain model"),
        ({"tailored_eta": 1.0}, "model.tailored_eta must be above 0 and below 1, got 1.0"),
        ({"merged": True}, "model.merged is not a field of plain models, got True"),
    ],
)
def test_refused_fields(fields, message):
    with pytest.raises(ConfigError, match=message):
        plain_model(**fields)
