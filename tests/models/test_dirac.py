"""Dirac networks, against PyTorch and against the plain networks that they fold into."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxres.models.dirac import DiracConv, DiracNet, effective_kernel, fold
from flaxres.models.layer_counts import summarize
from flaxres.models.plain import PlainNet
from flaxres.models.shortcuts import Shortcut
from tests.conftest import init, quick_jit
from tests.models.trained_values import with_trained_norms

IMAGES = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
FIELDS = {
    "num_classes": 5,
    "stages": (1, 1, 1),
    "widths": (8, 8, 16),
    "shortcut": Shortcut("none"),
}


def test_kernel_by_hand():
    kernel = jnp.zeros((3, 3, 1, 2)).at[0, 0, 0].set(jnp.array([3.0, -2.0])).at[2, 1, 0, 0].set(4.0)
    result = effective_kernel(kernel, jnp.array([1.5, 7.0]), jnp.array([0.5, 0.25]))
    expected = np.zeros((3, 3, 1, 2))
    expected[0, 0, 0] = [0.5 * 3 / 5, -0.25]
    expected[2, 1, 0, 0] = 0.5 * 4 / 5
    expected[1, 1, 0, 0] = 1.5  # the second filter has no channel of its own
    np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_convolution_and_gradients_are_those_of_torch():
    filters, stride = 16, 2
    torch = pytest.importorskip("torch", reason="pip install torch==2.13.0")
    x = jax.random.normal(jax.random.key(0), (2, 6, 6, 8))
    conv = DiracConv(filters=filters, stride=stride)
    params = conv.init(jax.random.key(2), x)["params"]
    assert np.all(params["identity_scale"] == 1)
    assert np.all(params["kernel_scale"] == np.float32(0.1))
    params["identity_scale"] += jnp.linspace(-1, 1, filters)
    params["kernel_scale"] += jnp.linspace(1, 2, filters)

    def loss(params, x):
        y = conv.apply({"params": params}, x)
        return jnp.sum(jnp.sin(y)), y

    gradient = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    (_, ours), gradients = gradient(params, x)
    a, b, w = (
        torch.tensor(np.asarray(params[name]), requires_grad=True)
        for name in ("identity_scale", "kernel_scale", "kernel")
    )
    images = torch.tensor(np.asarray(x).transpose(0, 3, 1, 2), requires_grad=True)
    weight = w.permute(3, 2, 0, 1)
    normalized = torch.nn.functional.normalize(weight.flatten(1)).view_as(weight)
    identity = torch.nn.init.dirac_(torch.empty(weight.shape))
    kernel = a.view(-1, 1, 1, 1) * identity + b.view(-1, 1, 1, 1) * normalized
    theirs = torch.nn.functional.conv2d(images, kernel, stride=stride, padding=1)
    theirs.sin().sum().backward()
    close = {"rtol": 1e-4, "atol": 1e-4}
    np.testing.assert_allclose(ours, theirs.detach().permute(0, 2, 3, 1), **close)
    np.testing.assert_allclose(gradients[1], images.grad.permute(0, 2, 3, 1), **close)
    for name, tensor in (("identity_scale", a), ("kernel_scale", b), ("kernel", w)):
        np.testing.assert_allclose(gradients[0][name], tensor.grad, **close)


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_folded_variables_are_those_of_a_plain_network(norm):
    dirac, plain = DiracNet(**FIELDS, norm=norm), PlainNet(**FIELDS, norm=norm)
    variables = with_trained_norms(init(dirac, IMAGES))
    folded = fold(variables)
    shapes = jax.eval_shape(lambda: plain.init(jax.random.key(0), IMAGES, train=True))
    assert jax.tree.map(jnp.shape, folded) == jax.tree.map(jnp.shape, dict(shapes))
    logits = [
        quick_jit(functools.partial(model.apply, train=False))(values, IMAGES)
        for model, values in ((plain, folded), (dirac, variables))
    ]
    np.testing.assert_allclose(*logits, rtol=1e-4, atol=1e-4)


def test_summary_counts_all_parameters_and_the_multiply_adds_of_the_plain_network():
    layers, plain_layers = (summarize(model(**FIELDS), (8, 8, 3)) for model in (DiracNet, PlainNet))
    for ours, plain in zip(layers, plain_layers, strict=True):
        is_dirac = "/conv" in ours.name
        assert ours.params - plain.params == 2 * ours.output_shape[-1] * is_dirac
        assert (ours.name, ours.macs) == (plain.name, plain.macs)
