import pickle

import numpy as np
import pytest

from flaxres.data import stream_schedule as module
from flaxres.data.stream_schedule import StreamSchedule, split_into_tasks
from flaxres.training.dispatches import due
from tests.conftest import small_config


def batches_by_hand(config, sizes, shard=(0, 1)):
    """Yields (split, training, numbers) of each batch, in the order in which a run needs them."""
    shard_rows = slice(
        shard[0] * config.batch_size // shard[1], (shard[0] + 1) * config.batch_size // shard[1]
    )
    for step in range(config.num_steps):
        positions = np.arange(config.batch_size) + step * config.batch_size
        yield "train", True, positions[shard_rows]
        if due(config, step + 1)[1]:
            for name, size in sizes.items():
                for start in range(0, size, config.eval_batch_size):
                    rows = np.arange(start, start + config.eval_batch_size)
                    shard_size = len(rows) // shard[1]
                    rows = np.where(rows < size, rows, -1)
                    yield name, False, rows[shard[0] * shard_size : (shard[0] + 1) * shard_size]


@pytest.mark.parametrize("num_steps", [20, 23])
@pytest.mark.parametrize("shard", [(0, 1), (1, 2)])
def test_tasks_come_in_the_order_of_the_loop(monkeypatch, num_steps, shard):
    monkeypatch.setattr(module, "MAX_TASK_SIZE", 5)
    config = small_config()
    config.num_steps, config.batch_size, config.eval_batch_size = num_steps, 12, 8
    sizes = {"test": 19, "validation": 8}
    schedule = StreamSchedule(12, num_steps, config.eval_every, sizes, 8, shard[1], shard)
    schedule = pickle.loads(pickle.dumps(schedule))
    tasks = [schedule[i] for i in range(len(schedule))]
    assert all(len(task) <= 5 for task in tasks)
    remaining = iter(tasks)
    first_tasks, number = {}, 0
    steps = 0
    for split, training, numbers in batches_by_hand(config, sizes, shard):
        if training:
            first_tasks[steps] = number
            steps += 1
        collected = []
        while sum(map(len, collected)) < len(numbers):
            task = next(remaining)
            assert (task.split, task.training) == (split, training)
            collected.append(task.numbers)
            number += 1
        np.testing.assert_array_equal(np.concatenate(collected), numbers)
    assert next(remaining, None) is None
    assert {step: schedule.first_task(step) for step in range(num_steps)} == first_tasks


def test_a_schedule_without_steps_is_one_evaluation():
    schedule = StreamSchedule(32, 0, 10, {"test": 70}, 40)
    rows = np.concatenate([schedule[i].numbers for i in range(len(schedule))])
    np.testing.assert_array_equal(rows[rows >= 0], np.arange(70))


def test_the_tasks_of_any_step():
    schedule = StreamSchedule(80, 10, 10, {"test": 7}, 7)
    for step in (0, 3, 10):  # 10 is beyond the last step
        numbers = np.concatenate([task.numbers for task in schedule.step_tasks(step)])
        np.testing.assert_array_equal(numbers, np.arange(80) + 80 * step)


@pytest.mark.parametrize("size", [1, 31, 32, 33, 100])
def test_tasks_have_nearly_equal_sizes(size):
    lengths = [len(numbers) for numbers in split_into_tasks(np.arange(size))]
    assert sum(lengths) == size
    assert max(lengths) <= 32
    assert max(lengths) - min(lengths) <= 1
