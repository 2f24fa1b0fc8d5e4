"""Optimizers against computations by hand, optax, PyTorch and timm."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flaxres.config import default_config
from flaxres.configs import cifar10
from flaxres.training.learning_rate import Warmup, learning_rate
from flaxres.training.optimizer import kernel_mask, make_optimizer
from tests.pretrained.torchvision_import import import_torchvision


def test_momentum_and_weight_decay_by_hand_across_a_drop_of_the_learning_rate():
    config = cifar10.get_config("resnet-20")
    config.boundaries = (2,)
    config.weight_decay = 0.5
    optimizer = make_optimizer(config)
    params = {"kernel": jnp.array([1.0, -2.0])}
    state = optimizer.init(params)
    w, v = np.array([1.0, -2.0]), np.zeros(2)
    for step, expected_rate in enumerate([0.1, 0.1, 0.01, 0.01]):
        gradient = np.array([step + 1.0, 0.5])
        v = 0.9 * v + (gradient + 0.5 * w)
        w = w - expected_rate * v
        velocity, state = optimizer.update({"kernel": jnp.asarray(gradient)}, state, params)
        lr = learning_rate(config, jnp.int32(step), Warmup.create(config))
        params = jax.tree.map(lambda p, u, lr=lr: p - lr * u, params, velocity)
        np.testing.assert_allclose(params["kernel"], w, rtol=1e-6)


@pytest.mark.parametrize(("decayed", "others"), [("all", 1.0), ("kernels", 0.0)])
def test_weight_decay_applies_to_all_parameters_or_kernels(decayed, others):
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
    expected = jax.tree.map(lambda kernel: 1.0 if kernel else others, kernel_mask(params))
    assert jax.tree.map(lambda leaf: float(leaf.ravel()[0]), update) == expected
    assert sum(jax.tree.leaves(kernel_mask(params))) == 2


# Parameters with a norm, a bias and a branch scale, as models have them.
MIXED = {
    "conv": {"kernel": (3, 3, 2, 4)},
    "norm": {"scale": (4,), "bias": (4,)},
    "branch_scale": (),
    "dense": {"kernel": (4, 3), "bias": (3,)},
}


def train_mixed(config, optimizer=None, steps=4):
    """Returns `MIXED` after some steps with random gradients.

    The learning rate is 0.1. It is applied here, or by `optimizer` if one is given.
    """
    rng = np.random.default_rng(0)

    def draw():
        return jax.tree.map(
            lambda shape: np.float32(rng.normal(size=shape)),
            MIXED,
            is_leaf=lambda leaf: isinstance(leaf, tuple),
        )

    params = draw()
    ours = make_optimizer(config) if optimizer is None else optimizer
    state, update = ours.init(params), jax.jit(ours.update)
    for _ in range(steps):
        direction, state = update(draw(), state, params)
        scale = -0.1 if optimizer is None else 1
        params = jax.tree.map(lambda w, d, scale=scale: w + scale * d, params, direction)
    return params


@pytest.mark.parametrize("decayed", ["all", "kernels"])
@pytest.mark.parametrize("name", ["adamw", "lars", "lars-nesterov", "lamb"])
def test_optimizers_match_optax(name, decayed):
    # At a constant learning rate, it makes no difference that LARS has it inside the velocity.
    config = default_config()
    config.optimizer = name.partition("-")[0]
    config.nesterov = name.endswith("nesterov")
    config.weight_decay_on, config.weight_decay = decayed, 0.05
    config.trust_ratio.parameters = decayed
    mask = kernel_mask if decayed == "kernels" else None
    if name == "adamw":
        config.adam.beta1, config.adam.beta2, config.adam.epsilon = 0.8, 0.95, 1e-6
        expected = optax.adamw(0.1, 0.8, 0.95, 1e-6, weight_decay=0.05, mask=mask)
    elif name == "lamb":
        expected = optax.lamb(0.1, eps=1e-8, weight_decay=0.05, mask=mask)
        if mask:  # optax.lamb has no mask for the ratio of norms
            expected = optax.chain(
                optax.scale_by_adam(),
                optax.add_decayed_weights(0.05, mask),
                optax.masked(optax.scale_by_trust_ratio(), mask),
                optax.scale(-0.1),
            )
    else:
        config.trust_ratio.coefficient = 0.02
        all_parameters = {"weight_decay_mask": True, "trust_ratio_mask": True}
        masks = {key: mask or value for key, value in all_parameters.items()}
        expected = optax.lars(0.1, 0.05, trust_coefficient=0.02, nesterov=config.nesterov, **masks)
    actual, reference = train_mixed(config), train_mixed(config, expected)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), actual, reference
    )


def test_adamw_matches_pytorch():
    torch = pytest.importorskip("torch")
    config = default_config()
    config.optimizer, config.weight_decay = "adamw", 0.1
    optimizer, rng = make_optimizer(config), np.random.default_rng(0)
    w = rng.normal(size=5).astype(np.float32)
    torch_param = torch.nn.Parameter(torch.from_numpy(w.copy()))
    adamw = torch.optim.AdamW([torch_param], 0.1, weight_decay=0.1)
    params = {"kernel": jnp.asarray(w)}
    state = optimizer.init(params)
    for _ in range(4):
        gradient = rng.normal(size=5).astype(np.float32)
        torch_param.grad = torch.from_numpy(gradient)
        adamw.step()
        direction, state = optimizer.update({"kernel": jnp.asarray(gradient)}, state, params)
        params = jax.tree.map(lambda p, d: p - 0.1 * d, params, direction)
    np.testing.assert_allclose(params["kernel"], torch_param.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_lamb_with_clipping_matches_timm():
    """Parameters without weight decay have no ratio of norms; the gradient is clipped to 1."""
    torch = pytest.importorskip("torch")
    import_torchvision()
    lamb = pytest.importorskip("timm.optim.lamb").Lamb
    config = default_config()
    config.optimizer, config.weight_decay, config.weight_decay_on = "lamb", 0.1, "kernels"
    config.clip_norm, config.adam.epsilon = 1.0, 1e-6
    optimizer, rng = make_optimizer(config), np.random.default_rng(0)
    params = {name: np.float32(rng.normal(size=5)) for name in ("bias", "kernel")}
    theirs = {name: torch.nn.Parameter(torch.from_numpy(w.copy())) for name, w in params.items()}
    groups = [
        {"params": [theirs["bias"]], "weight_decay": 0.0},
        {"params": [theirs["kernel"]], "weight_decay": 0.1},
    ]
    reference, state = lamb(groups, lr=0.1), optimizer.init(params)
    for scale in (0.1, 1.0, 1.0):
        gradients = {name: np.float32(scale * rng.normal(size=5)) for name in params}
        for name, gradient in gradients.items():
            theirs[name].grad = torch.from_numpy(gradient)
        reference.step()
        direction, state = optimizer.update(gradients, state, params)
        params = jax.tree.map(lambda w, d: w - 0.1 * d, params, direction)
        for name, w in params.items():
            expected = theirs[name].detach().numpy()
            np.testing.assert_allclose(w, expected, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("name", ["lars", "lamb"])
def test_the_ratio_of_norms_by_hand(name):
    """One step: kernels move by a fixed fraction of their norm, other parameters do not."""
    config = default_config()
    config.optimizer, config.weight_decay = name, 0.0
    if name == "lars":
        config.trust_ratio.coefficient = 1.0
    optimizer = make_optimizer(config)
    params = {"kernel": jnp.float32([3.0, 4.0]), "bias": jnp.float32([3.0, 4.0])}
    gradients = {"kernel": jnp.float32([0.0, 7.0]), "bias": jnp.float32([0.0, 7.0])}
    direction, _ = optimizer.update(gradients, optimizer.init(params), params)
    np.testing.assert_allclose(direction["kernel"], [0.0, 5.0], rtol=1e-5)
    expected = 7.0 if name == "lars" else 1.0  # Adam's first step is the sign of the gradient
    np.testing.assert_allclose(direction["bias"], [0.0, expected], rtol=1e-5)


def test_lars_applies_the_learning_rate_after_the_momentum():
    """A drop of the learning rate scales the whole velocity, in contrast to `optax.lars`."""
    config = default_config()
    config.optimizer, config.weight_decay = "lars", 0.0
    config.trust_ratio.coefficient = 1.0
    optimizer = make_optimizer(config)
    params, gradients = {"kernel": jnp.ones(1)}, {"kernel": jnp.ones(1)}
    state, w = optimizer.init(params), 1.0
    for rate, expected_velocity in ((0.5, 1.0), (0.05, 0.9 + 0.5)):
        direction, state = optimizer.update(gradients, state, params)
        np.testing.assert_allclose(direction["kernel"], expected_velocity, rtol=1e-6)
        w -= rate * expected_velocity
        params = {"kernel": params["kernel"] - rate * direction["kernel"]}
    np.testing.assert_allclose(params["kernel"], w, rtol=1e-6)


def test_the_state_of_sgd_has_its_former_structure():
    config = default_config()
    params = {"dense": {"kernel": jnp.ones(2)}}
    state = make_optimizer(config).init(params)
    assert state == (
        optax.EmptyState(),
        optax.TraceState({"dense": {"kernel": state[1].trace["dense"]["kernel"]}}),
    )


@pytest.mark.parametrize("nesterov", [False, True])
def test_steps_match_pytorch(nesterov):
    torch = pytest.importorskip("torch")
    config = cifar10.get_config("resnet-20")
    config.nesterov, config.weight_decay = nesterov, 0.1
    optimizer = make_optimizer(config)
    rng = np.random.default_rng(0)
    w = rng.normal(size=5).astype(np.float32)
    torch_param = torch.nn.Parameter(torch.from_numpy(w.copy()))
    sgd = torch.optim.SGD([torch_param], 0.1, momentum=0.9, weight_decay=0.1, nesterov=nesterov)
    params = {"kernel": jnp.asarray(w)}
    state = optimizer.init(params)
    for _ in range(3):
        gradient = rng.normal(size=5).astype(np.float32)
        torch_param.grad = torch.from_numpy(gradient)
        sgd.step()
        velocity, state = optimizer.update({"kernel": jnp.asarray(gradient)}, state, params)
        params = jax.tree.map(lambda p, v: p - 0.1 * v, params, velocity)
        np.testing.assert_allclose(
            params["kernel"], torch_param.detach().numpy(), rtol=1e-5, atol=1e-6
        )
