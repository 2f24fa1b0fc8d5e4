import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import cifar10
from flaxres.optim import Warmup, decay_mask, learning_rate, make_optimizer


@pytest.mark.parametrize(
    ("step", "rate"),
    [
        (0, 0.1),
        (399, 0.1),
        (400, 0.1),
        (31_999, 0.1),
        (32_000, 0.01),
        (48_000, 1e-3),
        (63_999, 1e-3),
    ],
)
def test_learning_rate_of_the_paper(step, rate):
    config = cifar10.get_config("resnet-56")
    np.testing.assert_allclose(
        learning_rate(config, jnp.int32(step), Warmup.create(config)), rate, rtol=1e-6
    )


def rates(config, errors):
    """Learning rate of each step, where step i misclassifies errors(i) percent of its batch."""
    batch = config.batch_size

    def one(warmup, step):
        rate = learning_rate(config, step, warmup)
        wrong = jnp.float32(errors(step)) / 100 * batch
        return warmup.update(config, step, wrong, jnp.int32(batch)), rate

    _, out = jax.lax.scan(one, Warmup.create(config), jnp.arange(config.num_steps))
    return np.asarray(out)


def test_warm_up_of_resnet_110_ends_with_the_training_error():
    # He15, section 4.2: 0.01 until the training error is under 80%, after about 400 iterations.
    config = cifar10.get_config("resnet-110")
    out = rates(config, lambda step: jnp.where(step < 350, 85.0, 79.0))
    assert config.warmup.window == 50  # so the window of steps 350..399 is the first below 80%
    expected = {0: 0.01, 399: 0.01, 400: 0.1, 31_999: 0.1, 32_000: 0.01, 48_000: 1e-3, 63_999: 1e-3}
    for step, rate in expected.items():
        np.testing.assert_allclose(out[step], rate, rtol=1e-6, err_msg=f"step {step}")


def test_warm_up_never_comes_back():
    config = cifar10.get_config("resnet-110")
    out = rates(config, lambda step: jnp.where((step >= 50) & (step < 100), 79.0, 95.0))
    assert out[99] == np.float32(0.01)
    np.testing.assert_allclose(out[100:32_000], 0.1, rtol=1e-6)


def test_warm_up_ends_even_if_the_error_stays():
    config = cifar10.get_config("resnet-110")
    out = rates(config, lambda step: 90.0)
    last = config.warmup.max_steps
    np.testing.assert_allclose(out[last - 1 : last + 1], [0.01, 0.1], rtol=1e-6)


@pytest.mark.parametrize("net", ["plain-56", "resnet-56", "plain-110"])
def test_other_nets_have_no_warm_up(net):
    assert not cifar10.get_config(net).warmup.enabled


def test_momentum_and_l2_by_hand_across_a_drop_of_the_learning_rate():
    config = cifar10.get_config("resnet-20")
    config.boundaries = (2,)
    config.weight_decay = 0.5
    optimizer = make_optimizer(config)
    params = {"kernel": jnp.array([1.0, -2.0])}
    state = optimizer.init(params)
    w, v = np.array([1.0, -2.0]), np.zeros(2)
    for step, rate in enumerate([0.1, 0.1, 0.01, 0.01]):
        gradient = np.array([step + 1.0, 0.5])
        v = 0.9 * v + (gradient + 0.5 * w)
        w = w - rate * v
        velocity, state = optimizer.update({"kernel": jnp.asarray(gradient)}, state, params)
        lr = learning_rate(config, jnp.int32(step), Warmup.create(config))
        params = jax.tree.map(lambda p, u, lr=lr: p - lr * u, params, velocity)
        np.testing.assert_allclose(params["kernel"], w, rtol=1e-6)


@pytest.mark.parametrize(("decayed", "others"), [("all", 1.0), ("kernels", 0.0)])
def test_what_weight_decay_covers(decayed, others):
    config = cifar10.get_config("resnet-20")
    config.weight_decay_on = decayed
    config.weight_decay = 1.0
    optimizer = make_optimizer(config)
    params = {
        "norm": {"scale": jnp.ones(2), "bias": jnp.ones(2)},
        "block": {"conv": {"kernel": jnp.ones((3, 3, 1, 1))}},
        "dense": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)},
    }
    update, _ = optimizer.update(
        jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params
    )
    expected = jax.tree.map(lambda kernel: 1.0 if kernel else others, decay_mask(params))
    assert jax.tree.map(lambda leaf: float(leaf.ravel()[0]), update) == expected
    assert sum(jax.tree.leaves(decay_mask(params))) == 2
