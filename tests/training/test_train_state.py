"""Initial train state: seeds, shapes and scales."""

import jax
import numpy as np

from flaxres.data import load_dataset
from flaxres.training.compiled_steps import CompiledSteps
from flaxres.training.train_state import AUGMENT_STREAM, INIT_STREAM, stream_key


def is_equal(a, b):
    return all(jax.tree.leaves(jax.tree.map(lambda x, y: bool((x == y).all()), a, b)))


def test_parameters_are_a_function_of_the_seed(config):
    dataset = load_dataset(config.dataset)
    first = CompiledSteps(config, dataset).initial_state()
    second = CompiledSteps(config, dataset).initial_state()
    config.seed = 1
    other = CompiledSteps(config, dataset).initial_state()
    assert is_equal(first, second)
    assert not is_equal(first.params["conv"], other.params["conv"])
    assert int(other.seed) == 1


def test_shapes_match_the_initial_state(config):
    compiled_steps = CompiledSteps(config, load_dataset(config.dataset))
    state, shape = compiled_steps.initial_state(), compiled_steps.state_shape
    assert jax.tree.structure(state) == jax.tree.structure(shape)
    for leaf, expected in zip(jax.tree.leaves(state), jax.tree.leaves(shape), strict=True):
        assert (leaf.shape, leaf.dtype) == (expected.shape, expected.dtype)


def test_random_streams_differ():
    keys = [jax.random.key_data(stream_key(0, s)) for s in (INIT_STREAM, AUGMENT_STREAM)]
    assert not np.array_equal(*keys)


def test_gain_of_the_initial_kernels(config):
    dataset = load_dataset(config.dataset)
    unscaled = CompiledSteps(config, dataset).initial_state().params
    config.model.init_gain = 2.0
    scaled = CompiledSteps(config, dataset).initial_state().params
    np.testing.assert_array_equal(scaled["conv"]["kernel"], 2 * unscaled["conv"]["kernel"])
    kernels = [params["stage2_block1"]["conv1"]["kernel"] for params in (unscaled, scaled)]
    np.testing.assert_array_equal(kernels[1], 2 * kernels[0])
    for layer, name in (("dense", "kernel"), ("norm", "scale")):
        np.testing.assert_array_equal(scaled[layer][name], unscaled[layer][name])
