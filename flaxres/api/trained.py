"""Trained models in Python: predictions, evaluations and exports."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int64

from flaxres.api.arguments import bool_of, integer_of, of_type, path_of
from flaxres.api.input_images import Arrays, ImagesOrPaths, PathName, pixels_of, read_images
from flaxres.data.augment import normalize
from flaxres.errors import ArgumentError, DatasetError, counted, print_note
from flaxres.evaluation.evaluate import evaluate_models
from flaxres.evaluation.top_k import TopKAccumulator
from flaxres.field_checks import shown
from flaxres.inference import trained_model
from flaxres.inference.export import write_export
from flaxres.inference.predictor import Predictor


def _sizes(scales: object) -> Sequence[object]:
    return scales if isinstance(scales, Sequence) else [scales]


def _size_of(size: object) -> int:
    return integer_of(size, "short_side and scales", None, "integers, in pixels")


@dataclasses.dataclass(frozen=True, eq=False)
class Predictions:
    """Class probabilities of images.

    Attributes:
      probabilities: float32 (images, classes); each row adds up to 1.
      class_names: names of all classes, by label.
      files: paths of the images, or () if they were arrays.
    """

    probabilities: Float32[np.ndarray, "images classes"]
    class_names: tuple[str, ...]
    files: tuple[str, ...] = ()

    @property
    def labels(self) -> Int64[np.ndarray, " images"]:
        """Labels of the most probable classes; the lower one of two that are equal."""
        return self.probabilities.argmax(axis=1).astype(np.int64)

    @property
    def names(self) -> list[str]:
        """Names of the most probable classes."""
        return [self.class_names[label] for label in self.labels]

    def top(self, count: int = 5) -> list[list[tuple[str, float]]]:
        """Returns names and probabilities of the most probable classes of each image.

        Args:
          count: largest number of classes, highest probability first.

        Raises:
          ArgumentError: `count` is no integer of at least 1.
        """
        count = integer_of(count, "count", 1)
        order = np.argsort(-self.probabilities, axis=1, kind="stable")[:, :count]
        return [
            [(self.class_names[label], float(row[label])) for label in labels]
            for row, labels in zip(self.probabilities, order, strict=True)
        ]

    def __len__(self) -> int:
        return len(self.probabilities)


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedModel(trained_model.TrainedModel):
    """A trained model that predicts classes.

    For other uses, `model` is the Flax module and `variables` are its variables:

        logits = trained.model.apply(trained.variables, trained.normalize(images), train=False)

    Attributes:
      source: directory of the run, file of the weights, or name of pretrained weights of flaxres.
      config: config of the run.
      step: number of training steps done.
      variables: collections 'params' and 'batch_stats', float32 NumPy arrays.
      input_spec: mean image and class names.
      model: the Flax module.
      batch_stats: statistics that norms use, 'running' or 'population'.
      errors: percentages after `step`, 'train_error' (as training logged it) and 'test_error'; {}
        if they are unknown. Average weights have no 'train_error'.
      ema: True if the variables are the moving average of those of the run (`config.ema_decay`).
    """

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, by label."""
        return self.input_spec.class_names

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of the model's images."""
        return self.input_spec.image_shape

    def normalize(self, images: Arrays) -> Array:
        """Returns images as the model reads them: float32, in 0..1 minus the mean image.

        Args:
          images: uint8 (..., height, width, channels) of the model's `image_shape`, as an array of
            NumPy, JAX or PyTorch, an image of PIL, or a sequence of them; or nested lists of
            integers from 0 to 255.

        Raises:
          ArgumentError: they have another dtype or shape, or masked pixels.
        """
        return normalize(jnp.asarray(pixels_of(images, self.image_shape)), self.input_spec.mean)

    def predict(self, images: ImagesOrPaths) -> Predictions:
        """Computes the class probabilities of images.

        An image of another size than the model's is resized to cover it and cropped at its center,
        as in the evaluation of a split.

        Args:
          images: uint8 arrays (height, width, channels) or (images, height, width, channels); or
            paths of image files, or patterns such as 'photos/*.jpg'; one or a sequence.

        Raises:
          ArgumentError: there is no image, or an array has another dtype or shape.
          PredictionError: a file does not exist or cannot be decoded.
        """
        short_side = self.config.dataset.eval_short_side
        arrays, files = read_images(images, self.image_shape, short_side)
        if not arrays:
            raise ArgumentError("predict needs at least one image, got none")
        rows = []
        size = self.image_shape[:2]
        # Numbers of images are rounded up to powers of two, so that few programs are compiled.
        count = 1 << (len(arrays) - 1).bit_length()
        batch_size = self._predictor.batch_size(size, count)
        for start in range(0, len(arrays), batch_size):
            batch = np.stack(arrays[start : start + batch_size])
            rows.append(np.asarray(self._predictor.launch(batch, batch_size))[: len(batch)])
        return Predictions(np.exp(np.concatenate(rows)), self.class_names, tuple(files))

    def evaluate(
        self,
        splits: str | Sequence[str] = (),
        *,
        images: ImagesOrPaths | None = None,
        labels: Sequence[int] | np.ndarray | None = None,
        test_crops: str = "split",
        short_side: int | None = None,
        scales: Sequence[int] = (),
        by_class: bool = False,
    ) -> dict[str, float]:
        """Computes loss and errors on splits of the data set, or on other images.

            trained.evaluate("test")["test_error"]
            trained.evaluate(images=images, labels=labels)["error"]

        Args:
          splits: 'train', 'validation' or 'test', or several (default: all that the data set has).
          images: images, as for `predict`, instead of splits.
          labels: integer labels of `images`.
          test_crops: for splits: 'split' (as the data set provides images), 'center', '10-crop' or
            'multi-scale'.
          short_side: short side for center and 10-crop, in pixels (None: the protocol's default).
          scales: short sides for multi-scale, in pixels (empty: the protocol's defaults).
          by_class: if True, also returns the error of each class.

        Returns:
          For each split SPLIT_loss (in nats), SPLIT_error and, with more than five classes,
          SPLIT_top5_error (in percent), SPLIT_images and, with `by_class`, SPLIT_error_CLASS (in
          percent); and 'step'. For `images`, the same names without 'SPLIT_'.

        Raises:
          ArgumentError: both splits and images are given, or labels do not fit the images.
          UserError: the data set is missing, or lacks a split, or the crops do not fit the model.
        """
        splits = [splits] if isinstance(splits, str) else splits
        if not isinstance(splits, Sequence) or not all(isinstance(s, str) for s in splits):
            raise ArgumentError(f"splits must be names such as 'test', got {shown(splits)}")
        splits = list(splits)
        of_type(test_crops, str, "test_crops", "the name of a crop protocol, such as '10-crop'")
        by_class = bool_of(by_class, "by_class")
        scales = [_size_of(size) for size in _sizes(scales)]
        short_side = None if short_side is None else _size_of(short_side)
        if images is None and labels is None:
            try:
                record = evaluate_models(
                    [self],
                    self.config,
                    test_crops=test_crops,
                    short_side=short_side,
                    scales=scales,
                    splits=splits,
                    by_class=by_class,
                    log=print_note,
                )
            except DatasetError as error:
                raise DatasetError(f"{error}; or give other images and their labels") from error
            return _as_numbers(record)
        if splits or images is None or labels is None:
            raise ArgumentError("evaluate needs either splits, or both images and labels")
        probabilities = self.predict(images).probabilities
        try:
            labels = np.asarray(labels)
        except ValueError:  # nested sequences of several lengths
            raise ArgumentError(
                f"labels must be {counted(len(probabilities), 'integer')}, one for each image, got "
                f"{shown(labels)}"
            ) from None
        num_classes = len(self.class_names)
        if labels.shape != (len(probabilities),) or not np.issubdtype(labels.dtype, np.integer):
            raise ArgumentError(
                f"labels must be {counted(len(probabilities), 'integer')}, one for each image, got "
                f"{labels.dtype} of shape {labels.shape}"
            )
        if labels.min() < 0 or labels.max() >= num_classes:
            raise ArgumentError(
                f"labels must be from 0 to {num_classes - 1}, got {labels.min()} to {labels.max()}"
            )
        totals = TopKAccumulator(num_crops=1)
        with np.errstate(divide="ignore"):
            for index, (label, row) in enumerate(zip(labels, np.log(probabilities), strict=True)):
                totals.add(index, int(label), row)
        record = totals.averages("")
        if by_class:
            record |= totals.errors_by_class("", self.class_names)
        return _as_numbers({name.removeprefix("_"): value for name, value in record.items()})

    def export(self, output: PathName, format: str | None = None) -> Path:
        """Writes the model for `flaxres.load_pretrained`, JAX, PyTorch or ONNX Runtime.

        Args:
          output: the file, such as 'model.safetensors', 'model.stablehlo', 'model.pth' or
            'model.onnx' (`docs/export.md`). Except for weights files, which contain them, class
            names are in a JSON file beside it, OUTPUT.json.
          format: 'safetensors', 'stablehlo', 'torch' or 'onnx' (default: by the suffix).

        Returns:
          The path of the file.

        Raises:
          UserError: a file cannot be written, a package is not installed, or the format cannot hold
            the model.
        """
        path = path_of(output, "output")
        if format is not None:
            of_type(format, str, "format", "the name of a format, such as 'torch'")
        write_export(self, path, format)
        return path

    @functools.cached_property
    def _predictor(self) -> Predictor:
        config = self.config.copy_and_resolve_references()
        config.num_devices = 1
        return Predictor([self], config)

    def __repr__(self) -> str:
        return f"TrainedModel({self.name}, step={self.step})"


def _as_numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """Returns a record with Python's numbers; steps and numbers of images are integers."""
    counts = ("step", "images")
    return {
        name: int(value) if name.endswith(counts) else float(value)
        for name, value in record.items()
    }
