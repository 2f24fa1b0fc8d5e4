"""The stride of bottlenecks: the user's choice, that of the run, or that of PyTorch's models."""

import json

import pytest

from flaxres.config import check_config, default_config, set_model
from flaxres.configs import imagenet, imagenet_modern
from flaxres.errors import ConfigError, WorkdirError
from flaxres.models import create_model
from flaxres.pretrained.sources import is_state_dict
from flaxres.pretrained.stride_on import resolve_stride
from flaxres.run.workdir import CONFIG_FILE, check_same_config


def make_config(init_from=None, stride_on="auto"):
    config = imagenet.get_config("resnet-50")
    assert config.model.stride_on == "auto"
    config.init_from, config.model.stride_on = init_from, stride_on
    return config


def test_kinds_of_weights(tmp_path):
    (tmp_path / "run").mkdir()
    assert not is_state_dict(None)
    assert not is_state_dict(str(tmp_path / "run"))
    assert not is_state_dict(f"{tmp_path}/model.msgpack")
    assert is_state_dict(f"{tmp_path}/model.pth")
    assert is_state_dict(f"{tmp_path}/model")


def test_state_dicts_take_the_3x3_convolution_unless_the_user_chose(tmp_path):
    run, state_dict, variables = str(tmp_path), "resnet50.pth", "net.msgpack"
    for init_from, chosen, expected in (
        (None, "auto", "1x1"),
        (run, "auto", "1x1"),
        (variables, "auto", "1x1"),
        (state_dict, "auto", "3x3"),
        (state_dict, "1x1", "1x1"),
        (state_dict, "3x3", "3x3"),
        (None, "3x3", "3x3"),
    ):
        config = make_config(init_from, chosen)
        check_config(config)
        assert resolve_stride(config).model.stride_on == expected
        assert config.model.stride_on == chosen
    for name, expected in (("resnext-50-32x4d", "3x3"), ("resnet-34", "1x1"), ("preact-50", "1x1")):
        assert imagenet.get_config(name).model.stride_on == expected
    assert imagenet_modern.get_config("resnet-50").model.stride_on == "3x3"
    bottleneck = set_model(default_config(), "resnet-164-bottleneck")
    assert bottleneck.model.stride_on == "auto"
    assert create_model(bottleneck.model, 10).stride_on == "1x1"


@pytest.mark.parametrize("stored", ["1x1", "3x3"])
def test_a_run_keeps_its_stride(tmp_path, stored):
    config = make_config("resnet50.pth", stored)
    (tmp_path / CONFIG_FILE).write_text(json.dumps(config.to_dict()))
    given = make_config("resnet50.pth")
    assert check_same_config(tmp_path, given)
    assert resolve_stride(given, tmp_path).model.stride_on == stored
    # A run that begins with the weights of this run.
    assert resolve_stride(make_config(str(tmp_path))).model.stride_on == stored
    assert resolve_stride(make_config(str(tmp_path), "3x3")).model.stride_on == "3x3"
    other = make_config("resnet50.pth", "3x3" if stored == "1x1" else "1x1")
    with pytest.raises(WorkdirError, match=r"model\.stride_on is .* in the workdir"):
        check_same_config(tmp_path, other)


def test_unknown_values_are_refused():
    with pytest.raises(ConfigError, match=r"model\.stride_on must be one of 1x1, 3x3, auto"):
        check_config(make_config(stride_on="2x2"))
