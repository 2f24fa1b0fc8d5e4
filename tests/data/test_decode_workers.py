import errno
import multiprocessing
import os
import signal
import time
from multiprocessing import synchronize
from pathlib import Path

import numpy as np
import pytest

from flaxres.cpu.processor import available_cores
from flaxres.data.crops import Cropper
from flaxres.data.decode import BrokenImageError
from flaxres.data.decode_workers import DecodeStream, num_workers
from flaxres.data.folder import open_folder
from flaxres.data.sampler import EpochSampler
from flaxres.data.stream_schedule import StreamSchedule
from flaxres.data.task_decoder import Decoder
from flaxres.errors import DatasetError
from tests.data.jpegs import write_folder

BATCH, STEPS = 40, 9


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("folder"), sides=(14, 30))


def make_decoder(folder, crop="random-resized", skip=False, size=12):
    sources = open_folder(folder, "train", "test")
    cropper = Cropper(size=size, crop=crop, short_side=(size, 2 * size), seed=3)
    return Decoder(
        {"train": sources.train, "test": sources.test},
        EpochSampler(len(sources.train), BATCH, seed=3),
        cropper,
        (size, size, 3),
        3,
        skip,
    )


def make_schedule():
    return StreamSchedule(BATCH, STEPS, 4, {"test": 21}, 10)


def make_long_schedule():
    return StreamSchedule(BATCH, 100_000, 100_000, {"test": 21}, 10)


def read(stream, count=None):
    """Returns the images of the next `count` tasks, or of all, and closes the stream."""
    try:
        return list(stream) if count is None else [next(stream) for _ in range(count)]
    finally:
        stream.close()


def assert_same(actual, expected):
    assert len(actual) == len(expected)
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(one.images, other.images)
        np.testing.assert_array_equal(one.labels, other.labels)
        np.testing.assert_array_equal(one.valid, other.valid)


@pytest.fixture(scope="module")
def whole_stream(folder):
    return read(DecodeStream(make_schedule(), make_decoder(folder), workers=0, ahead=3))


def test_a_stream_equals_loading_one_image_after_another(folder, whole_stream):
    decoder, sampler = make_decoder(folder), EpochSampler(45, BATCH, seed=3)
    tasks = [make_schedule()[i] for i in range(len(make_schedule()))]
    for task, decoded in zip(tasks, whole_stream, strict=True):
        source = decoder.sources[task.split]
        for i, number in enumerate(task.numbers):
            assert decoded.valid[i] == (number >= 0)
            if number < 0:
                continue
            if task.training:
                step, place = divmod(int(number), BATCH)
                image, label = source.load(int(sampler.indices(step)[0, place]))
                image = decoder.cropper.train_crop(image.size, int(number)).apply(image)
            else:
                image, label = source.load(int(number))
                image = decoder.cropper.eval_crop(image.size).apply(image)
            np.testing.assert_array_equal(decoded.images[i], np.asarray(image))
            assert decoded.labels[i] == label


def shared_memory_names():
    """Returns the names of shared memory; none on systems without /dev/shm."""
    directory = Path("/dev/shm")
    own = ("psm_*", f"sem.flaxres-{os.getpid()}-*")
    return {f.name for pattern in own for f in directory.glob(pattern)}


def test_workers_change_no_image_and_leave_no_shared_memory(folder, whole_stream):
    before, start = shared_memory_names(), make_schedule().first_task(5)
    stream = DecodeStream(make_schedule(), make_decoder(folder), workers=2, ahead=5, start=start)
    assert_same(read(stream), whole_stream[start:])
    deadline = time.monotonic() + 10
    while shared_memory_names() - before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not shared_memory_names() - before


def test_a_stream_can_start_at_any_step(folder, whole_stream):
    for step in (1, 4, 8):
        start = make_schedule().first_task(step)
        stream = DecodeStream(
            make_schedule(), make_decoder(folder), workers=0, ahead=1, start=start
        )
        assert_same(read(stream, 2), whole_stream[start : start + 2])


def test_an_error_in_a_worker_is_reported_in_one_line(tmp_path):
    folder = write_folder(tmp_path, sides=(14, 30))
    name = open_folder(folder, "train", "test").train.describe(7)
    with open(name, "wb"):
        pass
    with pytest.raises(BrokenImageError) as caught:
        read(DecodeStream(make_schedule(), make_decoder(folder), workers=1, ahead=3))
    assert str(caught.value) == (
        f"{name} is empty; remove it, replace it, or skip such images with "
        "--config.dataset.broken_images=skip"
    )
    assert not getattr(caught.value, "__notes__", [])


def test_a_killed_worker_is_reported_in_one_line(folder):
    before = set(multiprocessing.active_children())
    stream = DecodeStream(make_long_schedule(), make_decoder(folder), workers=1, ahead=2)
    try:
        next(stream)
        (worker,) = set(multiprocessing.active_children()) - before
        os.kill(
            worker.pid, signal.SIGTERM
        )  # workers ignore it, as it is sent to all processes of a job
        for _ in range(10):
            next(stream)
        os.kill(worker.pid, signal.SIGKILL)
        start = time.monotonic()
        with pytest.raises(DatasetError, match=r"ended by signal 9 \(SIGKILL\)"):
            read(stream, 1_000)
        assert time.monotonic() - start < 30
    finally:
        stream.close()


def test_workers_without_space_for_their_semaphores_are_an_error(folder, monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(synchronize.SemLock, "__init__", fail)
    stream = DecodeStream(make_schedule(), make_decoder(folder), workers=2, ahead=5)
    message = r"cannot start \(No space left on device\); .* need 200 KiB of /dev/shm: .*workers=0"
    with pytest.raises(DatasetError, match=message):
        read(stream)


def test_num_workers():
    assert num_workers(0) == 0
    assert num_workers(3) == 3
    assert 1 <= num_workers(-1) <= len(available_cores())
