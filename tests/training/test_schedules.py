"""Learning-rate schedules against optax, PyTorch and computations by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flaxres.config import default_config
from flaxres.training.schedules import scheduled_learning_rate

STEPS = 100


def schedule(name, **fields):
    """Returns the learning rates of the 100 steps of a run, and that of the step after them."""
    config = default_config()
    config.update({"num_steps": STEPS, "learning_rate": 0.4, "schedule": name})
    config.update_from_flattened_dict(fields)
    values = jax.vmap(lambda step: scheduled_learning_rate(config, step))(jnp.arange(STEPS + 1))
    return np.asarray(values)


@pytest.mark.parametrize(("final", "rise"), [(0.0, 0.3), (0.4 / 25 / 100, 0.25), (0.04, 0.305)])
def test_one_cycle_matches_optax(final, rise):
    fields = {"final_learning_rate": final, "one_cycle.rise_fraction": rise}
    actual = schedule("one-cycle", **fields)
    final_divisor = 0.4 / 25 / final if final else 1e30
    reference = optax.cosine_onecycle_schedule(STEPS, 0.4, rise, 25, final_divisor)
    expected = [float(reference(step)) for step in range(STEPS + 1)]
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-7)


def test_one_cycle_matches_pytorch():
    # PyTorch places the first and last step at both ends, so it has one interval fewer.
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.1)
    reference = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.4, total_steps=STEPS + 1, pct_start=31 / 101, cycle_momentum=False
    )
    expected = []
    for _ in range(STEPS):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step()
    final = 0.4 / 25 / 1e4
    actual = schedule("one-cycle", final_learning_rate=final)
    np.testing.assert_allclose(actual[:-1], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_polynomial_matches_optax(power):
    fields = {"polynomial_power": power, "final_learning_rate": 0.01, "linear_warmup_steps": 10}
    actual = schedule("polynomial", **fields)
    reference = optax.polynomial_schedule(0.4, 0.01, power, STEPS - 10, transition_begin=10)
    expected = [float(reference(step)) for step in range(STEPS + 1)]
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_a_cosine_with_a_final_learning_rate_matches_optax():
    actual = schedule("cosine", final_learning_rate=0.1)
    reference = optax.cosine_decay_schedule(0.4, STEPS, alpha=0.25)
    expected = [float(reference(step)) for step in range(STEPS + 1)]
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("shape", "final", "expected"),
    [
        ("linear", 0.0, {80: 0.4, 85: 0.3, 90: 0.2, 99: 0.02, 100: 0.0}),
        ("linear", 0.2, {80: 0.4, 90: 0.3, 100: 0.2}),
        ("1-sqrt", 0.0, {80: 0.4, 85: 0.2, 90: 0.4 * (1 - 0.5**0.5), 100: 0.0}),
        ("1-sqrt", 0.2, {85: 0.3, 100: 0.2}),
    ],
)
def test_warmup_stable_decay(shape, final, expected):
    fields = {"cooldown_steps": 20, "cooldown_shape": shape, "final_learning_rate": final}
    actual = schedule("wsd", **fields)
    np.testing.assert_allclose(actual[:80], 0.4)
    for step, value in expected.items():
        np.testing.assert_allclose(actual[step], value, rtol=1e-5, atol=1e-7)
