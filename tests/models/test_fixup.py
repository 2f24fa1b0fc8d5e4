"""Fixup's initial values by hand, and its logits against PyTorch's functions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxres.models.fixup import Fixup
from flaxres.models.resnet import stages_of_depth
from flaxres.models.shortcuts import Shortcut, pad_shortcut
from tests.conftest import init, outputs_of_layers, quick_jit


def fixup(depth=8, stem="cifar", block="basic", shortcut="A", **fields):
    stages = fields.pop("stages", None) or stages_of_depth(depth, block, stem)
    return Fixup(
        stages=stages, shortcut=Shortcut(shortcut), stem=stem, block=block, num_classes=10, **fields
    )


def images_of(size, batch=2):
    return np.random.default_rng(0).normal(size=(batch, size, size, 3)).astype(np.float32)


@pytest.mark.parametrize(("block", "depth", "count"), [("basic", 32, 15), ("bottleneck", 20, 6)])
def test_initial_values_by_hand(block, depth, count):
    params = init(fixup(depth, block=block), images_of(8))["params"]
    assert not params["dense"]["kernel"].any()
    assert not params["dense"]["bias"].any()
    last = 2 if block == "basic" else 3
    # L^(-1 / (2m - 2)) is L^(-1/2) with two convolutions and L^(-1/4) with three.
    factor = 1 / np.sqrt(count) if block == "basic" else 1 / np.sqrt(np.sqrt(count))
    blocks = {name: block for name, block in params.items() if "_block" in name}
    assert len(blocks) == count
    for values in blocks.values():
        assert not values[f"conv{last}"]["kernel"].any()
        np.testing.assert_array_equal(values["scale"]["scale"], [1])
        biases = {name: value for name, value in values.items() if name.startswith("bias")}
        assert sorted(biases) == [f"bias{i}{side}" for i in range(1, last + 1) for side in "ab"]
        assert not any(bias["bias"].any() for bias in biases.values())
    for number in range(1, last):
        kernels = [values[f"conv{number}"]["kernel"] for values in blocks.values()]
        # Every value divided by He's standard deviation of its layer.
        values = np.concatenate(
            [(kernel / np.sqrt(2 / np.prod(kernel.shape[:3]))).ravel() for kernel in kernels]
        )
        assert values.std() == pytest.approx(factor, rel=0.02)
    stem = np.asarray(params["conv"]["kernel"])
    assert stem.std() == pytest.approx(np.sqrt(2 / 27), rel=0.15)


def test_stages_are_identities_at_the_start():
    model, images = fixup(20), images_of(8)
    variables = init(model, images)
    outputs = outputs_of_layers(model, variables, images)
    x = jax.nn.relu(outputs["bias1"])
    for stage, (filters, stride) in enumerate([(16, 1), (32, 2), (64, 2)], start=1):
        x = pad_shortcut(x, filters, stride)
        np.testing.assert_array_equal(outputs[f"stage{stage}_block3"], x)


@pytest.mark.parametrize(
    ("stem", "block", "shortcut", "stride_on"),
    [("cifar", "basic", "A", "1x1"), ("imagenet", "bottleneck", "B", "3x3")],
)
def test_logits_of_pytorch(stem, block, shortcut, stride_on):
    torch = pytest.importorskip("torch", reason="pip install torch==2.13.0")
    functional = torch.nn.functional
    images = images_of(8 if stem == "cifar" else 33)
    widths = (8, 8, 16)
    fields = {"stages": (2, 1, 2), "widths": widths, "stride_on": stride_on}
    model = fixup(stem=stem, block=block, shortcut=shortcut, **fields)
    rng = np.random.default_rng(1)
    variables = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape, scale=0.3), jnp.float32),
        init(model, images),
    )
    params = jax.tree.map(lambda leaf: torch.tensor(np.asarray(leaf)), variables["params"])

    def conv(x, kernel, stride=1):
        return functional.conv2d(x, kernel.permute(3, 2, 0, 1), None, stride, kernel.shape[0] // 2)

    x = torch.tensor(images).permute(0, 3, 1, 2)
    x = conv(x, params["conv"]["kernel"], 1 if stem == "cifar" else 2)
    x = torch.relu(x + params["bias1"]["bias"])
    if stem == "imagenet":
        x = functional.max_pool2d(x, 3, 2, 1)
    for stage, count in enumerate((2, 1, 2), start=1):
        for number in range(1, count + 1):
            p = params[f"stage{stage}_block{number}"]
            stride = 2 if stage > 1 and number == 1 else 1
            strides = (stride, 1) if block == "basic" else (1, stride, 1)
            biased = y = x + p["bias1a"]["bias"]
            for i, conv_stride in enumerate(strides, start=1):
                y = y if i == 1 else torch.relu(y) + p[f"bias{i}a"]["bias"]
                y = conv(y, p[f"conv{i}"]["kernel"], conv_stride)
                y = y * p["scale"]["scale"] if i == len(strides) else y
                y = y + p[f"bias{i}b"]["bias"]
            if x.shape != y.shape and shortcut == "A":
                biased = biased[:, :, ::stride, ::stride]
                missing = y.shape[1] - biased.shape[1]
                x = torch.cat([biased, torch.zeros_like(biased[:, :missing])], 1)
            elif x.shape != y.shape:
                x = conv(biased, p["shortcut"]["conv"]["kernel"], stride)
            x = torch.relu(x + y)
    x = x.mean((2, 3)) + params["bias2"]["bias"]
    expected = (x @ params["dense"]["kernel"] + params["dense"]["bias"]).numpy()
    logits = quick_jit(lambda v, x: model.apply(v, x, train=False))(variables, images)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_loops_and_recomputation_do_not_change_values():
    images = images_of(8)
    fields = {"stages": (3,), "widths": (8,)}
    variables = init(fixup(**fields), images)
    rng = np.random.default_rng(1)
    variables = jax.tree.map(
        lambda leaf: leaf + rng.normal(size=leaf.shape, scale=0.1).astype(np.float32), variables
    )

    def loss_gradients(model):
        def loss(variables):
            return jnp.sum(model.apply(variables, images, train=True) ** 2)

        return quick_jit(jax.grad(loss))(variables)

    expected = loss_gradients(fixup(**fields))
    for options in ({"scan": True}, {"remat": True}, {"scan": True, "remat": True}):
        gradients = loss_gradients(fixup(**fields, **options))
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(b).max()),
            gradients,
            expected,
        )
