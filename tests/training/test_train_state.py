import jax
import numpy as np

from flaxres.data import load_dataset
from flaxres.training.compiled_steps import CompiledSteps
from flaxres.training.train_state import AUGMENT_STREAM, INIT_STREAM, stream_key


def same(a, b):
    return all(jax.tree.leaves(jax.tree.map(lambda x, y: bool((x == y).all()), a, b)))


def test_parameters_are_a_function_of_the_seed(config):
    dataset = load_dataset(config.dataset)
    first = CompiledSteps(config, dataset).initial_state()
    again = CompiledSteps(config, dataset).initial_state()
    config.seed = 1
    other = CompiledSteps(config, dataset).initial_state()
    assert same(first, again)
    assert not same(first.params["conv"], other.params["conv"])
    assert int(other.seed) == 1


def test_shapes_are_known_without_computing(config):
    compiled_steps = CompiledSteps(config, load_dataset(config.dataset))
    state, shape = compiled_steps.initial_state(), compiled_steps.state_shape
    assert jax.tree.structure(state) == jax.tree.structure(shape)
    for leaf, expected in zip(jax.tree.leaves(state), jax.tree.leaves(shape), strict=True):
        assert (leaf.shape, leaf.dtype) == (expected.shape, expected.dtype)


def test_streams_differ():
    keys = [jax.random.key_data(stream_key(0, s)) for s in (INIT_STREAM, AUGMENT_STREAM)]
    assert not np.array_equal(*keys)


def test_a_gain_of_the_initial_kernels(config):
    dataset = load_dataset(config.dataset)
    one = CompiledSteps(config, dataset).initial_state().params
    config.model.init_gain = 2.0
    two = CompiledSteps(config, dataset).initial_state().params
    np.testing.assert_array_equal(two["conv"]["kernel"], 2 * one["conv"]["kernel"])
    block = [params["stage2_block1"]["conv1"]["kernel"] for params in (one, two)]
    np.testing.assert_array_equal(block[1], 2 * block[0])
    for layer, name in (("dense", "kernel"), ("norm", "scale")):
        np.testing.assert_array_equal(two[layer][name], one[layer][name])
