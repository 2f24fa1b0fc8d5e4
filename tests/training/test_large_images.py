"""ResNet-18 in full size on 224x224 images from files. Takes minutes, so it runs with `-m nets`."""

import os
from pathlib import Path

import numpy as np
import pytest

from benchmarks.jpegs import make_folder
from flaxres.config import default_config, set_model
from flaxres.data import open_sources
from flaxres.errors import InterruptedRunError
from flaxres.training.train import train_and_evaluate
from tests.training.test_input_pipeline import stop_at
from tests.training.test_train import metrics

CIFAR10 = next(
    (
        path
        for name in ("cifar10_jpeg", "cifar10")
        if (path := Path(os.environ.get("TFDS_DATA_DIR", "none")) / name).is_dir()
    ),
    None,
)
NUM_STEPS = 24


def make_config(folder):
    config = set_model(default_config(), "resnet-18", stem="imagenet")
    config.dataset.name, config.dataset.data_dir = "folder", str(folder)
    config.dataset.placement, config.dataset.workers = "stream", 2
    config.dataset.image_size, config.dataset.eval_short_side = 224, 256
    config.dataset.mean_images = 200
    config.augment.crop, config.augment.pad = "random-resized", 0
    config.batch_size, config.eval_batch_size = 16, 20
    config.learning_rate, config.boundaries = 0.003, ()
    config.num_steps = config.eval_every = NUM_STEPS
    config.log_every, config.checkpoint_every = 4, NUM_STEPS
    return config


def train_losses(workdir):
    return [record["train_loss"] for record in metrics(workdir)]


@pytest.mark.nets
def test_a_run_on_thousands_of_large_files_resumes(tmp_path, monkeypatch):
    config = make_config(make_folder(tmp_path / "folder", 2_000, 60))
    train_and_evaluate(config, tmp_path / "straight")
    first, *_, last = train_losses(tmp_path / "straight")
    assert last < first - 0.5

    with monkeypatch.context() as patch:
        stop_at(patch, 10)
        with pytest.raises(InterruptedRunError, match="Stopped at step 10"):
            train_and_evaluate(config, tmp_path / "stopped")
    train_and_evaluate(config, tmp_path / "stopped")
    assert metrics(tmp_path / "stopped") == metrics(tmp_path / "straight")


@pytest.mark.nets
@pytest.mark.skipif(CIFAR10 is None, reason="TFDS_DATA_DIR holds no prepared cifar10")
def test_a_run_on_cifar10_as_files(tmp_path):
    config = make_config(tmp_path / "folder")
    config.dataset.name, config.dataset.data_dir = CIFAR10.name, str(CIFAR10.parent)
    sources = open_sources(config.dataset)
    for split, source, size in (("train", sources.train, 2_000), ("test", sources.test, 60)):
        for index in range(size):
            image, label = source.load(index)
            path = tmp_path / "folder" / split / sources.class_names[label] / f"{index:05}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
    # The files hold the same images, in the order of their names.
    from_files = make_config(tmp_path / "folder")
    files = open_sources(from_files.dataset)
    assert sorted(files.class_names) == sorted(sources.class_names)
    where = Path(files.train.describe(7))
    image, label = files.train.load(7)
    assert files.class_names[label] == where.parent.name
    np.testing.assert_array_equal(image, sources.train.load(int(where.stem))[0])

    train_and_evaluate(from_files, tmp_path / "run")
    first, *_, last = train_losses(tmp_path / "run")
    assert last < first
