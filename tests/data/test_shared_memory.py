import pickle
import threading
import time

import numpy as np
import pytest

from flaxres.data import shared_memory
from flaxres.data.shared_memory import DecodedBatches, DecodedImages, SharedBuffers
from flaxres.errors import DatasetError

SHAPE = (2, 3, 3)


@pytest.fixture
def slots():
    made = SharedBuffers(2, 4, SHAPE, start=5)
    yield made
    made.close()


def fill(out, value):
    out.images[:], out.labels[:], out.valid[:], out.broken[:] = value, value, value % 2, value


def test_what_another_process_fills_is_taken_in_turn(slots):
    other = pickle.loads(pickle.dumps(slots))  # as a process gets it
    for number in (5, 6):
        fill(other.wait_for_buffer(number, 3), number)
    for number in (5, 6):
        out = DecodedImages.empty(3, SHAPE)
        slots.read_into(number, out)
        assert (out.images == number).all()
        np.testing.assert_array_equal(out.labels, np.full(3, number))
        np.testing.assert_array_equal(out.valid, np.full(3, bool(number % 2)))
        assert out.broken == number


def test_a_slot_is_filled_again_only_when_it_was_taken(slots):
    filled = threading.Event()

    def refill():
        fill(slots.wait_for_buffer(7, 4), 7)  # where part 5 is
        filled.set()

    fill(slots.wait_for_buffer(5, 4), 5)
    thread = threading.Thread(target=refill)
    thread.start()
    time.sleep(0.05)
    assert not filled.is_set()
    out = DecodedImages.empty(4, SHAPE)
    slots.read_into(5, out)
    thread.join(10)
    assert filled.is_set()
    assert (out.images == 5).all()


def test_nobody_waits_for_what_is_closed(slots):
    slots.free_all()
    slots.wait_for_buffer(1_000, 4)


def test_too_little_shared_memory_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(shared_memory, "SHARED_MEMORY", tmp_path)
    with pytest.raises(
        DatasetError,
        match=r"decoded images need .* MiB of .*, but only .* MiB are free; .* --shm-size",
    ):
        SharedBuffers(2**30, 32, (224, 224, 3))
    monkeypatch.setattr(shared_memory, "SHARED_MEMORY", tmp_path / "none")  # as on other systems
    shared_memory._check_free_memory(2**60)


def test_batches_are_filled_by_parts():
    batches = DecodedBatches.empty(2, [3, 2], SHAPE)
    assert batches.images.ctypes.data % shared_memory.ALIGNMENT == 0
    for number, part in enumerate(batches.task_outputs):
        fill(part, number)
    np.testing.assert_array_equal(batches.labels, [[0, 0, 0, 1, 1], [2, 2, 2, 3, 3]])
    np.testing.assert_array_equal(batches.images[:, :, 0, 0, 0], batches.labels)
    np.testing.assert_array_equal(batches.valid, batches.labels % 2 == 1)
    assert batches.broken == 0 + 1 + 2 + 3
