"""Parameter counts, shapes, initialization and dtypes of plain and residual models."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxres.models.resnet import stages_of_depth
from tests.conftest import cifar_model, init


def shapes(model, image_shape=(32, 32, 3)):
    images = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
    return jax.eval_shape(functools.partial(model.init, train=True), jax.random.key(0), images)


def count_params(model, image_shape=(32, 32, 3)):
    return sum(leaf.size for leaf in jax.tree.leaves(shapes(model, image_shape)["params"]))


# Trainable parameters with options A and B; He15 (arXiv 1512.03385), section 4.2.
COUNTS = {
    20: (269_722, 272_474),
    32: (464_154, 466_906),
    44: (658_586, 661_338),
    56: (853_018, 855_770),
    110: (1_727_962, 1_730_714),
}


@pytest.mark.parametrize("depth", COUNTS)
def test_params_of_options_a_and_b(depth):
    params_a, params_b = COUNTS[depth]
    assert count_params(cifar_model(depth, "A", 10)) == params_a
    assert count_params(cifar_model(depth, "none", 10)) == params_a
    assert count_params(cifar_model(depth, "B", 10)) == params_b


def test_option_c_projects_in_every_block():
    # Two projections as in B. Each of the seven other blocks of ResNet-20 has a 1x1 convolution of
    # w * w weights and a norm of 2 * w parameters: three blocks at width 16, two at 32, two at 64.
    additional = 3 * (16 * 16 + 32) + 2 * (32 * 32 + 64) + 2 * (64 * 64 + 128)
    assert count_params(cifar_model(20, "C", 10)) == 272_474 + additional


@pytest.mark.parametrize("depth", [20, 56])
def test_depth_counts_the_weighted_layers(depth):
    params = shapes(cifar_model(depth, "A", 10))["params"]
    kernels = [
        path for path, _ in jax.tree_util.tree_leaves_with_path(params) if "kernel" in str(path[-1])
    ]
    assert len(kernels) == depth
    assert stages_of_depth(depth, "basic", "cifar") == ((depth - 2) // 6,) * 3


@pytest.mark.parametrize("depth", [-4, 2, 7, 19, 21, 49, 51, 57, 1000])
def test_depths_without_a_model(depth):
    with pytest.raises(ValueError, match=rf"depth must be 6n\+2 .*, got {depth}"):
        shapes(cifar_model(depth, "A", 10))


@pytest.mark.parametrize("shortcut", ["none", "A", "B", "C"])
@pytest.mark.parametrize("image_shape", [(8, 8, 1), (33, 17, 4)])
def test_any_image_size_and_channel_count(shortcut, image_shape):
    model = cifar_model(8, shortcut, 7, widths=(4, 6, 10))
    images = jax.random.normal(jax.random.key(1), (3, *image_shape))
    variables = init(model, images)
    apply = jax.jit(functools.partial(model.apply, train=True, mutable=["batch_stats"]))
    logits, updated = apply(variables, images)
    assert logits.shape == (3, 7)
    assert logits.dtype == jnp.float32
    assert jax.tree.structure(updated["batch_stats"]) == jax.tree.structure(
        variables["batch_stats"]
    )


def test_stages_halve_the_size_and_widen():
    outputs = {}

    def record(call, args, kwargs, context):
        outputs["/".join(context.module.path)] = out = call(*args, **kwargs)
        return out

    model = cifar_model(20, "A", 10)

    def forward(images):
        with nn.intercept_methods(record):
            return model.init_with_output(jax.random.key(0), images, train=False)

    jax.eval_shape(forward, jnp.zeros((1, 32, 32, 3)))
    assert outputs["stage1_block3"].shape == (1, 32, 32, 16)
    assert outputs["stage2_block1"].shape == (1, 16, 16, 32)
    assert outputs["stage3_block3"].shape == (1, 8, 8, 64)


def test_he_initialization():
    params = init(cifar_model(20, "B", 10), jnp.zeros((1, 8, 8, 3)))["params"]
    for kernel, fan_in in (
        (params["stage2_block3"]["conv1"]["kernel"], 9 * 32),
        (params["stage3_block1"]["conv1"]["kernel"], 9 * 32),
        (params["stage3_block2"]["conv2"]["kernel"], 9 * 64),
    ):
        kernel = np.asarray(kernel).ravel()
        # The std of n Gaussian samples has a relative error of 1/sqrt(2n): under 0.8% here.
        np.testing.assert_allclose(kernel.std(), np.sqrt(2 / fan_in), rtol=0.03)
        assert abs(kernel.mean()) < 4 * kernel.std() / np.sqrt(kernel.size)
        # A Gaussian truncated at two standard deviations has a kurtosis of 2.4, a full one 3.
        kurtosis = np.mean((kernel - kernel.mean()) ** 4) / kernel.var() ** 2
        assert 2.8 < kurtosis < 3.2
    assert not params["dense"]["bias"].any()


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_state():
    images = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
    model = cifar_model(8, "A", 10, dtype=jnp.bfloat16)
    variables = init(model, images)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    logits = model.apply(variables, images, train=False)
    exact = cifar_model(8, "A", 10).apply(variables, images, train=False)
    assert logits.dtype == jnp.float32
    assert not np.array_equal(logits, exact)
    np.testing.assert_allclose(logits, exact, atol=0.1 * float(jnp.abs(exact).max()))


@pytest.mark.parametrize("norm", ["none", "layer", "group", "instance"])
def test_every_norm_trains(norm):
    model = cifar_model(8, "A", 10, widths=(8, 8, 8), norm=norm)
    images = jax.random.normal(jax.random.key(1), (2, 8, 8, 1))
    variables = init(model, images)
    assert "batch_stats" not in variables  # only batch norm has running statistics
    logit = jax.jit(lambda p: model.apply({"params": p}, images, train=True)[0, 0])
    gradient = jax.grad(logit)(variables["params"])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert all(leaf.any() for leaf in jax.tree.leaves(gradient["stage1_block1"]["conv1"]))
    # Without a norm the convolutions have a bias instead of a scale and a bias of the norm.
    assert ("bias" in variables["params"]["conv"]) == (norm == "none")
