"""Model, optimizer and step functions of a run, before they are compiled for its devices."""

from __future__ import annotations

import functools

import jax
from ml_collections import ConfigDict

from flaxres.data import Dataset, StreamedDataset
from flaxres.data.augment import check_color_channels
from flaxres.data.augment_checks import check_policy_channels
from flaxres.errors import ConfigError
from flaxres.models import create_model
from flaxres.parallel.sharding import AXIS
from flaxres.training.augmented_batch import pixel_augmentation
from flaxres.training.layer_statistics import LayerStatistics
from flaxres.training.optimizer import make_optimizer
from flaxres.training.steps import make_evaluate, make_train_step, make_train_steps


class StepFunctions:
    """Model, optimizer and step functions that a config describes.

    Attributes:
      model: the model.
      optimizer: the optimizer.
      train_steps: `train_steps(state, arrays, rows) -> (state, metrics)` of several steps on one
        device (`flaxres.training.steps.make_train_steps`), mapped over the replicas.
      evaluate: `evaluate(state, arrays, rows) -> sums`, likewise.
    """

    def __init__(self, config: ConfigDict, dataset: Dataset | StreamedDataset, num_devices: int):
        """Builds the functions; nothing is traced yet.

        Args:
          config: config of the run.
          dataset: data set of the run, loaded or streamed.
          num_devices: number of devices that share a batch.

        Raises:
          ConfigError: the model or the augmentation does not fit the images, or there are several
            replicas on several devices.
        """
        axis = AXIS if num_devices > 1 else None
        bn_axis = axis if config.bn_scope == "global" else None
        self.model = create_model(
            config.model, dataset.num_classes, config.dtype, bn_axis, config.transfer.frozen
        )
        check_color_channels(config.augment, dataset.image_shape[2])
        check_policy_channels(config.augment, dataset.image_shape[2])
        self._layer_options = (config, dataset.image_shape, dataset.num_classes, axis, bn_axis)
        self.optimizer = make_optimizer(config)
        train_step = make_train_step(self.model, self.optimizer, config, axis)
        self.train_steps = make_train_steps(train_step, pixel_augmentation(config, axis))
        self.evaluate = make_evaluate(self.model, axis)
        if config.num_replicas > 1:
            if num_devices > 1:
                raise ConfigError(
                    f"num_replicas > 1 needs a single device, got {config.num_replicas} replicas "
                    f"on {num_devices} devices. Set num_devices=1."
                )
            self.train_steps = jax.vmap(self.train_steps, in_axes=(0, None, 0))
            self.evaluate = jax.vmap(self.evaluate, in_axes=(0, None, None))

    @functools.cached_property
    def layer_statistics(self) -> LayerStatistics:
        """Layer statistics of the model."""
        return LayerStatistics(*self._layer_options)
