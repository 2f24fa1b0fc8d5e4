"""Learning rates with warm-ups against the paper and computations by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxres.configs import cifar10
from flaxres.training.learning_rate import Warmup, describe_unreached_boundaries, learning_rate


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
