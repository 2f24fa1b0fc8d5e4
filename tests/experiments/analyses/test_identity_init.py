"""Nets made deeper against the nets they are made of, and statistics against those of NumPy."""

import functools
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from experiments.analyses.base import TrainedRun
from experiments.analyses.identity_init import (
    activation_statistics,
    added_blocks,
    check_deeper,
    deepen,
    identity_layers,
    make_logits,
)
from flaxres.config import set_model
from flaxres.data import Dataset, Split
from flaxres.errors import ConfigError
from flaxres.models import create_model
from flaxres.models.resnet import stages_of_depth
from tests.conftest import quick_jit, small_config

PAIRS = [(20, 32), (20, 44), (20, 56), (32, 44), (32, 56), (44, 56)]
DEAD = 2  # a channel of the second stage that is always zero in plain nets


def experiment(kind, depth, **fields):
    name, _, shortcut = kind.partition("-")
    config = set_model(small_config(), f"{name}-{depth}" + (f"-{shortcut}" if shortcut else ""))
    config.model.widths = (4, 8, 8)
    config.eval_batch_size = 5
    config.model.update(fields)
    return config


@functools.cache
def dataset():
    rng = np.random.default_rng(7)
    splits = [
        Split(rng.integers(0, 256, (n, 8, 8, 1), np.uint8), rng.integers(0, 10, n, np.int32))
        for n in (18, 13)  # the batch size divides neither
    ]
    return Dataset("random", *splits, num_classes=10)


@functools.cache
def shapes_of(kind, depth):
    """Of the variables; those of plain nets and of option A are the same."""
    model = create_model(experiment(kind, depth).model, 10)
    init = functools.partial(model.init, train=False)
    return jax.eval_shape(init, jax.random.key(0), np.zeros((1, 8, 8, 1), np.float32))


def random_variables(kind, depth, seed=0):
    """Kernels of He-2015's scale, all else away from what a net begins with."""
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

    return jax.tree_util.tree_map_with_path(
        fill, shapes_of("resnet-B" if kind == "resnet-B" else "plain", depth)
    )


def forward(variables, depth, images, calibrate=False):
    """Logits of a plain net, and the output of each block, by NumPy in float64.

    With `calibrate` the running statistics become those of `images`, about: else a deep net's
    activations die out, or are the same for all images.
    """
    params, stats = variables["params"], variables["batch_stats"]
    rng = np.random.default_rng(3)

    def layer(x, conv, norm, running, stride=1):
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        n, h, w, _ = x.shape
        y = np.zeros((n, h, w, conv["kernel"].shape[3]))
        for i in range(3):
            for j in range(3):
                y += padded[:, i : i + h, j : j + w] @ np.float64(conv["kernel"][i, j])
        y = y[:, ::stride, ::stride]
        if calibrate:
            std = y.std((0, 1, 2))
            running["mean"][:] = y.mean((0, 1, 2)) + 0.1 * std * rng.normal(size=std.shape)
            running["var"][:] = std**2 * rng.uniform(0.9, 1.2, std.shape)
        y = (y - running["mean"]) / np.sqrt(running["var"] + 1e-5)
        return np.maximum(y * norm["scale"] + norm["bias"], 0)

    blocks = {}
    x = layer(images, params["conv"], params["norm"], stats["norm"])
    for stage, count in enumerate(stages_of_depth(depth, "basic", "cifar"), start=1):
        for number in range(1, count + 1):
            name = f"stage{stage}_block{number}"
            own, running = params[name], stats[name]
            stride = 2 if stage > 1 and number == 1 else 1
            x = layer(x, own["conv1"], own["norm1"], running["norm1"], stride)
            x = layer(x, own["conv2"], own["norm2"], running["norm2"])
            blocks[name] = x
    dense = params["dense"]
    return x.mean((1, 2)) @ dense["kernel"] + dense["bias"], blocks


@functools.cache
def trained(kind, depth):
    """A net with random weights as if it had been trained."""
    variables = random_variables(kind, depth)
    if kind == "plain":
        last = stages_of_depth(depth, "basic", "cifar")[1]
        norm = variables["params"][f"stage2_block{last}"]["norm2"]
        norm["scale"][DEAD], norm["bias"][DEAD] = 0, -1
        data = dataset()
        forward(variables, depth, data.train.images / 255.0 - data.mean_image(), calibrate=True)
    return TrainedRun(f"{kind}-{depth}", experiment(kind, depth), Path(), dataset(), variables, 0)


@functools.cache
def program(kind, depth):
    model = create_model(experiment(kind, depth).model, 10)
    return quick_jit(functools.partial(model.apply, train=False))


def logits_of(kind, depth, variables):
    data = dataset()
    images = (data.test.images / 255.0 - data.mean_image()).astype(np.float32)
    return np.asarray(program(kind, depth)(variables, images))


def assert_not_degenerate(logits):
    """They differ between images and classes, by as much as they are large."""
    scale = np.abs(logits).max()
    assert np.isfinite(scale)
    assert logits.std(0).mean() > 0.03 * scale
    assert logits.std(1).mean() > 0.03 * scale


@pytest.mark.parametrize("kind", ["plain", "resnet"])
@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_outputs_are_those_of_the_shallow_net(kind, pair):
    shallow, deeper = pair
    run = trained(kind, shallow)
    fresh = random_variables(kind, deeper, seed=1)
    made = deepen(run, experiment(kind, deeper), fresh)
    before, after = logits_of(kind, shallow, run.variables), logits_of(kind, deeper, made)
    assert_not_degenerate(before)
    tolerance = 1e-5 * np.abs(before).max() if kind == "plain" else 0
    np.testing.assert_allclose(after, before, rtol=0, atol=tolerance)
    if kind == "resnet":  # where blocks that are no identities would show
        assert not np.allclose(logits_of(kind, deeper, fresh), before, atol=0.1)

    assert jax.tree.map(np.shape, made) == jax.tree.map(np.shape, fresh)
    added = added_blocks(run.config.model, experiment(kind, deeper).model)
    assert len(added) == (deeper - shallow) / 2
    for collection, own in made.items():
        assert set(own) - set(run.variables[collection]) == set(added)
        for name, leaves in run.variables[collection].items():
            assert own[name] is leaves
    for name in added if kind == "resnet" else ():
        block, initial = made["params"][name], fresh["params"][name]
        assert all(not leaf.any() for leaf in block["norm2"].values())
        assert all(block[layer] is initial[layer] for layer in ("conv1", "norm1", "conv2"))


def test_shortcut_b_and_images_in_batches_that_do_not_divide_them():
    run = trained("resnet-B", 8)
    made = deepen(run, experiment("resnet-B", 14), random_variables("resnet-B", 14, seed=1))
    assert "shortcut" in made["params"]["stage2_block1"]
    nets = (
        (run.model(), run.variables),
        (create_model(experiment("resnet-B", 14).model, 10), made),
    )
    images = run.dataset.test.images
    before, after = (make_logits(net, run.mean, 5)(own, images) for net, own in nets)
    assert_not_degenerate(before)
    np.testing.assert_array_equal(before, after)
    np.testing.assert_allclose(before, logits_of("resnet-B", 8, run.variables), rtol=1e-4)


def test_residual_nets_are_the_same_in_training_too():
    run = trained("resnet", 8)
    made = deepen(run, experiment("resnet", 14), random_variables("resnet", 14, seed=1))
    images = run.dataset.train.images / 255.0 - np.asarray(run.mean)

    def step(depth, variables):
        model = create_model(experiment("resnet", depth).model, 10)
        apply = functools.partial(model.apply, train=True, mutable=["batch_stats"])
        return quick_jit(apply)(variables, images.astype(np.float32))

    (before, old), (after, new) = step(8, run.variables), step(14, made)
    assert_not_degenerate(np.asarray(before))
    np.testing.assert_array_equal(before, after)
    for name, leaves in old["batch_stats"].items():
        jax.tree.map(np.testing.assert_array_equal, new["batch_stats"][name], leaves)


@pytest.mark.parametrize("batch_size", [5, 18])
def test_statistics_are_those_of_all_images(batch_size):
    run = trained("plain", 20)
    images = run.dataset.train.images
    expected, blocks = forward(run.variables, 20, images / 255.0 - np.asarray(run.mean))
    names = ["stage1_block3", "stage2_block3", "stage3_block2"]
    found = activation_statistics(run.model(), run.variables, names, images, run.mean, batch_size)
    assert sorted(found) == names
    for name in names:
        own = blocks[name]
        assert (own.var((0, 1, 2)) > 1e-3).sum() >= own.shape[-1] - 2
        scale = own.std()
        for kind, truth in (("mean", own.mean((0, 1, 2))), ("var", own.var((0, 1, 2)))):
            np.testing.assert_allclose(found[name][kind], truth, rtol=1e-4, atol=1e-5 * scale)
    dead = found["stage2_block3"]
    assert dead["mean"][DEAD] == dead["var"][DEAD] == 0
    if batch_size == 5:  # the net computed by hand is the net
        logits = make_logits(run.model(), run.mean, 5)(run.variables, images)
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_an_identity_layer_by_hand():
    x = np.random.default_rng(0).uniform(0, 3, (50, 3)) * [1.0, 0.0, 1e-4] + [0.0, 0.0, 2.0]
    block = identity_layers({"mean": x.mean(0), "var": x.var(0)}, 1e-5)
    for number in "12":
        norm, running = block["params"]["norm" + number], block["batch_stats"]["norm" + number]
        assert np.isfinite(norm["scale"]).all()
        y = (x - running["mean"]) / np.sqrt(running["var"] + 1e-5) * norm["scale"] + norm["bias"]
        np.testing.assert_allclose(y, x, rtol=1e-6, atol=1e-6)
        # As in training, by a batch that has the statistics of all.
        y = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) * norm["scale"] + norm["bias"]
        np.testing.assert_allclose(y, x, rtol=1e-6, atol=1e-6)
        kernel = block["params"]["conv" + number]["kernel"]
        np.testing.assert_array_equal(kernel[1, 1], np.eye(3))
        assert kernel.sum() == np.abs(kernel).sum() == 3


def test_blocks_of_nets_for_imagenet():
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
    ("net", "deeper", "message"),
    [
        (
            "preact-20",
            "preact-56",
            "identity blocks are for plain nets and residual .*got preact-20",
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
            "must differ from plain-20 in depth alone, got model.name='resnet'",
        ),
        ("resnet-20", "resnet-56-B", "in depth alone, got model.shortcut='B' for 'A'"),
        ("plain-56", "plain-20", "must be deeper than plain-56, got plain-20"),
        ("plain-20", "plain-20", "must be deeper than plain-20, got plain-20"),
    ],
)
def test_nets_that_do_not_fit(net, deeper, message):
    shallow, other = (set_model(small_config(), name).model for name in (net, deeper))
    with pytest.raises(ConfigError, match=message) as caught:
        check_deeper(shallow, other)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"norm": "group"}, "got plain-20 with model.norm='group'"),
        ({"norm": "none"}, "with batch norm; got plain-20 with model.norm='none'"),
    ],
)
def test_nets_without_batch_norm(fields, message):
    shallow, deeper = (experiment("plain", depth, **fields).model for depth in (20, 56))
    with pytest.raises(ConfigError, match=message):
        check_deeper(shallow, deeper)


def set_depth(model, depth):
    return ConfigDict({**model.to_dict(), "depth": depth})


def test_other_widths_and_depths():
    shallow, deeper = (experiment("plain", depth).model for depth in (20, 56))
    deeper.widths = (8, 8, 8)
    message = r"in depth alone, got model.widths=\(8, 8, 8\) for \(4, 8, 8\)"
    with pytest.raises(ConfigError, match=message):
        check_deeper(shallow, deeper)
    with pytest.raises(ConfigError, match=r"depth must be 6n\+2 \(20, 32, 44, \.\.\.\), got 55"):
        check_deeper(shallow, set_depth(shallow, 55))
