"""Input pipeline of streamed data sets: images are decoded while earlier steps run."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
from jaxtyping import Int32
from ml_collections import ConfigDict

from flaxres.cpu.processor import available_cores
from flaxres.data import StreamedDataset
from flaxres.data.decode_workers import DecodeStream, num_workers
from flaxres.data.prefetch import Prefetcher
from flaxres.data.shared_memory import DecodedBatches
from flaxres.data.stream_schedule import StreamSchedule
from flaxres.data.task_decoder import Decoder
from flaxres.parallel.multihost import raise_on_all_processes
from flaxres.parallel.sharding import Devices
from flaxres.training.compiled_steps import CompiledSteps
from flaxres.training.dispatches import PREFETCHED_DISPATCHES, next_dispatch_size
from flaxres.training.metrics import MetricSums
from flaxres.training.steps import DeviceData, StepInputs
from flaxres.training.train_state import TrainState
from flaxres.training.weight_average import evaluated_states

# ('train', step, num_steps) of a training dispatch, or (split, number) of an evaluation batch.
StreamKey = tuple[str | int, ...]
# Arrays on the devices, rows of the batches, and `DecodedBatches.counts`.
StreamInputs = tuple[
    DeviceData, Int32[np.ndarray, "batches batch_size"], Int32[np.ndarray, " kinds"]
]

# Evaluation batches that may be queued on the devices. Each holds its images in device memory.
MAX_QUEUED_EVALUATIONS = 2


class StreamPipeline:
    """Decodes images and puts them on the devices ahead of the steps that need them.

    A thread reads decoded tasks from a `DecodeStream` in the order of a `StreamSchedule`, assembles
    batches and puts them on the devices. Each process and each device gets only its shard.

    Attributes:
      splits: names of the splits that are evaluated.
      max_ahead: maximum number of training batches that are decoded ahead; 0 before `start`.
    """

    def __init__(self, config: ConfigDict, compiled_steps: CompiledSteps, dataset: StreamedDataset):
        """Prepares the pipeline. Only the mean image may need decoding here.

        Raises:
          DatasetError: the mean image cannot be computed.
        """
        self._config, self._compiled_steps = config, compiled_steps
        self._devices: Devices = compiled_steps.devices
        self._image_shape = dataset.image_shape
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
        self._prefetcher: Prefetcher | None = None
        self.max_ahead = 0
        # Numbers of broken images, and of images whose metadata was ignored.
        self._training_counts = np.zeros(2, np.int64)
        self._evaluation_counts = np.zeros(2, np.int64)  # largest of all evaluations
        self._broken_since_record = 0
        self._waited_seconds, self._last_record = 0.0, time.perf_counter()

    def start(self, step: int, max_steps: int) -> None:
        """Starts to decode the images that are needed after `step` steps.

        Args:
          step: number of steps done.
          max_steps: maximum number of steps in a dispatch.
        """
        config = self._config
        tasks_per_batch = len(self._schedule.step_tasks(0))
        stream = DecodeStream(
            self._schedule,
            self._decoder,
            min(num_workers(config.dataset.workers), config.dataset.prefetch * tasks_per_batch),
            ahead=config.dataset.prefetch * tasks_per_batch,
            start=(
                self._schedule.first_task(step)
                if step < config.num_steps
                else self._schedule.last_evaluation()
            ),
            max_task_size=self._schedule.max_task_size,
        )
        # Batches in the stream, in the prefetched dispatches, and in one that waits for a place.
        self.max_ahead = (
            -(-stream.max_ahead // tasks_per_batch) + (PREFETCHED_DISPATCHES + 1) * max_steps
        )
        self._prefetcher = Prefetcher(
            self._inputs(stream, step, max_steps), PREFETCHED_DISPATCHES, stream.close
        )

    def is_ready(self) -> bool:
        """Returns True if `next` returns without waiting."""
        return self._started_prefetcher().is_ready()

    def next(self, step: int, num_steps: int) -> StepInputs:
        """Returns the inputs of the next `num_steps` steps. Dispatches must be read in order.

        Raises:
          DatasetError: an image cannot be decoded, or a decode worker died.
        """
        start = time.perf_counter()
        arrays, rows, counts = self._take(("train", step, num_steps))
        self._waited_seconds += time.perf_counter() - start
        self._training_counts += counts
        self._broken_since_record += int(counts[0])
        return arrays, rows

    def batch_at(self, step: int) -> StepInputs:
        """Decodes the inputs of the step after `step` now, independently of the stream.

        Raises:
          DatasetError: an image cannot be decoded.
        """
        tasks = self._schedule.step_tasks(step)
        batches = DecodedBatches.empty(1, [*map(len, tasks)], self._image_shape)
        with (
            raise_on_all_processes(),
            ThreadPoolExecutor(min(len(tasks), len(available_cores()))) as threads,
        ):
            for _ in threads.map(self._decoder, tasks, batches.task_outputs):
                pass  # reading the results raises the exceptions of the threads
        arrays, rows, _ = self._put(batches)
        return arrays, rows

    def compile_evaluation(self, state: TrainState) -> None:
        """Compiles the evaluation of each split."""
        for batches in self._schedule.eval_batches.values():
            process_batch = len(self._schedule.process_rows(batches[0]))
            arrays = self._compiled_steps.batch_structs(1, process_batch)
            self._compiled_steps.compile_evaluation(state, arrays, batches[:1])

    def launch_evaluation(self, state: TrainState, split: str) -> dict[str, list[MetricSums]]:
        """Launches the evaluation of a split. Returns once its last batch has been decoded.

        Each batch is decoded once, also if the state has an average of its weights.

        Returns:
          Sums by the prefix of their metrics (`weight_average.evaluated_states`) and the split.

        Raises:
          DatasetError: an image cannot be decoded, or a decode worker died.
        """
        states = evaluated_states(state)
        sums: dict[str, list[MetricSums]] = {prefix + split: [] for prefix in states}
        total_counts = np.zeros(2, np.int64)
        for number in range(len(self._schedule.eval_batches[split])):
            arrays, rows, counts = self._take((split, number))
            evaluate = self._compiled_steps.compile_evaluation(state, arrays, rows)
            for prefix, evaluated in states.items():
                sums[prefix + split].append(evaluate(evaluated, arrays, rows))
            total_counts += counts
            if number >= MAX_QUEUED_EVALUATIONS:
                jax.block_until_ready(
                    [batches[-1 - MAX_QUEUED_EVALUATIONS] for batches in sums.values()]
                )
        np.maximum(self._evaluation_counts, total_counts, out=self._evaluation_counts)
        return sums

    def record(self) -> dict[str, float]:
        """Returns the metrics of the pipeline since the last call.

        Returns:
          'data_wait_percent', the percentage of the time that steps waited for images; with
          `broken_images` of 'skip' also 'broken_images', the number of training images replaced.
        """
        now = time.perf_counter()
        record: dict[str, float] = {
            "data_wait_percent": 100 * self._waited_seconds / (now - self._last_record)
        }
        if self._config.dataset.broken_images == "skip":
            record["broken_images"] = self._broken_since_record
        self._waited_seconds, self._last_record, self._broken_since_record = 0.0, now, 0
        return record

    def summary(self) -> str | None:
        """Returns one line about broken images and damaged metadata, or None without any."""
        sentences = []
        (broken, damaged), (broken_in_eval, damaged_in_eval) = (
            self._training_counts,
            self._evaluation_counts,
        )
        if broken or broken_in_eval:
            sentences.append(
                f"Images that cannot be decoded were replaced by the next image {broken:,} times "
                f"in training; {broken_in_eval:,} were skipped in an evaluation."
            )
        if damaged or damaged_in_eval:
            sentences.append(
                f"Metadata that is damaged or too large was ignored {damaged:,} times in training; "
                f"in an evaluation, that of {damaged_in_eval:,} images."
            )
        return " ".join(sentences) or None

    def close(self) -> None:
        """Stops the prefetcher and the decode workers."""
        if self._prefetcher is not None:
            self._prefetcher.close()

    def _started_prefetcher(self) -> Prefetcher:
        if self._prefetcher is None:
            raise RuntimeError("the input pipeline has not been started")
        return self._prefetcher

    def _take(self, key: StreamKey) -> StreamInputs:
        """Returns the next element of the stream."""
        with raise_on_all_processes():
            next_key, arrays, rows, counts = self._started_prefetcher().next()
        if next_key != key:
            raise RuntimeError(f"the stream provides {next_key} next, but {key} was requested")
        return arrays, rows, counts

    def _inputs(
        self, stream: DecodeStream, step: int, max_steps: int
    ) -> Iterator[tuple[StreamKey, DeviceData, np.ndarray, np.ndarray]]:
        """Yields the inputs of all dispatches and evaluation batches of the run, in order.

        Each element is the key, followed by the parts of `StreamInputs`.
        """
        config, schedule = self._config, self._schedule
        step_task_sizes = [len(task) for task in schedule.step_tasks(0)]
        is_done = False
        while not is_done:
            if num_steps := next_dispatch_size(step, max_steps, config.num_steps):
                yield ("train", step, num_steps), *self._read(stream, num_steps, step_task_sizes)
            step += num_steps
            is_done = step == config.num_steps
            if step % config.eval_every and step < config.num_steps:
                continue
            for split, batches in schedule.eval_batches.items():
                for number, rows in enumerate(batches):
                    task_sizes = [len(task) for task in schedule.split_process_rows(rows)]
                    yield (split, number), *self._read(stream, 1, task_sizes)

    def _read(self, stream: DecodeStream, num_batches: int, task_sizes: list[int]) -> StreamInputs:
        """Reads batches from the stream and puts them on the devices.

        Args:
          stream: the decoded tasks.
          num_batches: number of batches to read.
          task_sizes: number of images in each task of a batch.
        """
        batches = DecodedBatches.empty(num_batches, task_sizes, self._image_shape)
        for output in batches.task_outputs:
            stream.read_into(output)
        return self._put(batches)

    def _put(self, batches: DecodedBatches) -> StreamInputs:
        """Puts this process's shard of some batches on its devices.

        Returns:
          The arrays on the devices; the rows of the whole batches, -1 for images that are not
          valid; and the counts of the batches.
        """
        num_batches, process_batch = batches.labels.shape
        shard, num_shards = self._devices.process_shard
        device_size = process_batch * num_shards // self._devices.num_devices
        # On each device, rows count the images of all batches from 0.
        device_rows = np.arange(num_batches * device_size, dtype=np.int32)
        device_rows = device_rows.reshape(num_batches, device_size)
        # Every process fills in the rows of its own shard only.
        rows = np.full((num_batches, process_batch * num_shards), -1, np.int32)
        rows[:, shard * process_batch : (shard + 1) * process_batch] = np.where(
            batches.valid, np.tile(device_rows, process_batch // device_size), -1
        )
        data = DeviceData.from_images(batches.images, batches.labels, self._mean)
        put = self._devices.put_batches
        return (
            dataclasses.replace(data, images=put(data.images), labels=put(data.labels)),
            rows,
            batches.counts,
        )
