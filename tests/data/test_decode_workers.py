import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from flaxres.cpu.processor import available_cores
from flaxres.data.crops import Cropper
from flaxres.data.decode import BrokenImageError
from flaxres.data.decode_workers import Decoder, DecodeStream, num_workers
from flaxres.data.folder import open_folder
from flaxres.data.sampler import EpochSampler
from flaxres.data.source import ArraySource
from flaxres.data.stream_schedule import StreamSchedule
from flaxres.errors import DatasetError
from tests.data.jpegs import write_folder

BATCH, STEPS = 40, 9


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("folder"), sides=(14, 30))


def decoder(folder, crop="random-resized", skip=False, size=12):
    sources = open_folder(folder, "train", "test")
    crops = Cropper(size=size, crop=crop, short_side=(size, 2 * size), seed=3)
    return Decoder(
        {"train": sources.train, "test": sources.test},
        EpochSampler(len(sources.train), BATCH, seed=3),
        crops,
        (size, size, 3),
        3,
        skip,
    )


def schedule():
    return StreamSchedule(BATCH, STEPS, 4, {"test": 21}, 10)


def taken(stream, count=None):
    """So many parts, or all."""
    try:
        return list(stream) if count is None else [next(stream) for _ in range(count)]
    finally:
        stream.close()


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one.images, other.images)
        np.testing.assert_array_equal(one.labels, other.labels)
        np.testing.assert_array_equal(one.valid, other.valid)


@pytest.fixture(scope="module")
def straight(folder):
    return taken(DecodeStream(schedule(), decoder(folder), workers=0, ahead=3))


def test_a_stream_is_what_one_image_after_another_gives(folder, straight):
    decode, order = decoder(folder), EpochSampler(45, BATCH, seed=3)
    parts = [schedule()[i] for i in range(len(schedule()))]
    for part, pixels in zip(parts, straight, strict=True):
        source = decode.sources[part.split]
        for i, number in enumerate(part.numbers):
            assert pixels.valid[i] == (number >= 0)
            if number < 0:
                continue
            if part.training:
                step, place = divmod(int(number), BATCH)
                image, label = source.load(int(order.indices(step)[0, place]))
                image = decode.cropper.train_crop(image, int(number))
            else:
                image, label = source.load(int(number))
                image = decode.cropper.eval_crop(image)
            np.testing.assert_array_equal(pixels.images[i], np.asarray(image))
            assert pixels.labels[i] == label


def shared_memory():
    """Names of what processes share; empty where they have no names."""
    directory = Path("/dev/shm")
    return {f.name for f in directory.glob("psm_*")} if directory.is_dir() else set()


def test_workers_change_nothing_and_leave_nothing(folder, straight):
    before, start = shared_memory(), schedule().first_task(5)
    stream = DecodeStream(schedule(), decoder(folder), workers=2, ahead=5, start=start)
    assert_same(taken(stream), straight[start:])
    deadline = time.monotonic() + 10
    while shared_memory() - before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not shared_memory() - before


def test_it_begins_anywhere(folder, straight):
    for step in (1, 4, 8):
        start = schedule().first_task(step)
        stream = DecodeStream(schedule(), decoder(folder), workers=0, ahead=1, start=start)
        assert_same(taken(stream, 2), straight[start : start + 2])


def test_a_broken_image_stops_it_or_is_replaced_by_the_next(tmp_path):
    folder = write_folder(tmp_path, sides=(14, 30))
    whole = taken(DecodeStream(schedule(), decoder(folder), 0, 3))
    broken = [open_folder(folder, "train", "test").train.describe(i) for i in (7, 30)]
    in_test = open_folder(folder, "train", "test").test.describe(3)
    for name in (*broken, in_test):
        with open(name, "r+b") as file:
            file.truncate(200)
    with pytest.raises(BrokenImageError) as caught:
        taken(DecodeStream(schedule(), decoder(folder), 0, 3))
    assert any(name in str(caught.value) for name in broken)
    mended = taken(DecodeStream(schedule(), decoder(folder, skip=True), 0, 3))

    parts = [schedule()[i] for i in range(len(schedule()))]
    # All training images, as they were, by position; two more batches, for those after the last.
    order = EpochSampler(45, BATCH, seed=3)
    old = {}
    for part, pixels in zip(parts, whole, strict=True):
        if part.training:
            for number, *found in zip(part.numbers, pixels.images, pixels.labels, strict=True):
                old[int(number)] = found
    replaced = 0
    for part, pixels, before in zip(parts, mended, whole, strict=True):
        if not part.training:
            expected = before.valid & (part.numbers != 3)
            np.testing.assert_array_equal(pixels.valid, expected)
            assert pixels.broken == int(3 in part.numbers)
            continue
        assert pixels.valid.all()
        missed = 0
        for i, position in enumerate(map(int, part.numbers)):
            readable = position
            while int(order.images(readable, readable + 1)[0]) in (7, 30):
                readable += 1
            missed += readable - position
            image, label = old[readable]
            np.testing.assert_array_equal(pixels.images[i], image)
            assert pixels.labels[i] == label
        assert pixels.broken == missed
        replaced += missed
    assert replaced == 2 * STEPS * BATCH // 45  # each twice an epoch, of which there are eight


def test_an_error_in_a_worker_is_one_line(tmp_path):
    folder = write_folder(tmp_path, sides=(14, 30))
    name = open_folder(folder, "train", "test").train.describe(7)
    with open(name, "wb"):
        pass
    with pytest.raises(BrokenImageError) as caught:
        taken(DecodeStream(schedule(), decoder(folder), workers=1, ahead=3))
    assert str(caught.value) == f"{name} is empty; remove it or write it again"
    assert not getattr(caught.value, "__notes__", [])


def test_images_of_another_size_and_labels_that_there_are_not(folder):
    plain = decoder(folder, crop="pad", size=0)
    plain = Decoder(plain.sources, plain.sampler, plain.cropper, (14, 14, 3), 3, False)
    with pytest.raises(DatasetError, match=r"pixels, but the first image has 14 x 14; choose"):
        taken(DecodeStream(schedule(), plain, 0, 3))
    source = ArraySource("set", np.zeros((45, 4, 4, 3), np.uint8), np.full(45, 9, np.int32))
    labels = Decoder(
        {"train": source}, EpochSampler(45, BATCH, 0), Cropper(size=0), (4, 4, 3), 3, False
    )
    with pytest.raises(DatasetError, match="of set has the label 9; there are 3 classes"):
        taken(DecodeStream(schedule(), labels, 0, 3))


def test_a_killed_worker_is_said_in_one_line(folder):
    before = set(multiprocessing.active_children())
    long = StreamSchedule(BATCH, 100_000, 100_000, {"test": 21}, 10)
    stream = DecodeStream(long, decoder(folder), workers=1, ahead=2)
    try:
        next(stream)
        (worker,) = set(multiprocessing.active_children()) - before
        os.kill(worker.pid, signal.SIGTERM)  # ignored: it goes to all processes of a job
        for _ in range(10):
            next(stream)
        os.kill(worker.pid, signal.SIGKILL)
        began = time.monotonic()
        with pytest.raises(DatasetError, match=r"ended by signal 9 \(SIGKILL\)"):
            taken(stream, 1_000)
        assert time.monotonic() - began < 30
    finally:
        stream.close()


def test_the_number_of_workers():
    assert num_workers(0) == 0
    assert num_workers(3) == 3
    assert 1 <= num_workers(-1) <= len(available_cores())
