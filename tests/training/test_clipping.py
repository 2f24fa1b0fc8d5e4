"""Clipping by the norm of all gradients against PyTorch, and for each replica by itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxres.config import default_config
from flaxres.training.clipping import clip_by_global_norm, logged_gradient_norm
from flaxres.training.optimizer import make_optimizer

GRADIENTS = {"a": {"kernel": np.float32([3.0, 0.0])}, "b": {"bias": np.float32([[4.0]])}}  # norm 5


@pytest.mark.parametrize(("max_norm", "factor"), [(1.0, 0.2), (5.0, 1.0), (6.0, 1.0)])
def test_clipping_by_hand(max_norm, factor):
    clip = clip_by_global_norm(max_norm)
    clipped, state = clip.update(GRADIENTS, clip.init(GRADIENTS))
    expected = jax.tree.map(lambda g: factor * g, GRADIENTS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), clipped, expected)
    assert state.gradient_norm == 5


def test_smaller_gradients_keep_every_bit():
    gradients = {"kernel": jax.random.normal(jax.random.key(0), (100,))}
    clip = clip_by_global_norm(100.0)
    clipped, _ = clip.update(gradients, clip.init(gradients))
    np.testing.assert_array_equal(clipped["kernel"], gradients["kernel"])


def test_clipping_comes_before_weight_decay_as_in_pytorch():
    torch = pytest.importorskip("torch")
    config = default_config()
    config.clip_norm, config.weight_decay = 0.5, 0.1
    optimizer = make_optimizer(config)
    w, rng = np.float32([1.0, -2.0, 3.0]), np.random.default_rng(0)
    torch_param = torch.nn.Parameter(torch.from_numpy(w.copy()))
    sgd = torch.optim.SGD([torch_param], 0.1, momentum=0.9, weight_decay=0.1)
    params = {"kernel": jnp.asarray(w)}
    state = optimizer.init(params)
    for scale in (0.1, 1.0, 10.0):
        gradient = np.float32(scale * rng.normal(size=3))
        torch_param.grad = torch.from_numpy(gradient.copy())
        norm = torch.nn.utils.clip_grad_norm_([torch_param], 0.5)
        sgd.step()
        direction, state = optimizer.update({"kernel": jnp.asarray(gradient)}, state, params)
        params = jax.tree.map(lambda p, d: p - 0.1 * d, params, direction)
        # PyTorch adds 1e-6 to the norm.
        np.testing.assert_allclose(params["kernel"], torch_param.detach().numpy(), rtol=1e-5)
        np.testing.assert_allclose(logged_gradient_norm(state), float(norm), rtol=1e-6)


def test_each_replica_has_a_norm_of_its_own():
    clip = clip_by_global_norm(1.0)
    stacked = jax.tree.map(lambda g: np.stack([g, 0.1 * g]), GRADIENTS)
    states = jax.vmap(clip.init)(stacked)
    clipped, states = jax.vmap(lambda g, s: clip.update(g, s))(stacked, states)
    np.testing.assert_allclose(states.gradient_norm, [5.0, 0.5])
    np.testing.assert_allclose(clipped["a"]["kernel"], [[0.6, 0], [0.3, 0]], rtol=1e-6)


def test_no_norm_is_logged_without_clipping():
    optimizer = make_optimizer(default_config())
    assert logged_gradient_norm(optimizer.init(GRADIENTS)) is None
