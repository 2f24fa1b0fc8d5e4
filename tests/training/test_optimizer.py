"""Optimizer and learning-rate schedules against the paper, computations by hand and PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flaxres.config import default_config
from flaxres.configs import cifar10
from flaxres.training.optimizer import (
    Warmup,
    describe_unreached_boundaries,
    kernel_mask,
    learning_rate,
    make_optimizer,
)
from tests.pretrained.torchvision_import import import_torchvision


@pytest.mark.parametrize(
    ("step", "expected"),
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
def test_learning_rate_of_the_paper(step, expected):
    config = cifar10.get_config("resnet-56")
    np.testing.assert_allclose(
        learning_rate(config, jnp.int32(step), Warmup.create(config)), expected, rtol=1e-6
    )


def learning_rates(config, errors):
    """Returns the learning rate of each step if step i misclassifies errors(i) percent."""
    batch_size = config.batch_size

    def run_step(warmup, step):
        value = learning_rate(config, step, warmup)
        wrong = jnp.float32(errors(step)) / 100 * batch_size
        return warmup.update(config, step, wrong, jnp.int32(batch_size)), value

    _, values = jax.lax.scan(run_step, Warmup.create(config), jnp.arange(config.num_steps))
    return np.asarray(values)


def test_warm_up_of_resnet_110_ends_at_the_training_error():
    # He15, section 4.2: 0.01 until the training error is under 80%, after about 400 iterations.
    config = cifar10.get_config("resnet-110")
    values = learning_rates(config, lambda step: jnp.where(step < 350, 85.0, 79.0))
    assert config.warmup.window == 50  # so the window of steps 350..399 is the first below 80%
    expected = {0: 0.01, 399: 0.01, 400: 0.1, 31_999: 0.1, 32_000: 0.01, 48_000: 1e-3, 63_999: 1e-3}
    for step, value in expected.items():
        np.testing.assert_allclose(values[step], value, rtol=1e-6, err_msg=f"step {step}")


def test_warm_up_ends_for_good():
    config = cifar10.get_config("resnet-110")
    values = learning_rates(config, lambda step: jnp.where((step >= 50) & (step < 100), 79.0, 95.0))
    assert values[99] == np.float32(0.01)
    np.testing.assert_allclose(values[100:32_000], 0.1, rtol=1e-6)


def test_warm_up_ends_after_its_maximum_number_of_steps():
    config = cifar10.get_config("resnet-110")
    values = learning_rates(config, lambda step: 90.0)
    max_steps = config.warmup.max_steps
    np.testing.assert_allclose(values[max_steps - 1 : max_steps + 1], [0.01, 0.1], rtol=1e-6)


@pytest.mark.parametrize("model", ["plain-56", "resnet-56", "plain-110"])
def test_other_models_have_no_warm_up(model):
    assert not cifar10.get_config(model).warmup.enabled


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


def learning_rate_at(step, **fields):
    """Returns the learning rate of one step of a run of 100 steps, starting at 0.4."""
    config = cifar10.get_config("resnet-20")
    base = {"num_steps": 100, "learning_rate": 0.4, "boundaries": (50, 75)}
    config.update_from_flattened_dict(base | fields)
    return float(learning_rate(config, jnp.int32(step), Warmup.create(config)))


@pytest.mark.parametrize(
    ("step", "warmup_steps", "expected"),
    [
        (0, 0, 0.4),
        (25, 0, 0.2 * (1 + np.sqrt(0.5))),
        (50, 0, 0.2),
        (99, 0, 0.2 * (1 + np.cos(0.99 * np.pi))),
        (0, 10, 0.04),
        (4, 10, 0.2),
        (9, 10, 0.4),
        (10, 10, 0.4),
        (40, 10, 0.3),  # a third of the way: 1/2 * (1 + cos 60 degrees) = 3/4
        (55, 10, 0.2),
        (99, 10, 0.2 * (1 + np.cos(89 / 90 * np.pi))),
    ],
)
def test_cosine_with_and_without_a_linear_warm_up(step, warmup_steps, expected):
    actual = learning_rate_at(step, schedule="cosine", linear_warmup_steps=warmup_steps)
    np.testing.assert_allclose(actual, expected, rtol=1e-4)


def test_the_cosine_ends_at_zero():
    assert learning_rate_at(100, schedule="cosine", linear_warmup_steps=7) == pytest.approx(
        0, abs=1e-7
    )


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 0.02), (9, 0.2), (19, 0.4), (20, 0.4), (49, 0.4), (50, 0.04), (75, 4e-3), (99, 4e-3)],
)
def test_piecewise_constant_with_a_linear_warm_up(step, expected):
    np.testing.assert_allclose(learning_rate_at(step, linear_warmup_steps=20), expected, rtol=1e-6)


def test_a_boundary_within_the_linear_warm_up_applies_at_its_step():
    actual = [learning_rate_at(step, boundaries=(2,), linear_warmup_steps=4) for step in range(5)]
    np.testing.assert_allclose(actual, [0.1, 0.2, 0.03, 0.04, 0.04], rtol=1e-6)


def test_the_warm_up_by_training_error_overrides_the_cosine():
    fields = {"schedule": "cosine", "warmup.enabled": True}
    assert learning_rate_at(50, **fields) == pytest.approx(0.01)


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


@pytest.mark.parametrize(
    ("schedule", "boundaries", "num_steps", "expected"),
    [
        (
            *("piecewise-constant", (150, 225), 40),
            "the boundaries (150, 225) are not below num_steps (40), so the learning rate is never "
            "lowered",
        ),
        (
            *("piecewise-constant", (150, 225), 225),
            "the boundary 225 is not below num_steps (225), so the learning rate is lowered only "
            "at 150",
        ),
        ("piecewise-constant", (150, 225), 226, None),
        ("piecewise-constant", (), 40, None),
        ("cosine", (150, 225), 40, None),
    ],
)
def test_boundaries_that_are_not_reached(schedule, boundaries, num_steps, expected):
    config = cifar10.get_config("resnet-20")
    config.update({"schedule": schedule, "boundaries": boundaries, "num_steps": num_steps})
    assert describe_unreached_boundaries(config) == expected
