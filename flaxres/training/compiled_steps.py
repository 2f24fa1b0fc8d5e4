"""The step functions of a run, compiled for its devices."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
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
from flaxres.parallel.replicas import seeds
from flaxres.parallel.sharding import AXIS, CompiledStep, Devices, StepFunction, device_name
from flaxres.pretrained.load import without_head
from flaxres.pretrained.stride_on import resolve_stride
from flaxres.training.initial_weights import load_pretrained_weights, weights_path
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
from flaxres.training.train_state import TrainState, create_state
from flaxres.version import commit

PyTree = Any

# Models with more parameter arrays are initialized op by op, because compiling the initialization
# of the deepest models takes too long.
MAX_COMPILED_ARRAYS = 300


class CompiledSteps:
    """Model, optimizer and step functions of a run. Each function is compiled at its first use.

    Attributes:
      devices: the devices of the run.
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
        self._model = create_model(
            config.model, dataset.num_classes, config.dtype, bn_axis, config.transfer.frozen
        )
        check_color_channels(config.augment, dataset.image_shape[2])
        self._layer_options = (dataset.image_shape, dataset.num_classes, axis, bn_axis)
        self._optimizer = make_optimizer(config)
        self._image_shape = dataset.image_shape
        self._dataset = dataset
        train_step = make_train_step(self._model, self._optimizer, config, axis)
        self._train_steps = make_train_steps(train_step)
        self._evaluate = make_evaluate(self._model, axis)
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
        self._weights: dict[str, PyTree] | None = None  # read in advance

    def put(self, split: Split) -> DeviceData:
        """Puts a split on every device, as uint8 images."""
        return self.devices.replicate(DeviceData(split.images, split.labels, self._mean))

    @functools.cached_property
    def _mean(self) -> Float32[np.ndarray, "height width channels"]:
        return self._dataset.mean_image()

    def read_pretrained_weights(self) -> None:
        """Reads the weights of `config.init_from` for `initial_state`.

        A run calls it before it writes anything, so that it can be repeated with other weights.

        Raises:
          ConfigError: the model does not fit the images, or options do not fit the model.
          WeightsError: the weights cannot be read, or belong to another model.
        """
        self._weights = self._pretrained_weights()

    def initial_state(self) -> TrainState:
        """Returns the state before the first step, with the weights of `config.init_from` if set.

        Raises:
          ConfigError: the model does not fit the images, or frozen layers do not fit the model.
          WeightsError: the weights cannot be read, or belong to another model.
        """
        weights = self._pretrained_weights() if self._weights is None else self._weights
        self._weights = None
        create = self._create
        if len(jax.tree.leaves(self.state_shape.params)) <= MAX_COMPILED_ARRAYS:
            # It runs only once, so compilation time matters more than speed.
            create = jax.jit(create, compiler_options={"xla_backend_optimization_level": 0})
        state = create(self._seeds)
        # A new head is not among the pretrained weights and keeps its initialization.
        merged: dict[str, Any] = {
            name: {**getattr(state, name), **layers} for name, layers in weights.items()
        }
        return self.devices.replicate(dataclasses.replace(state, **merged))

    def _pretrained_weights(self) -> dict[str, PyTree]:
        """Returns the params and batch statistics of `config.init_from`, repeated for replicas."""
        if self._config.init_from is None:
            return {}
        shapes = {name: getattr(self.state_shape, name) for name in ("params", "batch_stats")}
        replica_axes = 1 if self._config.num_replicas > 1 else 0
        shapes_of_one = jax.tree.map(
            lambda leaf: leaf.update(shape=leaf.shape[replica_axes:]), shapes
        )
        transfer, new_head = self._config.transfer, self._config.transfer.new_head
        weights = load_pretrained_weights(
            weights_path(self._config),
            shapes_of_one,
            self._config.model,
            new_head,
            transfer.image_std,
            transfer.shortcut_padding,
            self._image_shape[:2],
        )
        shapes = without_head(shapes) if new_head else shapes
        return jax.tree.map(lambda leaf, like: np.broadcast_to(leaf, like.shape), weights, shapes)

    @functools.cached_property
    def state_shape(self) -> TrainState:
        """Shapes and dtypes of the train state, without computing it."""
        return jax.eval_shape(self._create, self._seeds)

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
        return _stack_replicas([sampler.indices(step, num_steps) for sampler in self._samplers])

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

    @property
    def _seeds(self) -> Any:
        """Seeds of the replicas, uint32 (replicas,), or one uint32 if there is one replica."""
        return _stack_replicas([np.uint32(seed) for seed in seeds(self._config)])

    def _create(self, seeds: Any) -> TrainState:
        create = functools.partial(
            create_state, self._model, self._optimizer, self._config, self._image_shape
        )
        return jax.vmap(create)(seeds) if self._config.num_replicas > 1 else create(seeds)


def _stack_replicas(values: Sequence[Any]) -> Any:
    """Stacks the values of several replicas on a leading axis; returns that of a single one."""
    return values[0] if len(values) == 1 else np.stack(values)
