import pickle

import numpy as np
import pytest

from flaxres.data import stream_schedule as module
from flaxres.data.stream_schedule import StreamSchedule, split_into_tasks
from flaxres.training.dispatches import due
from tests.conftest import small_config


def by_hand(config, sizes, share=(0, 1)):
    """What a run asks for, as the loop does: (split, training, numbers) of each batch."""
    own = slice(
        share[0] * config.batch_size // share[1], (share[0] + 1) * config.batch_size // share[1]
    )
    for step in range(config.num_steps):
        positions = np.arange(config.batch_size) + step * config.batch_size
        yield "train", True, positions[own]
        if due(config, step + 1)[1]:
            for name, size in sizes.items():
                for start in range(0, size, config.eval_batch_size):
                    rows = np.arange(start, start + config.eval_batch_size)
                    each = len(rows) // share[1]
                    rows = np.where(rows < size, rows, -1)
                    yield name, False, rows[share[0] * each : (share[0] + 1) * each]


@pytest.mark.parametrize("num_steps", [20, 23])
@pytest.mark.parametrize("share", [(0, 1), (1, 2)])
def test_parts_come_in_the_order_of_the_loop(monkeypatch, num_steps, share):
    monkeypatch.setattr(module, "MAX_TASK_SIZE", 5)
    config = small_config()
    config.num_steps, config.batch_size, config.eval_batch_size = num_steps, 12, 8
    sizes = {"test": 19, "validation": 8}
    schedule = StreamSchedule(12, num_steps, config.eval_every, sizes, 8, share[1], share)
    schedule = pickle.loads(pickle.dumps(schedule))
    parts = [schedule[i] for i in range(len(schedule))]
    assert all(len(part) <= 5 for part in parts)
    found = iter(parts)
    starts, number = {}, 0
    steps = 0
    for split, training, numbers in by_hand(config, sizes, share):
        if training:
            starts[steps] = number
            steps += 1
        collected = []
        while sum(map(len, collected)) < len(numbers):
            part = next(found)
            assert (part.split, part.training) == (split, training)
            collected.append(part.numbers)
            number += 1
        np.testing.assert_array_equal(np.concatenate(collected), numbers)
    assert next(found, None) is None
    assert {step: schedule.first_task(step) for step in range(num_steps)} == starts


def test_a_schedule_without_steps_is_one_evaluation():
    schedule = StreamSchedule(32, 0, 10, {"test": 70}, 40)
    rows = np.concatenate([schedule[i].numbers for i in range(len(schedule))])
    np.testing.assert_array_equal(rows[rows >= 0], np.arange(70))


def test_the_batch_of_a_step_again():
    schedule = StreamSchedule(80, 10, 10, {"test": 7}, 7)
    for step in (0, 3, 10):  # 10 is beyond the last
        numbers = np.concatenate([part.numbers for part in schedule.step_tasks(step)])
        np.testing.assert_array_equal(numbers, np.arange(80) + 80 * step)


@pytest.mark.parametrize("size", [1, 31, 32, 33, 100])
def test_parts_are_nearly_equal(size):
    lengths = [len(part) for part in split_into_tasks(np.arange(size))]
    assert sum(lengths) == size
    assert max(lengths) <= 32
    assert max(lengths) - min(lengths) <= 1
