"""Counts of every model, compared with the papers, and fields that describe no model."""

import pytest

from flaxres.config import check_config, default_config, set_model
from flaxres.errors import ConfigError
from flaxres.models import create_model
from flaxres.models.layer_counts import summarize

CIFAR = [
    # He16 (arXiv 1603.05027), table 4, reports 1.7M for 164 and 10.2M for 1001 layers.
    ("preact-110", 1_727_962, 252.9e6),  # as many as the post-activation model of He15
    ("preact-164", 1_703_258, None),
    ("preact-1001", 10_327_706, None),
    # Zagoruyko16 (arXiv 1605.07146), table 4: 36.5M, 2.7M and 8.9M. Multiply-adds of the first one
    # by hand: 27*16*32^2 + (9*(16 + 7*160) + 16)*160*32^2 + (9*(160 + 7*320) + 160)*320*16^2 +
    # (9*(320 + 7*640) + 320)*640*8^2 + 640*10.
    ("wrn-28-10", 36_479_194, 5_243_328_768),
    ("wrn-16-4", 2_748_890, None),
    ("wrn-40-4", 8_949_210, None),
    # 64 to 512 filters. By hand: 27*64*32^2 + 4*9*64^2*32^2 + (9*(64 + 3*128) + 64)*128*16^2 +
    # (9*(128 + 3*256) + 128)*256*8^2 + (9*(256 + 3*512) + 256)*512*4^2 + 512*10.
    ("resnet-18", 11_173_962, 555_422_720),
    ("plain-34", 21_108_298, None),
    # Xie17 (arXiv 1611.05431), table 7: 34.4M and 68.1M.
    ("resnext-29-8x64d", 34_426_698, None),
    ("resnext-29-16x64d", 68_155_210, None),
    # Huang17 (arXiv 1608.06993), table 2: 1.0M and 0.8M.
    ("densenet-40-12", 1_019_722, None),
    ("densenet-bc-100-12", 769_162, None),
    # 5x5x3x6+6, 5x5x6x16+16, 400x120+120, 120x84+84, 84x10+10.
    ("lenet-5", 456 + 2_416 + 48_120 + 10_164 + 850, None),
]
IMAGENET = [
    # He15 (arXiv 1512.03385), sections 3.4 and 4.1; multiply-adds to the digits of the source.
    ("plain-18", 11_515_688, 1.795e9),
    ("plain-34", 21_623_848, 3.644e9),
    ("resnet-18", 11_689_512, None),
    ("resnet-18-A", 11_515_688, 1.795e9),
    ("resnet-34", 21_797_672, None),
    ("resnet-34-A", 21_623_848, 3.644e9),
    ("resnet-50", 25_557_032, 3.86e9),
    ("resnet-101", 44_549_160, 7.57e9),
    ("resnet-152", 60_192_808, 11.28e9),
    ("resnext-50-32x4d", 25_028_904, None),  # Xie17, table 1: 25.0M
    ("densenet-121", 7_978_856, None),
    # arXiv 1409.1556, table 1, column B: 133M with 2,944 biases of the convolutions. Here norms
    # have 2 * 2,944 parameters instead.
    ("vgg-13", 133_047_848 + 2_944, None),
]


def count(name, stem, shape, num_classes, **fields):
    config = set_model(default_config(), name, stem)
    config.model.update(fields)
    check_config(config)
    layers = summarize(create_model(config.model, num_classes), shape)
    return sum(layer.params for layer in layers), sum(layer.macs for layer in layers)


@pytest.mark.parametrize(("name", "params", "macs"), CIFAR)
def test_counts_on_cifar(name, params, macs):
    counted = count(name, "cifar", (32, 32, 3), 10)
    assert counted[0] == params
    assert macs is None or counted[1] == pytest.approx(macs, rel=5e-4)


@pytest.mark.parametrize(("name", "params", "macs"), IMAGENET)
def test_counts_on_imagenet(name, params, macs):
    counted = count(name, "imagenet", (224, 224, 3), 1000)
    assert counted[0] == params
    assert macs is None or counted[1] == pytest.approx(macs, rel=2e-3)


@pytest.mark.parametrize(
    ("name", "macs"), [("resnet-50", 4.09e9), ("resnet-101", 7.80e9), ("resnet-152", 11.51e9)]
)
def test_counts_with_the_stride_on_the_3x3_convolution(name, macs):
    params, counted = count(name, "imagenet", (224, 224, 3), 1000, stride_on="3x3")
    assert params == {model: params for model, params, _ in IMAGENET}[name]
    assert counted == pytest.approx(macs, rel=2e-3)


def test_a_bottleneck_has_fewer_weights_than_a_basic_block():
    """Two 3x3 convolutions at 256 channels against 256-64-64-256; He15, figure 5."""

    def weights(name, **fields):
        config = set_model(default_config(), name, "imagenet")
        config.model.update(fields)
        layers = summarize(create_model(config.model, 10), (64, 64, 3))
        block = [layer for layer in layers if layer.name.startswith("stage1_block2/conv")]
        return sum(layer.params for layer in block)

    assert weights("resnet-34", widths=(256, 256, 256, 256)) == 1_179_648
    assert weights("resnet-50") == 69_632


@pytest.mark.parametrize(
    ("name", "stem", "pixels", "norm", "message"),
    [
        ("resnet-50", "imagenet", 31, "batch", "at least 32 x 32 pixels, got 31 x 31; scale them"),
        ("densenet-121", "imagenet", 31, "batch", "at least 32 x 32 pixels, got 31 x 31"),
        ("plain-20", "cifar", 3, "batch", "at least 4 x 4 pixels, got 3 x 3"),
        ("stargan-6", "cifar", 3, "instance", "at least 4 x 4 pixels"),
        ("resnet-20", "cifar", 4, "instance", "a feature map of 1 x 1 pixels has no variance"),
        ("densenet-40-12", "cifar", 8, "group", "28 channels cannot be divided into groups of 8"),
    ],
)
def test_images_and_channels_that_do_not_fit(name, stem, pixels, norm, message):
    with pytest.raises(ConfigError, match=message) as caught:
        count(name, stem, (pixels, pixels, 3), 10, norm=norm)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("resnet-20", {"growth_rate": 12}, "model.growth_rate is not a field of resnet models"),
        ("resnet-20", {"groups": 2}, "model.groups must be 1 with basic blocks, got 2"),
        ("resnet-20", {"stem": "imagenet"}, "depth must be 18, 34 with basic blocks"),
        ("resnet-20", {"stem": "mnist"}, "model.stem must be one of cifar, imagenet"),
        ("preact-164", {"groups": 3}, "model.groups must be a divisor of all widths"),
        ("preact-20", {"shortcut": "dropout"}, "A, B or C for a pre-activation model"),
        ("resnet-20-dropout", {"remat": True}, "model.remat must be false with shortcut"),
        ("resnet-20-B", {"widths": (16, 32)}, "model.widths must be three positive numbers"),
        ("densenet-40-12", {"compression": 0.0}, "model.compression must be above 0"),
        ("densenet-41-12", {}, r"depth must be 3n\+4"),
        (
            "densenet-40",
            {},
            "as in densenet-100-12; did you mean 'densenet-40-12'",
        ),
        ("vgg-12", {}, "depth must be 11, 13, 16, 19, got 12"),
        ("lenet-5", {"norm": "batch"}, "model.norm must be none for LeNet"),
        ("stargan-0", {}, "model.depth must be a positive number of residual units"),
        ("densenet-121", {}, "densenet-100-12; densenet-121 needs an ImageNet config, such as"),
        ("densenet-40-12", {"growth_rate": -1}, "model.growth_rate must be a positive number"),
        (
            "resnet-19",
            {},
            r"depth must be 6n\+2 \(8, 14, 20, 26, ...\), got 19; did",
        ),
        ("resnet-7", {}, r"got 7; did you mean 'resnet-8'\?$"),
        ("densenet-201-12", {}, "got 201; densenet-201-12 needs an ImageNet config"),
        ("resnet-101", {}, "got 101; resnet-101 needs an ImageNet config, such as"),
        ("preact-165-bottleneck", {}, r"depth must be 9n\+2"),
    ],
)
def test_fields_without_a_model(name, fields, message):
    config = set_model(default_config(), name)
    config.model.update(fields)
    with pytest.raises(ConfigError, match=message) as caught:
        check_config(config)
    assert "\n" not in str(caught.value)
