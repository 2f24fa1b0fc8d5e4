import importlib
from pathlib import Path

import pytest

from flaxres.config import check_config
from tests.conftest import ROOT

NAMES = sorted(path.stem for path in (ROOT / "configs").glob("[a-z]*.py"))


@pytest.mark.parametrize("name", NAMES)
def test_every_config_is_valid_and_says_how_to_run_it(name):
    module = importlib.import_module(f"configs.{name}")
    small = ("plain-20", "resnet-56", "resnet-110", "resnet-20-C", "preact-164", "densenet-40-12")
    large = ("plain-34", "resnet-50", "resnet-18-A", "resnext-50-32x4d", "densenet-121", "vgg-13")
    for net in large if name == "imagenet" else small:
        config = module.get_config(net)
        check_config(config)
        assert config.name == name
        assert all(boundary < config.num_steps for boundary in config.boundaries)
    check_config(module.get_config())
    assert f"--config=configs/{name}.py" in module.__doc__
    assert Path(module.__file__).parent == ROOT / "configs"


def test_drops_at_one_half_and_three_quarters():
    for name in set(NAMES) - {"imagenet"}:  # where the paper gives no schedule
        config = importlib.import_module(f"configs.{name}").get_config()
        halves = (config.num_steps // 2, config.num_steps * 3 // 4)
        assert config.boundaries == halves
