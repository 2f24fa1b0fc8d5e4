"""The step functions of a run, compiled for its devices."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
from jaxtyping import Float32, Int32
from ml_collections import ConfigDict

import flaxres
from flaxres.data import Dataset, Split, StreamedDataset
from flaxres.data.augment import check_color_channels
from flaxres.data.sampler import EpochSampler, evaluation_batches
from flaxres.errors import ConfigError
from flaxres.models import create_model
from flaxres.parallel.replicas import seeds, stack_replicas
from flaxres.parallel.sharding import AXIS, CompiledStep, Devices, StepFunction, device_name
from flaxres.pretrained.stride_on import resolve_stride
from flaxres.training.initialization import Initialization
from flaxres.training.layer_statistics import LayerStatistics
from flaxres.training.metrics import MetricSums, sum_on_host
from flaxres.training.optimizer import make_optimizer
from flaxres.training.steps import (
    DeviceData,
    is_batched,
    make_evaluate,
    make_train_step,
    make_train_steps,
    on_flat_batches,
)
from flaxres.training.train_state import TrainState
from flaxres.version import commit

PyTree = Any


class CompiledSteps:
    """Model, optimizer and step functions of a run. Each function is compiled at its first use.

    Attributes:
      devices: the devices of the run.
      initialization: the state before the first step.
    """

    def __init__(self, config: ConfigDict, dataset: Dataset | StreamedDataset):
        """Builds the step functions without compiling them.

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
        self.devices = Devices(config)
        axis = AXIS if self.devices.num_devices > 1 else None
        bn_axis = axis if config.bn_scope == "global" else None
        model = create_model(
            config.model, dataset.num_classes, config.dtype, bn_axis, config.transfer.frozen
        )
        check_color_channels(config.augment, dataset.image_shape[2])
        self._layer_options = (dataset.image_shape, dataset.num_classes, axis, bn_axis)
        self._dataset = dataset
        optimizer = make_optimizer(config)
        train_step = make_train_step(model, optimizer, config, axis)
        self._train_steps = make_train_steps(train_step)
        self._evaluate = make_evaluate(model, axis)
        if config.num_replicas > 1:
            if self.devices.num_devices > 1:
                raise ConfigError(
                    f"num_replicas > 1 needs a single device, got {config.num_replicas} replicas "
                    f"on {self.devices.num_devices} devices. Set num_devices=1."
                )
            self._train_steps = jax.vmap(self._train_steps, in_axes=(0, None, 0))
            self._evaluate = jax.vmap(self._evaluate, in_axes=(0, None, None))
        self._samplers = [
            EpochSampler(len(dataset.train), config.batch_size, seed) for seed in seeds(config)
        ]
        self._compiled: dict[tuple, CompiledStep] = {}
        self.initialization = Initialization(
            model, optimizer, config, dataset.image_shape, self.devices
        )

    def put(self, split: Split) -> DeviceData:
        """Puts a split on every device, as uint8 images."""
        return self.devices.replicate(DeviceData(split.images, split.labels, self._mean))

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
        """Returns shapes, dtypes and shardings of the train state on the devices."""
        return self.devices.replicated_shape_structs(self.state_shape)

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

    def compile_train_steps(
        self, state: TrainState, arrays: DeviceData, num_steps: int
    ) -> CompiledStep:
        """Compiles a dispatch of `num_steps` training steps. The compiled function is cached.

        Args:
          state: train state, or its shapes (`state_structs`).
          arrays: the training split, or streamed batches.
          num_steps: number of steps in the dispatch.

        Returns:
          `train_steps(state, arrays, rows) -> (state, metrics)`, which donates its `state`.
        """
        rows = self.indices(0, num_steps)
        return self._compile(self._train_steps, state, arrays, rows, donate=True)

    def _compile(
        self,
        function: StepFunction,
        state: TrainState,
        arrays: DeviceData,
        rows: Int32[np.ndarray, "*replicas batches batch_size"],
        donate: bool = False,
    ) -> CompiledStep:
        """Compiles a step function for the shapes of its arguments, unless it is in the cache.

        Args:
          function: `function(state, arrays, rows)` for one device, with a whole split as `arrays`.
          state: train state.
          arrays: a whole split, replicated, or streamed batches, sharded over the devices.
          rows: int32 (batches, batch_size), indices of the images.
          donate: if True, the result reuses the buffers of `state`.
        """
        key = (id(function), arrays.labels.shape, rows.shape)
        if key not in self._compiled:
            sharded: PyTree = False
            if is_batched(arrays):
                function = on_flat_batches(function)
                sharded = DeviceData(images=True, labels=True, mean=False)
            self._compiled[key] = self.devices.compile(
                function, state, arrays, rows, donate=donate, sharded=sharded
            )
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
        return [evaluate(state, arrays, rows) for rows in self._evaluation_rows(arrays)]

    def compile_evaluation(
        self,
        state: TrainState,
        arrays: DeviceData,
        rows: Int32[np.ndarray, "batches batch_size"] | None = None,
    ) -> CompiledStep:
        """Compiles one dispatch of an evaluation. The compiled function is cached.

        Args:
          state: train state.
          arrays: a whole split, or streamed batches.
          rows: indices of the images of one dispatch; needed for streamed batches only.
        """
        rows = self._evaluation_rows(arrays)[0] if rows is None else rows
        return self._compile(self._evaluate, state, arrays, rows)

    @functools.cached_property
    def layer_statistics(self) -> LayerStatistics:
        """Layer statistics of the run's model, not compiled."""
        return LayerStatistics(self._config, *self._layer_options)

    def compile_layer_statistics(self, state: TrainState, arrays: DeviceData) -> CompiledStep:
        """Compiles the layer statistics. The compiled function is cached."""
        return self._compile(self.layer_statistics, state, arrays, self.indices(0, 1))

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

    def _evaluation_rows(self, arrays: DeviceData) -> list[Int32[np.ndarray, "batches batch_size"]]:
        """Returns the rows of each dispatch of an evaluation: one batch on a CPU, else all."""
        rows = evaluation_batches(
            len(arrays.labels), self._config.eval_batch_size, self.devices.num_devices
        )
        return np.split(rows, len(rows) if jax.default_backend() == "cpu" else 1)
