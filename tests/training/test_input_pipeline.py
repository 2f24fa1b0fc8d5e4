"""Runs with streamed images against runs whose images are all on the devices."""

import os
import re
import signal

import numpy as np
import pytest

from flaxres.data import open_dataset
from flaxres.errors import ConfigError, DatasetError, InterruptedRunError
from flaxres.run.records import read_metrics
from flaxres.training.compiled_steps import CompiledSteps
from flaxres.training.dispatches import next_dispatch_size
from flaxres.training.stream_pipeline import StreamPipeline
from flaxres.training.train import train_and_evaluate
from tests.conftest import small_config
from tests.data.jpegs import write_folder
from tests.training.test_train import final_digest, metrics


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("folder"), sides=(8, 9))


BROKEN_EXIF = b"\xff\xe1\x00\x0cExif\0\0no"


def make_config(folder, placement="stream"):
    config = small_config()
    config.dataset.name, config.dataset.data_dir = "folder", str(folder)
    config.dataset.placement, config.dataset.workers = placement, 0
    config.augment.pad, config.eval_batch_size = 1, 8
    config.num_steps, config.boundaries = 12, (6, 9)
    config.log_every, config.eval_every, config.checkpoint_every = 4, 6, 12
    return config


@pytest.fixture(scope="module")
def resident(folder, tmp_path_factory):
    """Trains with all images on the device; returns records, final digest and layer records."""
    workdir = tmp_path_factory.mktemp("resident")
    config = make_config(folder, "device")
    config.log_layers_every = 6
    train_and_evaluate(config, workdir)
    assert "data_wait_percent" not in read_metrics(workdir)[-1]
    return metrics(workdir), final_digest(config, workdir), read_metrics(workdir, "layers.jsonl")


def stop_at(monkeypatch, step):
    """Sends SIGTERM to this process when the inputs of the steps up to `step` are requested."""
    next_inputs, sent = StreamPipeline.next, []

    def wrapped(self, start, num_steps):
        if start + num_steps == step and not sent:
            sent.append(step)
            os.kill(os.getpid(), signal.SIGTERM)
        return next_inputs(self, start, num_steps)

    monkeypatch.setattr(StreamPipeline, "next", wrapped)


def test_a_streamed_run_equals_a_resident_run(tmp_path, folder, resident):
    config = make_config(folder)
    config.log_layers_every = 6
    train_and_evaluate(config, tmp_path)
    records, digest, layers = resident
    assert metrics(tmp_path) == records
    assert final_digest(config, tmp_path) == digest
    assert read_metrics(tmp_path, "layers.jsonl") == layers
    assert "data_wait_percent" in read_metrics(tmp_path)[-1]


def stop_and_resume(config, workdir, monkeypatch, step, workers=0):
    """Trains with a stop after `step` steps, then with `workers` decode workers."""
    with monkeypatch.context() as patch:
        stop_at(patch, step)
        with pytest.raises(InterruptedRunError, match=f"Stopped at step {step}"):
            train_and_evaluate(config, workdir)
    config.dataset.workers = workers
    train_and_evaluate(config, workdir)


def test_a_streamed_run_resumes_bit_for_bit(tmp_path, folder, resident, monkeypatch):
    """Resumes in the middle of an epoch of 45 images, with another number of workers."""
    config = make_config(folder)
    config.log_layers_every = 6
    stop_and_resume(config, tmp_path, monkeypatch, 7, workers=2)
    assert metrics(tmp_path) == resident[0]
    assert final_digest(config, tmp_path) == resident[1]


@pytest.fixture(scope="module")
def on_two_devices(folder, tmp_path_factory):
    """Returns the records of a resident run on two devices, with two steps per dispatch."""
    workdir = tmp_path_factory.mktemp("two")
    train_and_evaluate(two_devices(folder, "device"), workdir)
    return metrics(workdir)


def two_devices(folder, placement):
    config = make_config(folder, placement)
    config.num_devices = config.steps_per_dispatch = 2
    config.eval_batch_size = 7  # not a multiple of two
    return config


@pytest.mark.parametrize("parallelism", ["jit", "pmap"])
def test_a_streamed_run_on_two_devices_equals_a_resident_run(
    tmp_path, folder, on_two_devices, monkeypatch, parallelism
):
    """The run stops once and resumes."""
    config = two_devices(folder, "stream")
    config.parallelism = parallelism
    stop_and_resume(config, tmp_path, monkeypatch, 4)
    assert metrics(tmp_path) == on_two_devices


def test_random_crops_of_larger_images_resume_bit_for_bit(tmp_path, monkeypatch):
    """The crops are made by the decode workers."""
    config = make_config(write_folder(tmp_path / "folder", sides=(10, 20)))
    config.dataset.image_size, config.dataset.eval_short_side = 8, 10
    config.augment.crop, config.dataset.mean_images = "random-resized", 30
    config.learning_rate = 0.02
    train_and_evaluate(config, tmp_path / "straight")
    records = metrics(tmp_path / "straight")
    assert records[-1]["train_loss"] < records[0]["train_loss"]
    stop_and_resume(config, tmp_path / "stopped", monkeypatch, 3)
    assert metrics(tmp_path / "stopped") == records


def test_broken_images_fail_or_are_skipped(tmp_path, capsys):
    folder = write_folder(tmp_path / "folder", sides=(8, 9))
    config = make_config(folder)
    for name in ("train/red/002.jpg", "test/green/004.jpg"):
        (folder / name).write_bytes(b"broken")
    for name in ("train/red/005.jpg", "test/green/007.jpg", "test/blue/000.jpg"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:2] + BROKEN_EXIF + content[2:])
    with pytest.raises(DatasetError, match=r"train/red/002\.jpg cannot be decoded"):
        train_and_evaluate(config, tmp_path / "fail")
    config.dataset.broken_images = "skip"
    record = train_and_evaluate(config, tmp_path / "skip")
    records = read_metrics(tmp_path / "skip")
    replaced = sum(int(record["broken_images"]) for record in records)
    assert replaced in (8, 9)  # once per epoch of 45 images, in 12 batches of 32
    err = capsys.readouterr().err
    assert f" {replaced} times in training; 1 were skipped" in err
    assert re.search(r"was ignored [89] times in training; in an evaluation, that of 2 images", err)
    # 20 of 21 images are counted.
    wrong = record["test_error"] * 20 / 100
    assert wrong == pytest.approx(round(wrong))


def test_a_batch_larger_than_the_training_split_is_refused(tmp_path, folder):
    config = make_config(folder)
    config.batch_size = 46
    with pytest.raises(ConfigError, match="batch_size must be at most 45"):
        train_and_evaluate(config, tmp_path)


def test_batches_must_be_read_in_order(folder):
    config = make_config(folder)
    dataset = open_dataset(config)
    compiled_steps = CompiledSteps(config, dataset)
    pipeline = StreamPipeline(config, compiled_steps, dataset)
    pipeline.start(0, 1)
    try:
        arrays, rows = pipeline.next(0, 1)
        same_arrays, _ = pipeline.batch_at(0)
        np.testing.assert_array_equal(arrays.images, same_arrays.images)
        np.testing.assert_array_equal(rows, np.arange(32)[None])
        with pytest.raises(RuntimeError, match="was requested"):
            pipeline.next(5, 1)
    finally:
        pipeline.close()
    assert [next_dispatch_size(step, 4, 10) for step in (0, 3, 4, 8)] == [4, 1, 4, 2]
