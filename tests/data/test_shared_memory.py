import pickle
import threading
import time

import numpy as np
import pytest

from flaxres.data import anonymous_memory, shared_memory
from flaxres.data.shared_memory import DecodedBatches, DecodedImages, SharedBuffers
from flaxres.errors import DatasetError

SHAPE = (2, 3, 3)


@pytest.fixture
def buffers():
    buffers = SharedBuffers(2, 4, SHAPE, start=5)
    yield buffers
    buffers.close()


def fill(out, value):
    out.images[:], out.labels[:], out.valid[:], out.counts[:] = value, value, value % 2, value


def test_tasks_of_another_process_are_read_in_order(buffers):
    writer = pickle.loads(pickle.dumps(buffers))  # as a worker process receives it
    for number in (5, 6):
        fill(writer.wait_for_buffer(number, 3), number)
    for number in (5, 6):
        out = DecodedImages.empty(3, SHAPE)
        buffers.read_into(number, out)
        assert (out.images == number).all()
        np.testing.assert_array_equal(out.labels, np.full(3, number))
        np.testing.assert_array_equal(out.valid, np.full(3, bool(number % 2)))
        assert (out.counts == number).all()


def test_a_buffer_is_reused_only_after_it_was_read(buffers):
    refilled = threading.Event()

    def refill():
        fill(buffers.wait_for_buffer(7, 4), 7)  # in the buffer of task 5
        refilled.set()

    fill(buffers.wait_for_buffer(5, 4), 5)
    thread = threading.Thread(target=refill)
    thread.start()
    time.sleep(0.05)
    assert not refilled.is_set()
    out = DecodedImages.empty(4, SHAPE)
    buffers.read_into(5, out)
    thread.join(10)
    assert refilled.is_set()
    assert (out.images == 5).all()


def test_no_process_waits_after_free_all(buffers):
    buffers.free_all()
    buffers.wait_for_buffer(1_000, 4)


def test_too_little_memory_is_an_error(monkeypatch):
    monkeypatch.setattr(anonymous_memory, "available_memory", lambda: 2**20)
    with pytest.raises(
        DatasetError,
        match=r"decoded images need 5 MiB .* but only 1 MiB of memory are free; choose a smaller",
    ):
        SharedBuffers(1, 32, (224, 224, 3))


def test_batches_are_filled_task_by_task():
    batches = DecodedBatches.empty(2, [3, 2], SHAPE)
    assert batches.images.ctypes.data % shared_memory.ALIGNMENT == 0
    for task, out in enumerate(batches.task_outputs):
        fill(out, task)
    np.testing.assert_array_equal(batches.labels, [[0, 0, 0, 1, 1], [2, 2, 2, 3, 3]])
    np.testing.assert_array_equal(batches.images[:, :, 0, 0, 0], batches.labels)
    np.testing.assert_array_equal(batches.valid, batches.labels % 2 == 1)
    assert list(batches.counts) == 2 * [0 + 1 + 2 + 3]
