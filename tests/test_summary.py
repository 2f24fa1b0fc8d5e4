"""Printed summaries, compared with the papers' counts of layers, parameters and multiply-adds."""

import pytest

from flaxres.configs import cifar10, imagenet
from flaxres.errors import ConfigError
from flaxres.summary import print_comparison, print_summary


def rows(output):
    """Returns the cells of all rows of the printed tables."""
    lines = [line.split("│")[1:-1] for line in output.splitlines() if "│" in line]
    return [[cell.strip() for cell in line] for line in lines]


def test_layers_of_resnet_56(capsys):
    """He15 (arXiv 1512.03385), table 6 (0.85M parameters) and section 4.2 (output sizes)."""
    print_summary(cifar10.get_config("resnet-56"))
    output = capsys.readouterr().out
    assert "resnet-56 on cifar10 (32x32x3)" in output
    assert "853,018 params, 125.5M MACs" in output
    layers = {row[0]: row[1:] for row in rows(output)}
    assert layers["conv"][:3] == ["Conv", "32x32x16", "432"]
    assert layers["dense"][:3] == ["Dense", "10", "650"]
    assert layers["stage3_block9/conv2"][1] == "8x8x64"
    assert layers["total"][2] == "853,018"
    weighted = [row for row in layers.values() if row[0] in ("Conv", "Dense")]
    assert len(weighted) == 56


def on_digits(name):
    """Returns the config of an ImageNet model on images and classes of the digits."""
    config = imagenet.get_config(name)
    config.dataset.name = "digits"
    return config


def test_comparison_of_plain_and_residual_models(capsys):
    """He15, section 3.3: option A adds no parameters; table 6: 0.27M parameters at depth 20."""
    print_comparison([cifar10.get_config(name) for name in ("plain-20", "resnet-20")])
    output = capsys.readouterr().out
    assert "models on cifar10 (32x32x3)" in output
    first, second, *blocks = rows(output)
    assert first == ["plain-20", "20", "269,722", *first[3:]]
    assert second == ["resnet-20", *first[1:]]
    # Two 3x3 convolutions of 16, 32 and 64 channels.
    assert blocks == [
        [name, *(f"{2 * 9 * channels**2:,}" for channels in (16, 32, 64))]
        for name in ("plain-20", "resnet-20")
    ]


def test_comparison_of_bottlenecks(capsys):
    """He15, figure 5: 256 channels with a bottleneck cost as much as 64 channels without."""
    print_comparison([on_digits(name) for name in ("resnet-34", "resnet-50")])
    models = {row[0]: row for row in rows(capsys.readouterr().out)[2:]}
    assert models["resnet-34"][1] == f"{2 * 9 * 64**2:,}"
    assert f"{2 * 256 * 64 + 9 * 64**2:,}" in models["resnet-50"]


def test_models_without_blocks(capsys):
    print_comparison([cifar10.get_config("lenet-5")])
    assert len(rows(capsys.readouterr().out)) == 1


def test_an_invalid_config():
    config = cifar10.get_config("resnet-20")
    config.model.depth = 21
    with pytest.raises(ConfigError, match="depth must be"):
        print_summary(config)
