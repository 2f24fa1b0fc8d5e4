"""The step functions of a run, compiled for its devices."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Float32, Int32
from ml_collections import ConfigDict

import flaxres
from flaxres.data import Dataset, Split, StreamedDataset
from flaxres.data.sampler import EpochSampler, evaluation_batches
from flaxres.errors import ConfigError
from flaxres.parallel.replicas import seeds, stack_replicas
from flaxres.parallel.sharding import (
    CompiledStep,
    Devices,
    StepFunction,
    device_name,
    select_devices,
)
from flaxres.pretrained.stride_on import resolve_stride
from flaxres.training.dispatches import steps_per_dispatch
from flaxres.training.gradients import check_micro_batches
from flaxres.training.initialization import Initialization
from flaxres.training.layer_statistics import LayerStatistics
from flaxres.training.metrics import MetricSums, sum_on_host
from flaxres.training.step_functions import StepFunctions
from flaxres.training.steps import DeviceData, is_batched, on_flat_batches
from flaxres.training.train_state import TrainState
from flaxres.version import commit

PyTree = Any


class CompiledSteps:
    """Model, optimizer and step functions of a run. Each function is compiled at its first use.

    Attributes:
      devices: the devices of the run.
      steps_per_dispatch: number of steps in one dispatch.
      dispatch_bytes: bytes of the indices and streamed images of a dispatch on one device.
      initialization: computes the state before the first step.
    """

    def __init__(
        self,
        config: ConfigDict,
        dataset: Dataset | StreamedDataset,
        devices: Devices | None = None,
    ):
        """Builds the step functions without compiling them.

        Args:
          config: config of the run.
          dataset: data set of the run, loaded or streamed.
          devices: devices to compile for (default: the first `config.num_devices` devices of each
            process).

        Raises:
          ConfigError: the batch is larger than the training split, the model or the augmentation
            does not fit the images, or the devices do not fit the config.
        """
        if config.batch_size > len(dataset.train):
            raise ConfigError(
                f"batch_size must be at most {len(dataset.train):,}, the number of images in "
                f"{config.dataset.train_split!r} of {dataset.name}, got {config.batch_size:,}"
            )
        config = resolve_stride(config)
        self._config = config
        if devices is None:
            devices = Devices(select_devices(config.num_devices), config.parallelism)
        devices.check_batch_size(config.batch_size)
        check_micro_batches(config, devices.num_devices)
        self.devices = devices
        self._dataset = dataset
        self._functions = functions = StepFunctions(config, dataset, devices.num_devices)
        self._samplers = [
            EpochSampler(len(dataset.train), config.batch_size, seed) for seed in seeds(config)
        ]
        self._compiled: dict[tuple, CompiledStep] = {}
        step_bytes = 0  # streamed images of one step on one device
        if isinstance(dataset, StreamedDataset):
            device_batch = config.batch_size // devices.num_devices
            step_bytes = device_batch * math.prod(dataset.image_shape)
        self.steps_per_dispatch = steps_per_dispatch(config, devices.platform, step_bytes)
        index_bytes = 4 * config.num_replicas * config.batch_size
        self.dispatch_bytes = self.steps_per_dispatch * (step_bytes + index_bytes)
        self.initialization = Initialization(
            functions.model, functions.optimizer, config, dataset.image_shape, devices
        )

    def put(self, split: Split) -> DeviceData:
        """Puts a split on every device, as uint8 images."""
        return self.devices.replicate(
            DeviceData.from_images(split.images, split.labels, self._mean)
        )

    @functools.cached_property
    def _mean(self) -> Float32[np.ndarray, "height width channels"]:
        return self._dataset.mean_image()

    def initial_state(self) -> TrainState:
        """Returns the state before the first step, with the weights of `config.init_from` if set.

        Raises:
          ConfigError: the model does not fit the images, or frozen layers do not fit the model.
          WeightsError: the weights cannot be read, or belong to another model.
        """
        return self.initialization.start().result()

    @property
    def state_shape(self) -> TrainState:
        """Shapes and dtypes of the train state, without computing it."""
        return self.initialization.state_shape

    def state_structs(self) -> TrainState:
        """Returns shape structs of the train state on the devices."""
        return self.devices.replicated_structs(self.state_shape)

    def info(self) -> dict[str, Any]:
        """Returns the contents of info.json: number of parameters, devices, versions and commit."""
        params = jax.tree.leaves(self.state_shape.params)
        return {
            "params": sum(leaf.size for leaf in params) // self._config.num_replicas,
            "device": device_name(),
            "devices": self.devices.num_devices,
            "processes": jax.process_count(),
            "jax": jax.__version__,
            "flaxres": flaxres.__version__,
            "commit": commit(),
        }

    def split_structs(self, num_images: int) -> DeviceData:
        """Returns shape structs of the result of `put` for a split of `num_images` images."""
        data = DeviceData.structs((num_images,), self._dataset.image_shape)
        return self.devices.replicated_structs(data)

    def batch_structs(self, num_batches: int, process_batch: int) -> DeviceData:
        """Returns shape structs of streamed batches on the devices.

        Args:
          num_batches: number of batches.
          process_batch: images of a batch that this process loads.
        """
        data = DeviceData.structs((num_batches, process_batch), self._dataset.image_shape)
        struct = self.devices.batches_struct
        return DeviceData(
            images=struct(data.images.shape, data.images.dtype),
            labels=struct(data.labels.shape, data.labels.dtype),
            mean=self.devices.replicated_structs(data.mean),
        )

    def lower_train_steps(
        self, state: TrainState, arrays: DeviceData, num_steps: int
    ) -> jax.stages.Lowered:
        """Traces and lowers a dispatch of `num_steps` training steps.

        Args:
          state: train state, or shape structs of it.
          arrays: the training split or streamed batches, or shape structs of them.
          num_steps: number of steps in the dispatch.
        """
        rows = self.indices(0, num_steps)
        return self._lower(self._functions.train_steps, state, arrays, rows, donate=True)

    def compile_train_steps(
        self, state: TrainState, arrays: DeviceData, num_steps: int
    ) -> CompiledStep:
        """Returns the compiled training steps, compiling them on first use.

        Returns:
          `train_steps(state, arrays, rows) -> (state, metrics)`, which donates its `state`.
        """
        return self._compile(
            ("training", arrays.labels.shape, num_steps),
            lambda: self.lower_train_steps(state, arrays, num_steps),
        )

    def _lower(
        self,
        function: StepFunction,
        state: TrainState,
        arrays: DeviceData,
        rows: Int32[np.ndarray, "*replicas batches batch_size"],
        donate: bool = False,
    ) -> jax.stages.Lowered:
        """Traces and lowers a step function.

        Args:
          function: `function(state, arrays, rows)` for one device, with a whole split as `arrays`.
          state: train state, or shape structs of it.
          arrays: a whole split, replicated, or streamed batches, sharded over the devices; or shape
            structs of them.
          rows: int32 (batches, batch_size), indices of the images; only their shape matters.
          donate: if True, the result reuses the buffers of `state`.
        """
        sharded: PyTree = False
        if is_batched(arrays):
            function = on_flat_batches(function)
            sharded = DeviceData(images=True, labels=True, mean=False)
        return self.devices.lower(function, state, arrays, rows, donate=donate, sharded=sharded)

    def _compile(self, key: tuple, lower: Callable[[], jax.stages.Lowered]) -> CompiledStep:
        """Compiles the result of `lower`, unless there is a compiled function for the key."""
        if key not in self._compiled:
            self._compiled[key] = self.devices.compile(lower())
        return self._compiled[key]

    def indices(
        self, step: int, num_steps: int
    ) -> Int32[np.ndarray, "*replicas num_steps batch_size"]:
        """Returns the indices of the training images of `num_steps` steps, starting at `step`.

        Returns:
          int32 (num_steps, batch_size), with a leading axis for the replicas if there are several.
        """
        return stack_replicas([sampler.indices(step, num_steps) for sampler in self._samplers])

    def evaluate(self, state: TrainState, arrays: DeviceData) -> MetricSums:
        """Evaluates every image of a split once, with running statistics.

        Returns:
          Sums on the host, whose `count` is the size of the split. With several replicas, each
          field has a leading axis for them.
        """
        return sum_on_host(self.launch_evaluation(state, arrays))

    def launch_evaluation(self, state: TrainState, arrays: DeviceData) -> list[MetricSums]:
        """Launches the evaluation of a split without waiting for it.

        Returns:
          Sums of each dispatch. `metrics.sum_on_host` waits for them and adds them up.
        """
        evaluate = self.compile_evaluation(state, arrays)
        return [evaluate(state, arrays, rows) for rows in self.evaluation_rows(len(arrays.labels))]

    def lower_evaluation(
        self,
        state: TrainState,
        arrays: DeviceData,
        rows: Int32[np.ndarray, "batches batch_size"] | None = None,
    ) -> jax.stages.Lowered:
        """Traces and lowers one dispatch of an evaluation.

        Args:
          state: train state, or shape structs of it.
          arrays: a whole split or streamed batches, or shape structs of them.
          rows: indices of the images of one dispatch; needed for streamed batches only.
        """
        rows = self.evaluation_rows(len(arrays.labels))[0] if rows is None else rows
        return self._lower(self._functions.evaluate, state, arrays, rows)

    def compile_evaluation(
        self,
        state: TrainState,
        arrays: DeviceData,
        rows: Int32[np.ndarray, "batches batch_size"] | None = None,
    ) -> CompiledStep:
        """Returns the compiled evaluation, compiling it on first use."""
        return self._compile(
            ("evaluation", arrays.labels.shape, None if rows is None else rows.shape),
            lambda: self.lower_evaluation(state, arrays, rows),
        )

    @property
    def layer_statistics(self) -> LayerStatistics:
        """Layer statistics of the run's model, not compiled."""
        return self._functions.layer_statistics

    def lower_layer_statistics(self, state: TrainState, arrays: DeviceData) -> jax.stages.Lowered:
        """Traces and lowers the layer statistics.

        Args:
          state: train state, or shape structs of it.
          arrays: the training split or a streamed batch, or shape structs of them.
        """
        return self._lower(self.layer_statistics, state, arrays, self.indices(0, 1))

    def compile_layer_statistics(self, state: TrainState, arrays: DeviceData) -> CompiledStep:
        """Returns the compiled layer statistics, compiling them on first use."""
        return self._compile(
            ("layers", arrays.labels.shape), lambda: self.lower_layer_statistics(state, arrays)
        )

    def launch_layer_statistics(
        self,
        state: TrainState,
        arrays: DeviceData,
        step: int,
        rows: Int32[np.ndarray, "1 batch_size"] | None = None,
    ) -> PyTree:
        """Launches the layer statistics of the next training batch without waiting for them.

        Args:
          state: train state after `step` steps.
          arrays: the training split, or the streamed batch.
          step: number of steps done.
          rows: indices of the images in the streamed batch; not needed for a whole split.
        """
        rows = self.indices(step, 1) if rows is None else rows
        return self.compile_layer_statistics(state, arrays)(state, arrays, rows)

    def evaluation_rows(self, num_images: int) -> list[Int32[np.ndarray, "batches batch_size"]]:
        """Returns the rows of each dispatch that evaluates a split of `num_images` images.

        A dispatch has one batch on a CPU; otherwise one dispatch has all batches.
        """
        rows = evaluation_batches(
            num_images, self._config.eval_batch_size, self.devices.num_devices
        )
        return np.split(rows, len(rows) if self.devices.platform == "cpu" else 1)
