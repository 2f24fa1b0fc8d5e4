"""Initial train state of a run, computed while other programs compile."""

from __future__ import annotations

import dataclasses
import functools
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from flaxres import cpu
from flaxres.parallel.replicas import seeds, stack_replicas
from flaxres.parallel.sharding import Devices
from flaxres.pretrained.load import without_head
from flaxres.training.initial_weights import load_pretrained_weights, weights_path
from flaxres.training.train_state import AveragedTrainState, TrainState, create_state

PyTree = Any

# Models with more parameter arrays are initialized op by op, because compiling the initialization
# of the deepest models takes too long.
MAX_COMPILED_ARRAYS = 300


class Initialization:
    """Computes the initial state of a run, with the weights of `config.init_from` if set."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: optax.GradientTransformation,
        config: ConfigDict,
        image_shape: tuple[int, int, int],
        devices: Devices,
    ):
        """Prepares the initialization; nothing is traced or computed yet.

        Args:
          model: the model that the config describes.
          optimizer: the optimizer of the run.
          config: config of the run.
          image_shape: (height, width, channels).
          devices: devices of the run, on which the state is replicated.
        """
        self._config = config
        self._image_shape = image_shape
        self._devices = devices
        self._create = functools.partial(create_state, model, optimizer, config, image_shape)
        if config.num_replicas > 1:
            self._create = jax.vmap(self._create)
        # Seeds of the replicas, uint32 (replicas,), or one uint32 if there is one replica.
        self._seeds = stack_replicas([np.uint32(seed) for seed in seeds(config)])
        self._weights: dict[str, PyTree] | None = None  # set by `read_pretrained_weights`

    @functools.cached_property
    def state_shape(self) -> TrainState:
        """Shapes and dtypes of the train state, without computing it.

        Raises:
          ConfigError: the model does not fit the images, or frozen layers do not fit the model.
        """
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), self._traced.out_info
        )

    @functools.cached_property
    def _traced(self) -> jax.stages.Traced:
        # The initialization runs once, so compilation time matters more than speed.
        options = {"xla_backend_optimization_level": 0}
        return jax.jit(self._create, compiler_options=options).trace(self._seeds)

    def read_pretrained_weights(self) -> None:
        """Reads the weights of `config.init_from` for `start`.

        Call it before writing to the workdir, so that the command can be repeated with others.

        Raises:
          ConfigError: the model does not fit the images, or options do not fit the model.
          WeightsError: the weights cannot be read, or belong to another model.
        """
        self._weights = self._pretrained_weights()

    def start(self) -> Future[TrainState]:
        """Starts to compute the state, in a thread unless it is computed op by op.

        Returns:
          A future of the state, replicated on the devices.

        Raises:
          ConfigError: the model does not fit the images, or frozen layers do not fit the model.
          WeightsError: the weights cannot be read, or belong to another model.
        """
        weights = self._pretrained_weights() if self._weights is None else self._weights
        self._weights = None

        def finish(state: TrainState) -> TrainState:
            # A new head is not among the pretrained weights and keeps its initialization.
            merged: dict[str, Any] = {
                name: {**getattr(state, name), **layers} for name, layers in weights.items()
            }
            state = dataclasses.replace(state, **merged)
            if isinstance(state, AveragedTrainState):
                state = AveragedTrainState.start(state)
            return self._devices.replicate(state)

        if len(jax.tree.leaves(self.state_shape.params)) > MAX_COMPILED_ARRAYS:
            return completed(finish(self._create(self._seeds)))
        lowered = self._traced.lower()
        executor = ThreadPoolExecutor(1, "initialization")

        def run() -> TrainState:
            state = finish(lowered.compile()(self._seeds))
            cpu.release_free_memory()
            return state

        future = executor.submit(run)
        executor.shutdown(wait=False)
        return future

    def _pretrained_weights(self) -> dict[str, PyTree]:
        """Returns the params and batch statistics of `config.init_from`, repeated for replicas."""
        config = self._config
        if config.init_from is None:
            return {}
        shapes = {name: getattr(self.state_shape, name) for name in ("params", "batch_stats")}
        replica_axes = 1 if config.num_replicas > 1 else 0
        shapes_of_one = jax.tree.map(
            lambda leaf: leaf.update(shape=leaf.shape[replica_axes:]), shapes
        )
        new_head = config.transfer.new_head
        weights = load_pretrained_weights(
            weights_path(config),
            shapes_of_one,
            config.model,
            new_head,
            config.transfer.image_std,
            config.transfer.shortcut_padding,
            self._image_shape[:2],
        )
        shapes = without_head(shapes) if new_head else shapes
        return jax.tree.map(lambda leaf, like: np.broadcast_to(leaf, like.shape), weights, shapes)


def completed(state: TrainState) -> Future[TrainState]:
    """Returns a future whose result is there already."""
    future: Future[TrainState] = Future()
    future.set_result(state)
    return future
