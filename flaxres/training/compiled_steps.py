"""The functions of one experiment, ready to be compiled for its device."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

import flaxres
from flaxres.data import Dataset, Split, StreamedDataset
from flaxres.data.augment import check_color_channels
from flaxres.data.sampler import EpochSampler, evaluation_batches
from flaxres.errors import ConfigError
from flaxres.models import create_model
from flaxres.parallel.replicas import seeds
from flaxres.parallel.sharding import AXIS, Devices, StepFunction, device_name
from flaxres.pretrained.load import without_head
from flaxres.training.initial_weights import load_pretrained_weights
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

MAX_STEPS_PER_DISPATCH = 100  # where the config leaves it open: enough to hide the dispatch


# The arrays of the deepest nets are initialised one by one, as compiling it all takes too long.
MAX_COMPILED_ARRAYS = 300


class CompiledSteps:
    """Model, optimizer and steps of a config on a data set.

    Attributes:
      devices: those that it runs on.
    """

    def __init__(self, config: ConfigDict, dataset: Dataset | StreamedDataset):
        """Builds the functions; compiles nothing yet.

        Raises:
          ConfigError: the batch is larger than the training split, or does not fit the devices.
        """
        if config.batch_size > len(dataset.train):
            raise ConfigError(
                f"batch_size must be at most {len(dataset.train):,}, the images in "
                f"{config.dataset.train_split!r} of {dataset.name}, got {config.batch_size:,}"
            )
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
                    f"num_replicas above 1 is for a single device, got {config.num_replicas} on "
                    f"{self.devices.num_devices} devices; choose num_devices=1"
                )
            self._train_steps = jax.vmap(self._train_steps, in_axes=(0, None, 0))
            self._evaluate = jax.vmap(self._evaluate, in_axes=(0, None, None))
        self._orders = [
            EpochSampler(len(dataset.train), config.batch_size, seed) for seed in seeds(config)
        ]
        self._compiled: dict[tuple, StepFunction] = {}

    def put(self, split: Split) -> DeviceData:
        """Puts a split on every device, as uint8."""
        return self.devices.replicate(DeviceData(split.images, split.labels, self._mean))

    @functools.cached_property
    def _mean(self) -> np.ndarray:
        return self._dataset.mean_image()

    def initial_state(self) -> TrainState:
        """The state before the first step, with the weights of `config.init_from` if there are any.

        Raises:
          ConfigError, WeightsError: these cannot be read, or are of another net.
        """
        weights = self._weights()
        create = self._create
        if len(jax.tree.leaves(self.state_shape.params)) <= MAX_COMPILED_ARRAYS:
            # It runs once, so it is compiled for a short compilation, not for speed.
            create = jax.jit(create, compiler_options={"xla_backend_optimization_level": 0})
        state = create(self._seeds)
        # With a new head, that layer's are the seed's.
        weights = {name: {**getattr(state, name), **own} for name, own in weights.items()}
        return self.devices.replicate(state.replace(**weights))

    def _weights(self) -> dict[str, PyTree]:
        """The parts of the state that `config.init_from` has, if it is given; each replica's."""
        if self._config.init_from is None:
            return {}
        variables = {name: getattr(self.state_shape, name) for name in ("params", "batch_stats")}
        replicas = self._config.num_replicas
        one = jax.tree.map(lambda leaf: leaf.update(shape=leaf.shape[replicas > 1 :]), variables)
        new_head, std = self._config.transfer.new_head, self._config.transfer.image_std
        path = Path(self._config.init_from).expanduser()
        found = load_pretrained_weights(path, one, self._config.model, new_head, std)
        variables = without_head(variables) if new_head else variables
        return jax.tree.map(lambda leaf, like: np.broadcast_to(leaf, like.shape), found, variables)

    @functools.cached_property
    def state_shape(self) -> TrainState:
        """The state's shapes and dtypes, without computing it."""
        return jax.eval_shape(self._create, self._seeds)

    def info(self) -> dict[str, object]:
        """Number of parameters, device, versions and commit, for the record."""
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
    ) -> StepFunction:
        """Compiles `num_steps` steps in one dispatch, once; the state passed to them is donated."""
        rows = self.indices(0, num_steps)
        return self._compile(self._train_steps, state, arrays, rows, donate=True)

    def _compile(
        self, function: StepFunction, state: TrainState, arrays: DeviceData, rows: np.ndarray, **options
    ) -> StepFunction:
        """Compiles a function for arrays and rows of such shapes, once.

        The arrays are a split, or batches (`flaxres.training.input_pipeline`), of which each device has its own part.
        """
        key = (id(function), arrays.labels.shape, rows.shape)
        if key not in self._compiled:
            if is_batched(arrays):
                function, options["sharded"] = (
                    on_flat_batches(function),
                    DeviceData(True, True, False),
                )
            self._compiled[key] = self.devices.compile(function, state, arrays, rows, **options)
        return self._compiled[key]

    def indices(self, step: int, num_steps: int) -> np.ndarray:
        """Images of the batches of `num_steps` steps from `step` on: see `EpochSampler.indices`."""
        return _stack([order.indices(step, num_steps) for order in self._orders])

    def evaluate(self, state: TrainState, arrays: DeviceData) -> MetricSums:
        """Sums over every image of a split, once each, with running statistics.

        Returns:
          `MetricSums` with `count` equal to the size of the split; of each replica if there are several.
        """
        return sum_on_host(self.launch_evaluation(state, arrays))

    def launch_evaluation(self, state: TrainState, arrays: DeviceData) -> list[MetricSums]:
        """Starts an evaluation and returns at once; `metrics.sum_on_host` of what it returns waits."""
        evaluate = self.compile_evaluation(state, arrays)
        return [evaluate(state, arrays, part) for part in self._evaluation_parts(arrays)]

    def compile_evaluation(
        self, state: TrainState, arrays: DeviceData, rows: np.ndarray | None = None
    ) -> StepFunction:
        """Compiles the evaluation of a split of that size, or of batches of such `rows`, once."""
        rows = self._evaluation_parts(arrays)[0] if rows is None else rows
        return self._compile(self._evaluate, state, arrays, rows)

    @functools.cached_property
    def layer_statistics(self) -> LayerStatistics:
        """Those of the config's net, not compiled."""
        return LayerStatistics(self._config, *self._layer_options)

    def compile_layer_statistics(self, state: TrainState, arrays: DeviceData) -> StepFunction:
        """Compiles them for a split of that size, or for batches, once."""
        return self._compile(self.layer_statistics, state, arrays, self.indices(0, 1))

    def launch_layer_statistics(
        self, state: TrainState, arrays: DeviceData, step: int, rows: np.ndarray | None = None
    ) -> PyTree:
        """Starts those of the batch that follows `state`, after `step` steps; returns at once.

        With batches for arrays, `rows` are that batch's.
        """
        rows = self.indices(step, 1) if rows is None else rows
        return self.compile_layer_statistics(state, arrays)(state, arrays, rows)

    def _evaluation_parts(self, arrays: DeviceData) -> list[np.ndarray]:
        """Rows of each dispatch of an evaluation: one batch on a CPU, elsewhere all of them."""
        rows = evaluation_batches(
            len(arrays.labels), self._config.eval_batch_size, self.devices.num_devices
        )
        return np.split(rows, len(rows) if jax.default_backend() == "cpu" else 1)

    @property
    def _seeds(self) -> np.ndarray:
        return _stack([np.uint32(seed) for seed in seeds(self._config)])

    def _create(self, seeds: jax.Array) -> TrainState:
        create = functools.partial(
            create_state, self._model, self._optimizer, self._config, self._image_shape
        )
        return jax.vmap(create)(seeds) if self._config.num_replicas > 1 else create(seeds)


def _stack(parts: list[np.ndarray]) -> np.ndarray:
    """With a leading axis for the replicas, if there are several."""
    return parts[0] if len(parts) == 1 else np.stack(parts)


def steps_per_dispatch(config: ConfigDict) -> int:
    """How many steps one dispatch holds, so that logs, evaluations and checkpoints fall between.

    One on a CPU: XLA runs convolutions inside loops many times slower there.
    """
    automatic = 1 if jax.default_backend() == "cpu" else MAX_STEPS_PER_DISPATCH
    most = config.steps_per_dispatch or automatic
    periods = (config.log_every, config.eval_every, config.checkpoint_every)
    common = math.gcd(*periods, config.log_layers_every)  # 0, never, is a multiple of all
    return max(k for k in range(1, min(most, common) + 1) if common % k == 0)
