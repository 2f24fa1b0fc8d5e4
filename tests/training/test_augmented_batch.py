"""All augmentation recipes together: (seed, step), devices, streams and resumed runs."""

import jax
import numpy as np
import pytest

from flaxres.run.records import read_metrics
from flaxres.training.augmented_batch import augment_batch, pixel_augmentation
from flaxres.training.steps import DeviceData
from flaxres.training.train import train_and_evaluate
from flaxres.training.train_state import TrainState
from tests.conftest import quick_jit, small_config
from tests.data.jpegs import write_folder
from tests.parallel.test_sharding import assert_close, train
from tests.training.test_input_pipeline import make_config, stop_and_resume
from tests.training.test_train import final_digest, metrics

RECIPES = {
    **{"augment.policy": "randaugment", "augment.policy_magnitude_std": 1.5},
    **{"augment.erasing_probability": 0.5, "augment.cutout": 3},
    **{"augment.mixup": 0.2, "augment.cutmix": 1.0, "augment.mixing_probability": 0.8},
    **{"loss": "binary-cross-entropy", "label_smoothing": 0.1},
}


def with_recipes(config):
    config.update_from_flattened_dict(RECIPES)
    return config


def test_batches_are_functions_of_seed_and_step():
    config = with_recipes(small_config())
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)
    labels = np.arange(8, dtype=np.int32)
    data = jax.device_put(DeviceData.from_images(images, labels, np.zeros(images.shape[1:], "f4")))

    @quick_jit
    def augmented(data, seed, step):
        fields = dict.fromkeys(TrainState.__dataclass_fields__)
        state = TrainState(**{**fields, "seed": seed, "step": step})
        augment_pixels = pixel_augmentation(config)
        batch = data.batch(np.arange(8, dtype=np.int32), lambda x: augment_pixels(state, x))
        return augment_batch(config, state, *batch)

    first, targets = augmented(data, np.uint32(0), np.int32(0))
    again, targets_again = augmented(data, np.uint32(0), np.int32(0))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(targets.weights, targets_again.weights)
    np.testing.assert_array_equal(targets.partner_labels, labels[::-1])
    for seed, step in ((1, 0), (0, 1)):
        assert (augmented(data, np.uint32(seed), np.int32(step))[0] != first).any()


@pytest.fixture(scope="module")
def one_device():
    return train(num_devices=1, **RECIPES)


@pytest.mark.parametrize("parallelism", ["jit", "pmap"])
def test_two_devices_equal_one(one_device, parallelism):
    assert_close(train(num_devices=2, parallelism=parallelism, **RECIPES), one_device)


def test_a_streamed_run_resumes_to_the_bits_of_a_resident_run(tmp_path, monkeypatch):
    folder = write_folder(tmp_path / "folder", sides=(8, 9))
    resident = with_recipes(make_config(folder, "device"))
    resident.log_layers_every = 6
    train_and_evaluate(resident, tmp_path / "resident")
    streamed = with_recipes(make_config(folder))
    streamed.log_layers_every = 6
    stop_and_resume(streamed, tmp_path / "streamed", monkeypatch, 7)
    assert metrics(tmp_path / "streamed") == metrics(tmp_path / "resident")
    digests = [
        final_digest(config, tmp_path / name)
        for config, name in ((streamed, "streamed"), (resident, "resident"))
    ]
    assert digests[0] == digests[1]
    layers = [read_metrics(tmp_path / name, "layers.jsonl") for name in ("streamed", "resident")]
    assert layers[0] == layers[1]


def test_replicas_equal_separate_runs():
    from flaxres.data import load_dataset
    from flaxres.training.compiled_steps import CompiledSteps

    def states(**changes):
        config = with_recipes(small_config())
        config.update(changes)
        dataset = load_dataset(config.dataset)
        steps = CompiledSteps(config, dataset)
        state, arrays = steps.initial_state(), steps.put(dataset.train)
        step = steps.compile_train_steps(state, arrays, 1)
        for i in range(2):
            state, _ = step(state, arrays, steps.indices(i, 1))
        return jax.device_get(state.params)

    both = states(num_replicas=2)
    for replica in range(2):
        one = states(seed=replica)
        jax.tree.map(
            lambda a, b, i=replica: np.testing.assert_allclose(a[i], b, 1e-4, 1e-5), both, one
        )
