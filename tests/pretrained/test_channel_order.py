"""Shortcuts that pad on both sides: logits compared with PyTorch modules of both kinds."""

import functools

import jax
import numpy as np
import pytest

from flaxres.config import default_config, set_model
from flaxres.errors import ConfigError
from flaxres.models import create_model
from flaxres.pretrained.channel_order import channel_orders
from flaxres.pretrained.torch_state_dict import convert
from tests.conftest import quick_jit

torch = pytest.importorskip("torch", reason="pip install torch==2.13.0")
from tests.models import torch_models  # noqa: E402

PADDINGS = ("both-sides", "end")


def make_model(name, **fields):
    """Returns the config of a model, a function to its logits, and the shapes of its variables."""
    config = set_model(default_config(), name).model
    config.update(fields)
    model = create_model(config, 10)
    images = np.zeros((1, 16, 16, 3), np.float32)
    shapes = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), images)
    return config, quick_jit(functools.partial(model.apply, train=False)), shapes


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("resnet-8", {}),
        ("resnet-20", {"widths": (6, 12, 24)}),
        ("resnet-8", {"widths": (4, 4, 8)}),
        ("resnet-11-bottleneck-A", {"widths": (2, 4, 8), "stride_on": "3x3"}),
    ],
)
def test_logits_with_both_paddings(name, fields):
    config, apply, shapes = make_model(name, **fields)
    images = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
    for padding in PADDINGS:
        torch.manual_seed(0)
        theirs = torch_models.randomize(torch_models.build(config, 10, 16, padding))
        with torch.no_grad():
            expected = theirs(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
        weights = {key: value.numpy() for key, value in theirs.state_dict().items()}
        largest = np.abs(expected).max()
        for given in PADDINGS:
            variables = convert(weights, shapes, config, shortcut_padding=given)
            error = np.abs(apply(variables, images) - expected).max() / largest
            assert error < 1e-4 if given == padding else error > 0.05, (padding, given, error)


def test_order_worked_out_by_hand():
    config = set_model(default_config(), "resnet-8").model
    config.widths = (2, 4, 8)
    orders = channel_orders(config)
    # Stage 2 has the two channels of stage 1 at places 1 and 2, and zeros at 0 and 3. Stage 3 has
    # these four at places 2 to 5.
    expected = [[0, 1], [0, 1], [1, 2, 0, 3], [3, 4, 2, 5, 0, 1, 6, 7]]
    assert [order.tolist() for order in orders] == expected


@pytest.mark.parametrize("shortcut", ["A", "scale", "dropout"])
def test_padding_is_asked_for_and_checked(shortcut):
    config, _, shapes = make_model("resnet-8", shortcut=shortcut, widths=(5, 10, 20))
    with pytest.raises(ConfigError, match=r"transfer\.shortcut_padding must be both-sides .* end"):
        convert({}, shapes, config)
    message = r"must be end if a stage adds an odd .* for 5 channels that become 10$"
    with pytest.raises(ConfigError, match=message):
        convert({}, shapes, config, shortcut_padding="both-sides")


@pytest.mark.parametrize(
    "fields",
    [{"shortcut": "exclusive-gate"}, {"shortcut": "concat"}, {"branch_scale": "scalar"}],
)
def test_models_without_known_names(fields):
    config, _, shapes = make_model("resnet-8", **fields)
    ((field, value),) = fields.items()
    with pytest.raises(ConfigError, match=rf"model\.{field}='{value}' are unknown"):
        convert({}, shapes, config, shortcut_padding="end")
