"""Counts of layers, compared with the papers and with counts by hand."""

import pytest

from flaxres.configs import cifar10, imagenet
from flaxres.models import create_model
from flaxres.models.layer_counts import block_weights, summarize

IMAGE = (32, 32, 3)


def totals(name):
    config = cifar10.get_config(name)
    layers = summarize(create_model(config.model, 10), IMAGE)
    return sum(layer.params for layer in layers), sum(layer.macs for layer in layers)


@pytest.mark.parametrize(
    ("name", "params", "macs"),
    [
        # He15 (arXiv 1512.03385), section 4.2: option A; multiply-adds to four digits.
        ("resnet-20", 269_722, 40.55e6),
        ("plain-20", 269_722, 40.55e6),
        ("resnet-32", 464_154, 68.86e6),
        ("resnet-44", 658_586, 97.17e6),
        ("resnet-56", 853_018, 125.5e6),
        ("resnet-110", 1_727_962, 252.9e6),
        pytest.param("resnet-1202", 19_421_274, 2.829e9, marks=pytest.mark.slow),
    ],
)
def test_totals_of_the_paper(name, params, macs):
    counted = totals(name)
    assert counted[0] == params
    assert counted[1] == pytest.approx(macs, rel=5e-4)


def test_layers_by_hand():
    config = cifar10.get_config("resnet-8-B").model
    layers = {layer.name: layer for layer in summarize(create_model(config, 10), IMAGE)}
    first = layers["conv"]
    assert (first.kind, first.output_shape) == ("Conv", (32, 32, 16))
    assert (first.params, first.macs) == (3 * 3 * 3 * 16, 32 * 32 * 3 * 3 * 3 * 16)
    norm = layers["stage2_block1/norm1"]
    assert (norm.kind, norm.params, norm.macs) == ("BatchNorm", 64, 0)
    projection = layers["stage2_block1/shortcut/conv"]
    assert (projection.params, projection.macs) == (16 * 32, 16 * 16 * 16 * 32)
    strided = layers["stage3_block1/conv1"]
    assert (strided.output_shape, strided.macs) == ((8, 8, 64), 8 * 8 * 9 * 32 * 64)
    dense = layers["dense"]
    assert (dense.output_shape, dense.params, dense.macs) == ((10,), 650, 640)
    assert (first.activations, norm.activations, dense.activations) == (32 * 32 * 16, 0, 10)
    assert (next(iter(layers)), next(reversed(layers))) == ("conv", "dense")


def test_block_weights_by_channels():
    """He15, figure 5: two 3x3 convolutions at 256 channels against 256-64-64-256."""
    weights = {}
    for name in ("resnet-34", "resnet-50", "densenet-121"):
        model = imagenet.get_config(name).model
        weights[name] = block_weights(summarize(create_model(model, 1000), (224, 224, 3)))
    assert weights["resnet-34"] == {
        channels: 2 * 9 * channels**2 for channels in (64, 128, 256, 512)
    }
    assert weights["resnet-34"][256] == 1_179_648
    assert weights["resnet-50"][256] == 69_632
    assert list(weights["resnet-50"]) == [256, 512, 1024, 2048]
    assert weights["densenet-121"] == {}


def test_a_layer_counts_once_with_and_without_the_cpu_kernels(config):
    from flaxres.cpu import kernels

    config.model.widths = (16, 16, 32)
    model = create_model(config.model, 10)
    layers = summarize(model, (8, 8, 1))
    with kernels.kernels_disabled():
        assert [layer.params for layer in summarize(model, (8, 8, 1))] == [
            layer.params for layer in layers
        ]
    assert len({layer.name for layer in layers}) == len(layers)
