import importlib
from pathlib import Path

import pytest

from flaxres.config import check_config
from flaxres.configs import cifar10_densenet, cifar10_modern, imagenet, imagenet_modern
from flaxres.errors import ConfigError
from tests.conftest import ROOT

NAMES = sorted(path.stem for path in (ROOT / "configs").glob("[a-z]*.py"))


@pytest.mark.parametrize("name", NAMES)
def test_every_config_is_valid_and_documents_its_command(name):
    module = importlib.import_module(f"configs.{name}")
    small = ("plain-20", "resnet-56", "resnet-110", "resnet-20-C", "preact-164", "densenet-40-12")
    large = ("plain-34", "resnet-50", "resnet-18-A", "resnext-50-32x4d", "densenet-121", "vgg-13")
    photographs = ("lenet-5", "resnet-18", "resnet-50")
    models = {"imagenet": large, "imagenet_modern": large, "cats_vs_dogs": photographs}
    for model in models.get(name, small):
        config = module.get_config(model)
        check_config(config)
        assert config.name == name
        assert all(boundary < config.num_steps for boundary in config.boundaries)
    check_config(module.get_config())
    assert f"--config=configs/{name}.py" in module.__doc__
    assert Path(module.__file__).parent == ROOT / "configs"


def test_boundaries_at_one_half_and_three_quarters():
    # The paper gives no schedule for ImageNet, and a cosine schedule has no boundaries.
    for name in set(NAMES) - {"imagenet", "imagenet_modern", "cifar10_modern"}:
        config = importlib.import_module(f"configs.{name}").get_config()
        boundaries = (config.num_steps // 2, config.num_steps * 3 // 4)
        assert config.boundaries == boundaries


def test_imagenet_of_the_paper():
    """He15 (arXiv 1512.03385), section 3.4; Krizhevsky 2012, section 4.1."""
    config = imagenet.get_config("resnet-50")
    assert (config.augment.crop, config.augment.short_side_range) == ("scale", (256, 480))
    assert (config.dataset.image_size, config.dataset.mean) == (224, "pixel")
    assert (config.augment.flip, config.augment.color) == (True, 0.1)
    assert (config.batch_size, config.learning_rate, config.num_steps) == (256, 0.1, 600_000)
    assert (config.weight_decay, config.momentum, config.decay_factor) == (1e-4, 0.9, 0.1)


def test_imagenet_modern():
    """Goyal 2017 (arXiv 1706.02677), section 5.1; He 2019 (arXiv 1812.01187), sections 3 and 5."""
    config = imagenet_modern.get_config("resnet-50")
    assert config.num_steps * config.batch_size == pytest.approx(90 * 1_281_167, rel=1e-3)
    assert config.linear_warmup_steps * 18 == config.num_steps
    assert (config.schedule, config.label_smoothing, config.dtype) == ("cosine", 0.1, "bfloat16")
    assert (config.augment.crop, config.augment.area_range) == ("random-resized", (0.08, 1.0))
    assert (config.model.stride_on, config.model.zero_init) == ("3x3", True)
    plain = imagenet_modern.get_config("plain-34").model
    assert not plain.zero_init  # without shortcuts, its output would be zero
    for name in ("fixup-50", "skipinit-50", "rezero-50"):  # zero at first by themselves
        check_config(imagenet_modern.get_config(name))
    densenet = imagenet_modern.get_config("densenet-121").model
    assert (densenet.stride_on, densenet.zero_init) == ("1x1", False)


def test_procedures_of_resnet_strikes_back():
    """Wightman 2021 (arXiv 2110.00476), table 2."""
    for procedure, epochs, learning_rate in (("a2", 300, 5e-3), ("a3", 100, 8e-3)):
        config = imagenet_modern.get_config(f"resnet-50:{procedure}")
        check_config(config)
        assert config.num_steps * config.batch_size == pytest.approx(epochs * 1_281_167, rel=1e-3)
        assert (config.optimizer, config.learning_rate) == ("lamb", learning_rate)
        assert config.name == f"imagenet_{procedure}"
        assert config.num_steps == config.linear_warmup_steps * epochs // 5
    with pytest.raises(ConfigError, match="procedure after the model must be a2 or a3, got 'a1'"):
        imagenet_modern.get_config("resnet-50:a1")


def test_wide_resnet_with_cutout():
    """Zagoruyko and Komodakis 2016 (arXiv 1605.07146), section 3; DeVries 2017, section 4.1."""
    config = cifar10_modern.get_config("resnet-20")
    assert config.num_steps * config.batch_size == 200 * 50_000
    assert (config.nesterov, config.weight_decay, config.augment.cutout) == (True, 5e-4, 16)


def test_densenet_of_the_paper():
    """Huang17 (arXiv 1608.06993), section 4.2."""
    config = cifar10_densenet.get_config("densenet-bc-100-12")
    assert config.num_steps * config.batch_size == 300 * 50_000
    assert (config.nesterov, config.batch_size, config.weight_decay) == (True, 64, 1e-4)
