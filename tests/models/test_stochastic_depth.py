"""Stochastic depth: survival rates, expectation, and independence of devices, remat and scan."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from flaxres.config import check_config, default_config, set_model
from flaxres.errors import ConfigError
from flaxres.models import create_model
from flaxres.models.layers import BATCH_POSITION, FIRST_IMAGE, SHARED_DROPOUT
from flaxres.models.stochastic_depth import StochasticDepth
from tests.conftest import cifar_model, quick_jit
from tests.models.test_remat import batch, random_variables

HUANG = StochasticDepth(0.5, "batch")
TIMM = StochasticDepth(0.5, "image")


def test_survival_rates_of_the_paper_and_of_timm():
    # Huang16, equation 4 and section 4: p_L = 0.5 and L = 54 blocks in ResNet-110.
    rates = HUANG.survival_rates(54)
    np.testing.assert_allclose(rates[[0, 26, 53]], [1 - 1 / 108, 0.75, 0.5], rtol=1e-6)
    # The expected number of blocks is (3 L - 1) / 4 (Huang16, section 3), "about 40" of 54.
    np.testing.assert_allclose(rates.sum(), (3 * 54 - 1) / 4, rtol=1e-6)
    np.testing.assert_allclose(TIMM.survival_rates(5), [1, 0.875, 0.75, 0.625, 0.5])


@pytest.mark.parametrize("depth", [HUANG, TIMM])
def test_blocks_survive_at_their_rates(depth):
    keys = jax.random.split(jax.random.key(0), 10_000)
    factors = np.asarray(depth.draw_factors(keys, 6))
    rates = depth.survival_rates(6)
    # The standard deviation of a rate over 10,000 draws is 0.005 at most.
    np.testing.assert_allclose((factors > 0).mean(0), rates, atol=0.02)
    correlations = np.corrcoef((factors[:, 1:] > 0).T) - np.eye(5)
    assert np.abs(correlations).max() < 0.05
    for block, rate in enumerate(rates):
        kept = 1 if depth is HUANG else 1 / rate
        np.testing.assert_allclose(np.unique(factors[:, block])[-1], kept, rtol=1e-6)


def logits(model, variables, images, key=None, train=True):
    rngs = None if key is None else {"dropout": key}
    output = model.apply(variables, images, train, rngs=rngs, mutable=["batch_stats"])
    return output[0]


@pytest.mark.parametrize("scope", ["batch", "image"])
def test_the_expectation_of_a_linear_model_is_its_evaluation(scope):
    """Only the last block's branch is not zero, so the logits are linear in its factor.

    The sum of that block is positive, which the last ReLU keeps. There is no norm.
    """
    depth = StochasticDepth(0.6, scope)
    model = cifar_model(8, "A", 3, norm="none", pre_activation=True, widths=(4, 4, 4))
    images = jnp.abs(batch(4))
    variables = random_variables(model, images)
    dropped = model.clone(stochastic_depth=depth)
    for name, block in variables["params"].items():
        if name.startswith("stage") and name != "stage3_block1":
            block["conv2"] = jax.tree.map(jnp.zeros_like, block["conv2"])
    variables["params"]["conv"]["kernel"] = jnp.abs(variables["params"]["conv"]["kernel"])
    keys = jax.random.split(jax.random.key(0), 4000)
    call = jax.jit(jax.vmap(lambda key: logits(dropped, variables, images, key)))
    mean = call(keys).mean(0)
    expected = logits(dropped, variables, images, train=False)
    differences = np.abs(logits(model, variables, images) - expected)
    assert (differences.max() > 1e-3) == (scope == "batch")
    np.testing.assert_allclose(mean, expected, rtol=0.02)


def test_image_scope_is_drop_path_of_timm():
    """The same draws give the same branch as `timm.layers.DropPath`, and the same rates."""
    torch = pytest.importorskip("torch")
    from tests.pretrained.torchvision_import import import_torchvision

    import_torchvision()
    timm = pytest.importorskip("timm")
    peer = timm.create_model("resnet18", drop_path_rate=0.5)
    modules = [block.drop_path for stage in range(1, 5) for block in getattr(peer, f"layer{stage}")]
    drop_rates = [0.0 if module is None else module.drop_prob for module in modules]
    np.testing.assert_allclose(TIMM.survival_rates(8), 1 - np.array(drop_rates), rtol=1e-6)
    branch = torch.ones(50, 1, 1, 1)
    values = np.unique(modules[-1].train()(branch).numpy())
    factors = TIMM.draw_factors(jax.random.split(jax.random.key(0), 50), 8)
    np.testing.assert_allclose(np.unique(factors[:, -1]), values, rtol=1e-6)
    assert modules[-1].eval()(branch).numpy().all()
    assert TIMM.evaluation_factors(8) is None


@pytest.mark.parametrize(
    ("fields", "scope", "num_layers"),
    [({"remat": True}, "batch", 8), ({"remat": True, "scan": True}, "image", 20)],
)
def test_remat_and_scan_do_not_change_the_gradients(fields, scope, num_layers):
    images, depth = batch(), StochasticDepth(0.5, scope)
    plain = cifar_model(num_layers, "A", 3, stochastic_depth=depth, widths=(4, 4, 8))
    variables = random_variables(plain, images)

    def gradients(model):
        def loss(params):
            return jnp.sum(
                logits(model, {**variables, "params": params}, images, jax.random.key(3)) ** 2
            )

        return quick_jit(jax.grad(loss))(variables["params"])

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, 0, 1e-4 * (np.abs(b).max() + 1e-3)),
        gradients(plain.clone(**fields)),
        gradients(plain),
    )


@pytest.mark.parametrize("scope", ["batch", "image"])
def test_draws_do_not_depend_on_the_number_of_devices(scope):
    images, depth = batch(), StochasticDepth(0.5, scope)
    model = cifar_model(8, "A", 3, stochastic_depth=depth, widths=(4, 4, 8))
    variables = random_variables(model, images)
    sharded_model = model.clone(axis="data")
    key = jax.random.key(5)

    def step(images):
        device = jax.lax.axis_index("data")
        rngs = {"dropout": jax.random.fold_in(key, device), SHARED_DROPOUT: key}
        inputs = {**variables, BATCH_POSITION: {FIRST_IMAGE: device * len(images)}}
        return sharded_model.apply(inputs, images, True, rngs=rngs, mutable=["batch_stats"])[0]

    mesh, sharded = Mesh(np.array(jax.devices()[:2]), ("data",)), PartitionSpec("data")
    mapped = jax.shard_map(step, mesh=mesh, in_specs=sharded, out_specs=sharded, check_vma=False)
    expected = jax.jit(lambda x: logits(model, variables, x, key))(images)
    np.testing.assert_allclose(jax.jit(mapped)(images), expected, rtol=1e-4, atol=1e-5)


def model_config(**fields):
    config = set_model(default_config(), "resnet-20", "cifar")
    config.model.update(fields)
    return config


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"drop_path": 1.0}, "model.drop_path must be at least 0 and below 1, got 1.0"),
        (
            {"drop_path": 0.1, "drop_path_scope": "layer"},
            "drop_path_scope must be one of batch, image",
        ),
        ({"name": "plain", "shortcut": "none", "drop_path": 0.1}, "0 for a model without shortc"),
    ],
)
def test_refused_fields(fields, message):
    with pytest.raises(ConfigError, match=message):
        check_config(model_config(**fields))


@pytest.mark.parametrize("name", ["resnet-8", "convnext-13"])
def test_fields_reach_the_model(name):
    config = set_model(default_config(), name, "cifar")
    config.model.update({"drop_path": 0.9, "drop_path_scope": "image"})
    check_config(config)
    model = create_model(config.model, 10)
    assert model.stochastic_depth == StochasticDepth(0.9, "image")
    variables = random_variables(model, batch())
    dropped, kept = (
        quick_jit(lambda variables, m=m: logits(m, variables, batch(), jax.random.key(0)))(
            variables
        )
        for m in (model, model.clone(stochastic_depth=StochasticDepth()))
    )
    assert not np.allclose(dropped, kept)
