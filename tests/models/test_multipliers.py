"""Learnable factors of residual branches: SkipInit, ReZero and LayerScale."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxres.config import check_config, default_config, set_model
from flaxres.errors import ConfigError
from flaxres.models.residual_branch import BranchOptions
from flaxres.models.shortcuts import pad_shortcut
from tests.conftest import cifar_model, init, outputs_of_layers, quick_jit

SCALAR = BranchOptions(scale="scalar")


def images_of(batch=2):
    return np.random.default_rng(0).normal(size=(batch, 8, 8, 3)).astype(np.float32)


def scaled_model(name, branch=SCALAR):
    fields = {"pre_activation": True, "norm": "none"} if name == "skipinit" else {}
    return cifar_model(14, "A", branch=branch, widths=(8, 8, 16), **fields)


@pytest.mark.parametrize("name", ["skipinit", "rezero"])
def test_stages_are_identities_at_the_start(name):
    model, images = scaled_model(name), images_of()
    variables = init(model, images)
    outputs = outputs_of_layers(model, variables, images)
    x = jax.nn.relu(outputs["conv" if name == "skipinit" else "norm"])
    for stage, (filters, stride) in enumerate([(8, 1), (8, 2), (16, 2)], start=1):
        x = pad_shortcut(x, filters, stride)
        np.testing.assert_allclose(outputs[f"stage{stage}_block2"], x, rtol=1e-6, atol=1e-7)


def test_only_the_factors_learn_at_first():
    """With a factor of 0 the gradient of its branch is 0, and that of the factor is not."""
    model, images = scaled_model("skipinit"), images_of()
    variables = init(model, images)

    def loss(params):
        return jnp.sum(model.apply({"params": params}, images, train=True) ** 2)

    gradients = quick_jit(jax.grad(loss))(variables["params"])
    for name, block in gradients.items():
        if "_block" in name:
            assert block["branch_scale"]["scale"].all()
            assert not block["conv1"]["kernel"].any()


@pytest.mark.parametrize("scale", ["scalar", "channel"])
def test_a_factor_equals_that_of_the_last_norm(scale):
    images = images_of()
    scaled = scaled_model("rezero", BranchOptions(scale=scale, scale_init=0.5))
    variables = init(scaled, images)
    plain = {"params": {}, "batch_stats": variables["batch_stats"]}
    for name, layer in variables["params"].items():
        plain["params"][name] = dict(layer)
        if "_block" in name:
            factor = plain["params"][name].pop("branch_scale")["scale"]
            filters = layer["conv2"]["kernel"].shape[-1]
            assert factor.shape == ((1,) if scale == "scalar" else (filters,))
            np.testing.assert_array_equal(factor, np.full(factor.shape, 0.5))
            norm = {key: 0.5 * value for key, value in layer["norm2"].items()}
            plain["params"][name]["norm2"] = norm

    def apply(model, values):
        def forward(values):
            return model.apply(values, images, train=True, mutable="batch_stats")[0]

        return quick_jit(forward)(values)

    outputs = [apply(scaled, variables), apply(scaled_model("resnet", BranchOptions()), plain)]
    np.testing.assert_allclose(*outputs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("plain-20", {"branch_scale": "scalar"}, "branch_scale must be none for a plain model"),
        ("resnet-20", {"branch_scale_init": 0.1}, "branch_scale_init must be 0 with"),
        ("rezero-20", {"zero_init": True}, "zero_init must be false if model.branch_scale_init"),
        ("resnet-20", {"branch_scale": "both"}, "branch_scale must be one of none, scalar"),
        ("fixup-20", {"norm": "batch"}, "norm must be none for Fixup"),
        ("convnext-13", {"norm": "instance"}, "norm must be one of layer-channels"),
        ("convnext-13", {"depth": 14}, r"depth must be 9n\+4 \(13, 22"),
    ],
)
def test_fields_that_are_refused(name, fields, message):
    config = set_model(default_config(), name)
    config.model.update(fields)
    with pytest.raises(ConfigError, match=message):
        check_config(config)
