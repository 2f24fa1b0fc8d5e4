"""What the steps of a run get: rows of a split on the devices, or batches streamed to them.

`feed.next(step, num_steps)` returns what a compiled step takes beside the state, `(arrays, rows)`:
the whole training split and the images' numbers in it; or uint8 images of these steps alone, each
device having its own, and numbers that count these.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
from ml_collections import ConfigDict

from flaxres.cpu.processor import available_cores
from flaxres.data import Dataset, StreamedDataset
from flaxres.data.decode_workers import Decoder, DecodeStream, num_workers
from flaxres.data.prefetch import Prefetcher
from flaxres.data.shared_memory import DecodedBatches
from flaxres.data.stream_schedule import StreamSchedule
from flaxres.parallel.multihost import raise_on_all_processes
from flaxres.parallel.sharding import Devices
from flaxres.training.compiled_steps import CompiledSteps
from flaxres.training.metrics import MetricSums
from flaxres.training.steps import DeviceData
from flaxres.training.train_state import TrainState

Batches = tuple[DeviceData, np.ndarray]  # what a step takes beside the state

ON_DEVICE = 2  # dispatches' images that wait on the devices
# Batches of an evaluation that are launched while the next is decoded: each has its own memory.
EVALUATIONS_AHEAD = 2


def next_dispatch_size(step: int, most: int, num_steps: int) -> int:
    """Steps of the dispatch after `step`: up to the next multiple of `most`, or the last step."""
    return min(most - step % most, num_steps - step)


def make_input_pipeline(
    config: ConfigDict, compiled_steps: CompiledSteps, dataset: Dataset | StreamedDataset
) -> ResidentPipeline | StreamPipeline:
    """The feed of a run's data set; the programs are those of the run.

    Raises:
      DatasetError: the mean of a streamed set cannot be computed.
    """
    if isinstance(dataset, Dataset):
        return ResidentPipeline(compiled_steps, dataset)
    return StreamPipeline(config, compiled_steps, dataset)


class ResidentPipeline:
    """Splits that are on the devices as a whole.

    Attributes:
      splits: names of those that are evaluated.
    """

    def __init__(self, compiled_steps: CompiledSteps, dataset: Dataset):
        """Puts the splits on the devices."""
        self._compiled_steps = compiled_steps
        self._train = compiled_steps.put(dataset.train)
        self._evaluated = {"test": compiled_steps.put(dataset.test)}
        if dataset.validation is not None:
            self._evaluated["validation"] = compiled_steps.put(dataset.validation)
        self.splits = tuple(self._evaluated)

    def start(self, step: int, most: int) -> None:
        """Nothing to do."""

    def is_ready(self) -> bool:
        """Whether `next` returns at once."""
        return True

    def next(self, step: int, num_steps: int) -> Batches:
        """What the steps from `step` on take."""
        return self._train, self._compiled_steps.indices(step, num_steps)

    def batch_at(self, step: int) -> Batches:
        """What the step after `step` takes, before or after its turn."""
        return self.next(step, 1)

    def compile_evaluation(self, state: TrainState) -> None:
        """Compiles the evaluations."""
        for split in self._evaluated.values():
            self._compiled_steps.compile_evaluation(state, split)

    def launch_evaluation(self, state: TrainState, name: str) -> list[MetricSums]:
        """Starts the evaluation of a split; `metrics.sum_on_host` of what it returns waits for it."""
        return self._compiled_steps.launch_evaluation(state, self._evaluated[name])

    def record(self) -> dict[str, float]:
        """What is to be logged of the time since the last call."""
        return {}

    def summary(self) -> str | None:
        """What is to be said at the end, if anything."""

    def close(self) -> None:
        """Nothing to do."""


class StreamPipeline:
    """Images that are decoded and put on the devices ahead of the steps.

    A thread takes parts of batches from a `DecodeStream`, in the order in which the run needs them
    (`StreamSchedule`), makes batches of them and puts them on the devices, each process and each device
    its own images.

    Attributes:
      splits: names of those that are evaluated.
      most_ahead: batches of steps that are decoded when nobody asks for any, once started.
    """

    def __init__(self, config: ConfigDict, compiled_steps: CompiledSteps, dataset: StreamedDataset):
        """Decodes nothing yet, but what the mean needs, if it is not known."""
        self._config, self._compiled_steps = config, compiled_steps
        self._devices: Devices = compiled_steps.devices
        self._shape = dataset.image_shape
        self._mean = self._devices.replicate(dataset.mean_image())
        self._decoder: Decoder = dataset.decoder()
        sizes = {name: len(split) for name, split in dataset.evaluation_splits().items()}
        self.splits = tuple(sizes)
        self._schedule = StreamSchedule(
            config.batch_size,
            config.num_steps,
            config.eval_every,
            sizes,
            config.eval_batch_size,
            self._devices.num_devices,
            self._devices.process_shard,
        )
        self._ahead: Prefetcher | None = None
        self.max_ahead = 0
        self._broken = self._new_broken = self._broken_in_splits = 0
        self._waited, self._since = 0.0, time.perf_counter()

    def start(self, step: int, most: int) -> None:
        """Begins to decode what is needed after `step` steps, in dispatches of up to `most`."""
        config = self._config
        parts = len(self._schedule.step_tasks(0))
        stream = DecodeStream(
            self._schedule,
            self._decoder,
            min(num_workers(config.dataset.workers), config.dataset.prefetch * parts),
            ahead=config.dataset.prefetch * parts,
            start=self._schedule.first_task(step),
            max_task_size=self._schedule.max_task_size,
        )
        # Besides those of the stream, what waits on the devices, and what has no room there yet.
        self.max_ahead = -(-stream.max_ahead // parts) + (ON_DEVICE + 1) * most
        self._ahead = Prefetcher(self._batches(stream, step, most), ON_DEVICE, stream.close)

    def is_ready(self) -> bool:
        """Whether `next` returns at once."""
        return self._ahead.is_ready()

    def next(self, step: int, num_steps: int) -> Batches:
        """What the steps from `step` on take; call it for each dispatch in turn.

        Raises:
          DatasetError: an image cannot be decoded, or a worker has ended before its time.
        """
        began = time.perf_counter()
        arrays, rows, broken = self._take(("train", step, num_steps))
        self._waited += time.perf_counter() - began
        self._broken += broken
        self._new_broken += broken
        return arrays, rows

    def batch_at(self, step: int) -> Batches:
        """What the step after `step` takes, decoded here and now, out of turn."""
        parts = self._schedule.step_tasks(step)
        batches = DecodedBatches.empty(1, [*map(len, parts)], self._shape)
        with (
            raise_on_all_processes(),
            ThreadPoolExecutor(min(len(parts), len(available_cores()))) as threads,
        ):
            for _ in threads.map(self._decoder, parts, batches.task_outputs):
                pass  # raises what was raised there
        arrays, rows, _ = self._put(batches)
        return arrays, rows

    def compile_evaluation(self, state: TrainState) -> None:
        """Compiles the evaluations."""
        for batches in self._schedule.eval_batches.values():
            own = (1, len(self._schedule.process_rows(batches[0])))
            arrays = DeviceData(
                self._devices.batches_shape_struct((*own, *self._shape), np.uint8),
                self._devices.batches_shape_struct(own, np.int32),
                self._mean,
            )
            self._compiled_steps.compile_evaluation(state, arrays, batches[:1])

    def launch_evaluation(self, state: TrainState, name: str) -> list[MetricSums]:
        """Starts the evaluation of a split, and returns when its last batch has been decoded.

        Raises:
          DatasetError: see `next`.
        """
        sums: list[MetricSums] = []
        broken = 0
        for number in range(len(self._schedule.eval_batches[name])):
            arrays, rows, missed = self._take((name, number))
            evaluate = self._compiled_steps.compile_evaluation(state, arrays, rows)
            sums.append(evaluate(state, arrays, rows))
            broken += missed
            if len(sums) > EVALUATIONS_AHEAD:
                jax.block_until_ready(sums[-1 - EVALUATIONS_AHEAD])
        self._broken_in_splits = max(self._broken_in_splits, broken)
        return sums

    def record(self) -> dict[str, float]:
        """Percent of the time since the last call that steps waited for images.

        And the training images that others took the place of, where `broken_images` is 'skip'.
        """
        now = time.perf_counter()
        record = {"data_wait_percent": 100 * self._waited / (now - self._since)}
        if self._config.dataset.broken_images == "skip":
            record["broken_images"] = self._new_broken
        self._waited, self._since, self._new_broken = 0.0, now, 0
        return record

    def summary(self) -> str | None:
        """How many broken images there were, if any."""
        if not self._broken and not self._broken_in_splits:
            return None
        return (
            f"images that cannot be decoded: the next took their place {self._broken:,} times in "
            f"training, {self._broken_in_splits:,} were left out of an evaluation"
        )

    def close(self) -> None:
        """Ends the workers."""
        if self._ahead is not None:
            self._ahead.close()

    def _take(self, name: tuple) -> tuple[DeviceData, np.ndarray, int]:
        with raise_on_all_processes():
            found, *rest = self._ahead.next()
        if found != name:
            raise RuntimeError(f"the stream has {found} next, but {name} is asked for")
        return tuple(rest)

    def _batches(self, stream: DecodeStream, step: int, most: int) -> Iterator[tuple]:
        """All that the run will ask for, in order: name, arrays, rows and broken images."""
        config, schedule = self._config, self._schedule
        sizes = [len(part) for part in schedule.step_tasks(0)]
        while step < config.num_steps:
            num_steps = next_dispatch_size(step, most, config.num_steps)
            yield ("train", step, num_steps), *self._next_batches(stream, num_steps, sizes)
            step += num_steps
            if step % config.eval_every and step < config.num_steps:
                continue
            for name, batches in schedule.eval_batches.items():
                for number, rows in enumerate(batches):
                    own = [len(part) for part in schedule.split_process_rows(rows)]
                    yield (name, number), *self._next_batches(stream, 1, own)

    def _next_batches(
        self, stream: DecodeStream, count: int, sizes: list[int]
    ) -> tuple[DeviceData, np.ndarray, int]:
        """Takes batches, each in parts of these sizes, and puts them on the devices."""
        batches = DecodedBatches.empty(count, sizes, self._shape)
        for part in batches.task_outputs:
            stream.read_into(part)
        return self._put(batches)

    def _put(self, batches: DecodedBatches) -> tuple[DeviceData, np.ndarray, int]:
        """Puts batches on the devices; the rows; broken images."""
        count, own = batches.labels.shape
        share, shares = self._devices.process_shard
        each = own * shares // self._devices.num_devices  # images of a device
        counted = np.arange(count * each, dtype=np.int32).reshape(count, each)
        rows = np.full((count, own * shares), -1, np.int32)  # other processes have theirs
        rows[:, share * own : (share + 1) * own] = np.where(
            batches.valid, np.tile(counted, own // each), -1
        )
        put = self._devices.put_batches
        return (
            DeviceData(put(batches.images), put(batches.labels), self._mean),
            rows,
            batches.broken,
        )
