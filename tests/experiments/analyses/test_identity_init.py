"""Deepened models, compared with the models they are built from, and statistics with NumPy."""

import functools

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from flaxres.config import set_model
from flaxres.data import Dataset, Split
from flaxres.errors import ConfigError
from flaxres.experiments.analyses.base import TrainedRun
from flaxres.experiments.analyses.identity_init import (
    activation_statistics,
    added_blocks,
    check_deeper,
    deepen,
    identity_block,
    make_logits,
)
from flaxres.models import create_model
from flaxres.models.resnet import stages_of_depth
from tests.conftest import quick_jit, small_config

PAIRS = [(20, 32), (20, 44), (20, 56), (32, 44), (32, 56), (44, 56)]
DEAD_CHANNEL = 2  # of the second stage, always zero in plain models


def make_config(kind, depth, **fields):
    """Returns the config of a small model; `kind` is a family such as plain or resnet-B."""
    name, _, shortcut = kind.partition("-")
    config = set_model(small_config(), f"{name}-{depth}" + (f"-{shortcut}" if shortcut else ""))
    config.model.widths = (4, 8, 8)
    config.eval_batch_size = 5
    config.model.update(fields)
    return config


@functools.cache
def make_dataset():
    rng = np.random.default_rng(7)
    splits = [
        Split(rng.integers(0, 256, (n, 8, 8, 1), np.uint8), rng.integers(0, 10, n, np.int32))
        for n in (18, 13)  # the batch size divides neither
    ]
    return Dataset("random", *splits, num_classes=10)


@functools.cache
def variable_shapes(kind, depth):
    """Returns the shapes of the variables, which plain models and shortcut A have in common."""
    model = create_model(make_config(kind, depth).model, 10)
    init = functools.partial(model.init, train=False)
    return jax.eval_shape(init, jax.random.key(0), np.zeros((1, 8, 8, 1), np.float32))


def random_variables(kind, depth, seed=0):
    """Returns kernels with the scale of He initialization, and other leaves without 0 and 1."""
    rng = np.random.default_rng(seed)

    def fill(path, leaf):
        name = path[-1].key
        if name == "kernel":
            value = rng.normal(size=leaf.shape) * np.sqrt(2 / np.prod(leaf.shape[:-1]))
        elif name in ("scale", "var"):
            value = rng.uniform(0.7, 1.4, leaf.shape)
        else:
            value = rng.normal(size=leaf.shape) * 0.3
        return value.astype(np.float32)

    shapes = variable_shapes("resnet-B" if kind == "resnet-B" else "plain", depth)
    return jax.tree_util.tree_map_with_path(fill, shapes)


def reference_forward(variables, depth, images, calibrate=False):
    """Returns the logits of a plain model and the output of each block, in float64.

    With `calibrate` the running statistics are set to approximately those of `images`. Otherwise
    the activations of a deep model vanish or are the same for all images.
    """
    params, stats = variables["params"], variables["batch_stats"]
    rng = np.random.default_rng(3)

    def layer(x, convolution, norm, running, stride=1):
        kernel = convolution["kernel"]
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        n, h, w, _ = x.shape
        y = np.zeros((n, h, w, kernel.shape[3]))
        for i in range(3):
            for j in range(3):
                y += padded[:, i : i + h, j : j + w] @ np.float64(kernel[i, j])
        y = y[:, ::stride, ::stride]
        if calibrate:
            std = y.std((0, 1, 2))
            running["mean"][:] = y.mean((0, 1, 2)) + 0.1 * std * rng.normal(size=std.shape)
            running["var"][:] = std**2 * rng.uniform(0.9, 1.2, std.shape)
        y = (y - running["mean"]) / np.sqrt(running["var"] + 1e-5)
        return np.maximum(y * norm["scale"] + norm["bias"], 0)

    outputs = {}
    x = layer(images, params["conv"], params["norm"], stats["norm"])
    for stage, count in enumerate(stages_of_depth(depth, "basic", "cifar"), start=1):
        for number in range(1, count + 1):
            name = f"stage{stage}_block{number}"
            block, running = params[name], stats[name]
            stride = 2 if stage > 1 and number == 1 else 1
            x = layer(x, block["conv1"], block["norm1"], running["norm1"], stride)
            x = layer(x, block["conv2"], block["norm2"], running["norm2"])
            outputs[name] = x
    dense = params["dense"]
    return x.mean((1, 2)) @ dense["kernel"] + dense["bias"], outputs


@functools.cache
def trained_run(kind, depth):
    """Returns a run whose random weights stand for trained ones."""
    variables = random_variables(kind, depth)
    dataset = make_dataset()
    if kind == "plain":
        last = stages_of_depth(depth, "basic", "cifar")[1]
        norm = variables["params"][f"stage2_block{last}"]["norm2"]
        norm["scale"][DEAD_CHANNEL], norm["bias"][DEAD_CHANNEL] = 0, -1
        images = dataset.train.images / 255.0 - dataset.mean_image()
        reference_forward(variables, depth, images, calibrate=True)
    return TrainedRun(f"{kind}-{depth}", make_config(kind, depth), dataset, variables, 0)


@functools.cache
def compiled_apply(kind, depth):
    model = create_model(make_config(kind, depth).model, 10)
    return quick_jit(functools.partial(model.apply, train=False))


def logits_of(kind, depth, variables):
    dataset = make_dataset()
    images = (dataset.test.images / 255.0 - dataset.mean_image()).astype(np.float32)
    return np.asarray(compiled_apply(kind, depth)(variables, images))


def assert_not_degenerate(logits):
    """Checks that the logits differ between images and between classes."""
    scale = np.abs(logits).max()
    assert np.isfinite(scale)
    assert logits.std(0).mean() > 0.03 * scale
    assert logits.std(1).mean() > 0.03 * scale


@pytest.mark.parametrize("kind", ["plain", "resnet"])
@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_outputs_equal_those_of_the_shallow_model(kind, pair):
    shallow, deeper = pair
    run = trained_run(kind, shallow)
    initial = random_variables(kind, deeper, seed=1)
    deepened = deepen(run, make_config(kind, deeper), initial)
    expected = logits_of(kind, shallow, run.variables)
    assert_not_degenerate(expected)
    tolerance = 1e-5 * np.abs(expected).max() if kind == "plain" else 0
    logits = logits_of(kind, deeper, deepened)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=tolerance)
    if kind == "resnet":  # blocks that are not identities would change the logits
        assert not np.allclose(logits_of(kind, deeper, initial), expected, atol=0.1)

    assert jax.tree.map(np.shape, deepened) == jax.tree.map(np.shape, initial)
    added = added_blocks(run.config.model, make_config(kind, deeper).model)
    assert len(added) == (deeper - shallow) / 2
    for collection, layers in deepened.items():
        assert set(layers) - set(run.variables[collection]) == set(added)
        for name, leaves in run.variables[collection].items():
            assert layers[name] is leaves
    for name in added if kind == "resnet" else ():
        block, initial_block = deepened["params"][name], initial["params"][name]
        assert all(not leaf.any() for leaf in block["norm2"].values())
        assert all(block[layer] is initial_block[layer] for layer in ("conv1", "norm1", "conv2"))


def test_shortcut_b_and_a_batch_size_that_does_not_divide_the_split():
    run = trained_run("resnet-B", 8)
    config = make_config("resnet-B", 14)
    deepened = deepen(run, config, random_variables("resnet-B", 14, seed=1))
    assert "shortcut" in deepened["params"]["stage2_block1"]
    images, mean_image = run.dataset.test.images, run.mean_image
    expected = make_logits(run.make_model(), mean_image, 5)(run.variables, images)
    logits = make_logits(create_model(config.model, 10), mean_image, 5)(deepened, images)
    assert_not_degenerate(expected)
    np.testing.assert_array_equal(logits, expected)
    np.testing.assert_allclose(expected, logits_of("resnet-B", 8, run.variables), rtol=1e-4)


def test_deepened_residual_models_are_the_same_in_training_mode():
    run = trained_run("resnet", 8)
    deepened = deepen(run, make_config("resnet", 14), random_variables("resnet", 14, seed=1))
    images = run.dataset.train.images / 255.0 - np.asarray(run.mean_image)

    def apply_in_training(depth, variables):
        model = create_model(make_config("resnet", depth).model, 10)
        apply = functools.partial(model.apply, train=True, mutable=["batch_stats"])
        return quick_jit(apply)(variables, images.astype(np.float32))

    expected, shallow_stats = apply_in_training(8, run.variables)
    logits, deepened_stats = apply_in_training(14, deepened)
    assert_not_degenerate(np.asarray(expected))
    np.testing.assert_array_equal(logits, expected)
    for name, leaves in shallow_stats["batch_stats"].items():
        jax.tree.map(np.testing.assert_array_equal, deepened_stats["batch_stats"][name], leaves)


@pytest.mark.parametrize("batch_size", [5, 18])
def test_activation_statistics_cover_all_images(batch_size):
    run = trained_run("plain", 20)
    images, mean_image = run.dataset.train.images, run.mean_image
    normalized = images / 255.0 - np.asarray(mean_image)
    expected_logits, outputs = reference_forward(run.variables, 20, normalized)
    names = ["stage1_block3", "stage2_block3", "stage3_block2"]
    model = run.make_model()
    statistics = activation_statistics(model, run.variables, names, images, mean_image, batch_size)
    assert sorted(statistics) == names
    for name in names:
        output = outputs[name]
        assert (output.var((0, 1, 2)) > 1e-3).sum() >= output.shape[-1] - 2
        tolerance = 1e-5 * output.std()
        for key, expected in (("mean", output.mean((0, 1, 2))), ("var", output.var((0, 1, 2)))):
            np.testing.assert_allclose(statistics[name][key], expected, rtol=1e-4, atol=tolerance)
    dead = statistics["stage2_block3"]
    assert dead["mean"][DEAD_CHANNEL] == dead["var"][DEAD_CHANNEL] == 0
    if batch_size == 5:  # the reference computes the same model
        logits = make_logits(model, mean_image, 5)(run.variables, images)
        tolerance = 1e-4 * np.abs(expected_logits).max()
        np.testing.assert_allclose(logits, expected_logits, rtol=0, atol=tolerance)


def test_an_identity_block_returns_its_input():
    x = np.random.default_rng(0).uniform(0, 3, (50, 3)) * [1.0, 0.0, 1e-4] + [0.0, 0.0, 2.0]
    block = identity_block({"mean": x.mean(0), "var": x.var(0)}, 1e-5)
    for number in "12":
        norm, running = block["params"]["norm" + number], block["batch_stats"]["norm" + number]
        assert np.isfinite(norm["scale"]).all()
        y = (x - running["mean"]) / np.sqrt(running["var"] + 1e-5) * norm["scale"] + norm["bias"]
        np.testing.assert_allclose(y, x, rtol=1e-6, atol=1e-6)
        # In training, for a batch with the statistics of all images.
        y = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) * norm["scale"] + norm["bias"]
        np.testing.assert_allclose(y, x, rtol=1e-6, atol=1e-6)
        kernel = block["params"]["conv" + number]["kernel"]
        np.testing.assert_array_equal(kernel[1, 1], np.eye(3))
        assert kernel.sum() == np.abs(kernel).sum() == 3


def test_added_blocks_of_imagenet_models():
    names = added_blocks(
        *(set_model(small_config(), f"resnet-{d}", "imagenet").model for d in (18, 34))
    )
    assert names == {
        "stage1_block3": "stage1_block2",
        "stage2_block3": "stage2_block2",
        "stage2_block4": "stage2_block2",
        **{f"stage3_block{i}": "stage3_block2" for i in range(3, 7)},
        "stage4_block3": "stage4_block2",
    }


@pytest.mark.parametrize(
    ("shallow", "deeper", "message"),
    [
        (
            "preact-20",
            "preact-56",
            "identity blocks require a plain model or a residual .*got preact-20",
        ),
        ("resnet-20-C", "resnet-56-C", "with shortcut A or B, .*got resnet-20-C"),
        ("resnet-20-scale", "resnet-56-scale", "got resnet-20-scale"),
        ("resnet-29-bottleneck-B", "resnet-56-bottleneck", "got resnet-29-bottleneck with"),
        ("densenet-40-12", "densenet-100-12", "got densenet-40-12"),
        ("vgg-11", "vgg-13", "got vgg-11"),
        ("lenet-5", "lenet-5", "got lenet-5"),
        (
            "plain-20",
            "resnet-56",
            "must differ from plain-20 only in depth, got model.name='resnet'",
        ),
        ("resnet-20", "resnet-56-B", "only in depth, got model.shortcut='B' instead of 'A'"),
        ("plain-56", "plain-20", "must be deeper than plain-56, got plain-20"),
        ("plain-20", "plain-20", "must be deeper than plain-20, got plain-20"),
    ],
)
def test_models_that_do_not_fit(shallow, deeper, message):
    shallow, deeper = (set_model(small_config(), name).model for name in (shallow, deeper))
    with pytest.raises(ConfigError, match=message) as caught:
        check_deeper(shallow, deeper)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"norm": "group"}, "got plain-20 with model.norm='group'"),
        ({"norm": "none"}, "and batch norm; got plain-20 with model.norm='none'"),
    ],
)
def test_models_without_batch_norm(fields, message):
    shallow, deeper = (make_config("plain", depth, **fields).model for depth in (20, 56))
    with pytest.raises(ConfigError, match=message):
        check_deeper(shallow, deeper)


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("plain", {"se_reduction": 16}, "no identities; got plain-20 with model.se_reduction=16"),
        ("resnet", {"drop_path": 0.5}, "factors that depend on the depth, .*model.drop_path=0.5"),
    ],
)
def test_models_whose_deeper_model_computes_something_else(kind, fields, message):
    shallow, deeper = (make_config(kind, depth, **fields).model for depth in (20, 56))
    with pytest.raises(ConfigError, match=message):
        check_deeper(shallow, deeper)


def with_depth(model, depth):
    return ConfigDict({**model.to_dict(), "depth": depth})


def test_other_widths_and_invalid_depths():
    shallow, deeper = (make_config("plain", depth).model for depth in (20, 56))
    deeper.widths = (8, 8, 8)
    message = r"only in depth, got model.widths=\(8, 8, 8\) instead of \(4, 8, 8\)"
    with pytest.raises(ConfigError, match=message):
        check_deeper(shallow, deeper)
    with pytest.raises(ConfigError, match=r"depth must be 6n\+2 .*, got 55"):
        check_deeper(shallow, with_depth(shallow, 55))
