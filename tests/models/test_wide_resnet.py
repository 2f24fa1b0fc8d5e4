"""Wide ResNets: logits of an independent implementation, and dropout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxres.config import check_config, default_config, set_model
from flaxres.errors import ConfigError
from flaxres.models import create_model
from flaxres.models.layers import BATCH_POSITION, FIRST_IMAGE
from flaxres.models.wide_resnet import drop_values
from tests.conftest import init, quick_jit
from tests.models.trained_values import with_trained_norms


def wide_resnet(name="wrn-10-1", **fields):
    config = set_model(default_config(), name)
    config.model.update(fields)
    check_config(config)
    return create_model(config.model, 10)


def images(count=4):
    return np.random.default_rng(0).normal(size=(count, 16, 16, 3)).astype(np.float32)


@pytest.mark.parametrize(("name", "depth", "factor"), [("wrn-16-2", 16, 2), ("wrn-10-1", 10, 1)])
def test_logits_equal_those_of_the_authors_network(name, depth, factor):
    """A factor of 1 has no projection in the first stage."""
    torch = pytest.importorskip("torch")
    from tests.models.torch_models import WideResNet

    model = wide_resnet(name)
    variables = with_trained_norms(jax.device_get(init(model, images())))
    peer = WideResNet(depth, factor, 10).load(variables).eval()
    with torch.no_grad():
        expected = peer(torch.from_numpy(images()).permute(0, 3, 1, 2)).numpy()
    logits = quick_jit(lambda x: model.apply(variables, x, False))(images())
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_dropped_values_and_their_expectation():
    keys = jax.random.split(jax.random.key(0), 8)
    dropped = drop_values(keys, jnp.ones((8, 16, 16, 8)), 0.3)
    np.testing.assert_allclose(np.unique(dropped), [0, 1 / 0.7], rtol=1e-6)
    # The standard deviation of the mean over 16,384 values is 0.005.
    assert dropped.mean() == pytest.approx(1, abs=0.02)
    assert len(np.unique(dropped.reshape(8, -1), axis=0)) == 8


def test_dropout_is_off_in_evaluation_and_does_not_depend_on_devices():
    model, plain = wide_resnet(block_dropout=0.3), wide_resnet()
    variables = init(plain, images())
    assert jax.tree.structure(init(model, images())) == jax.tree.structure(variables)

    def logits(model, x, first=0, train=True):
        position = {} if first is None else {BATCH_POSITION: {FIRST_IMAGE: first}}
        rngs = {"dropout": jax.random.key(1)}
        # Running statistics in training, so that an image's logits depend on no other image.
        frozen = model.clone(frozen=("backbone",))
        call = quick_jit(lambda v, x: frozen.apply(v, x, train, rngs=rngs))
        return call({**variables, **position}, x)

    whole = logits(model, images(), first=None)
    np.testing.assert_allclose(logits(model, images()[2:], first=2), whole[2:], rtol=1e-5)
    assert np.abs(whole - logits(plain, images())).max() > 1e-2
    evaluated = logits(model, images(), train=False)
    np.testing.assert_array_equal(evaluated, logits(plain, images(), train=False))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"block_dropout": 1.0}, "model.block_dropout must be at least 0 and below 1, got 1.0"),
        ({"block_dropout": 0.3, "remat": True}, "model.remat must be false with model.block_dr"),
        ({"block": "bottleneck"}, "model.block must be basic in a Wide ResNet, got 'bottleneck'"),
        ({"depth": 28 - 2}, r"depth must be 6n\+4 \(10, 16, 22, 28, ...\), got 26"),
    ],
)
def test_fields_that_describe_no_model(fields, message):
    with pytest.raises(ConfigError, match=message):
        wide_resnet("wrn-28-10", **fields)
