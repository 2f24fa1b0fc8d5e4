"""Predictions for image files: the most probable classes under a run's newest checkpoint.

python -m flaxres.main --mode=predict --workdir=RUN --images='photos/*.jpg' --top=5 [--json]

An image is resized to cover the model's input size and cropped at its center
(`dataset.image_size` and `dataset.eval_short_side`). An image of the data set therefore gets the
same probabilities as in the evaluation of its split.
"""

from __future__ import annotations

import glob
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from rich import box
from rich.table import Table

from flaxres.data.decode import BrokenImageError, decode, has_damaged_metadata
from flaxres.data.image_files import read_image_file
from flaxres.data.notices import print_notice
from flaxres.data.resize import resize_to_shape
from flaxres.errors import ConfigError, DatasetError, UserError, printable
from flaxres.inference.predictor import Predictor
from flaxres.inference.trained_model import TrainedModel
from flaxres.terminal import print_table

# An image file with the names and probabilities of its most probable classes, highest first.
Prediction = tuple[str, list[tuple[str, float]]]


class PredictionError(UserError):
    """An image file does not exist or cannot be decoded."""


def print_predictions(
    trained_model: TrainedModel, images: Sequence[str], top: int = 5, as_json: bool = False
) -> None:
    """Prints the most probable classes of image files.

    Args:
      trained_model: the model that predicts.
      images: files, or patterns such as photos/*.jpg.
      top: number of classes to print for each image; at most all classes are printed.
      as_json: if True, prints one JSON object per line instead of a table: {"image": FILE,
        "predictions": [{"class": NAME, "probability": P}, ...]}.

    Raises:
      ConfigError: `images` is empty, or `top` is below 1.
      PredictionError: some files failed. All others have been printed, and all errors except this
        one have been printed on standard error.
    """
    if not images:
        raise ConfigError("--images is missing; give files or patterns, e.g. --images='*.jpg'")
    if top < 1:
        raise ConfigError(f"--top must be at least 1, got {top}")
    files, errors = find_images(images)
    predictions = predict_files(trained_model, files, top, errors)
    if as_json:
        for file, classes in predictions:
            listed = [{"class": name, "probability": value} for name, value in classes]
            print(json.dumps({"image": file, "predictions": listed}), flush=True)
    else:
        _print_table(predictions, trained_model.name)
    for error in errors[:-1]:
        print(f"error: {printable(error)}", file=sys.stderr)
    if errors:
        sys.stdout.flush()
        raise PredictionError(errors[-1])


def find_images(images: Iterable[str]) -> tuple[list[str], list[str]]:
    """Expands names and patterns of image files.

    Brackets in a pattern that matches no file are taken as parts of names.

    Returns:
      The files, each once, and an error message for each name or pattern without a file.
    """
    files: dict[str, None] = {}
    errors = []
    for name in images:
        path = os.path.expanduser(name)
        if os.path.isdir(path):
            errors.append(f"{name} is a directory; give its files, e.g. {name.rstrip('/')}/*.jpg")
        elif os.path.lexists(path):  # before has_magic, because a file name may contain brackets
            files[path] = None
        elif not glob.has_magic(path):
            errors.append(f"file {name} does not exist")
        elif matches := _matching_files(path) or _matching_files(path.replace("[", "[[]")):
            files |= dict.fromkeys(matches)
        else:
            errors.append(f"no file matches {name}")
    return list(files), errors


def _matching_files(pattern: str) -> list[str]:
    return sorted(file for file in glob.glob(pattern, recursive=True) if not os.path.isdir(file))


def predict_files(
    trained_model: TrainedModel, files: Sequence[str], top: int, errors: list[str]
) -> Iterator[Prediction]:
    """Yields the most probable classes of each file that can be decoded, in the order of `files`.

    Args:
      trained_model: the model that predicts.
      files: image files of any size.
      top: number of classes for each image.
      errors: list to which a message is appended for each file that fails.
    """
    if not files:
        return
    config = trained_model.config.copy_and_resolve_references()
    config.num_devices = 1
    predictor = Predictor([trained_model], config)
    class_names = trained_model.input_spec.class_names
    height, width, channels = trained_model.input_spec.image_shape
    short_side = config.dataset.eval_short_side
    batch_size = predictor.batch_size((height, width), len(files))
    batch_files: list[str] = []
    batch_images: list[np.ndarray] = []
    num_damaged = 0
    for number, file in enumerate(files, start=1):
        try:
            image = decode(read_image_file(file), file, channels)
            num_damaged += has_damaged_metadata(image)
            batch_images.append(resize_to_shape(image, (height, width), short_side))
            batch_files.append(file)
        except BrokenImageError as error:
            errors.append(error.problem)
        except DatasetError as error:
            errors.append(str(error))
        if batch_files and (len(batch_files) == batch_size or number == len(files)):
            rows = np.exp(np.asarray(predictor.launch(np.stack(batch_images), batch_size)))
            for name, row in zip(batch_files, rows, strict=False):  # further rows are padding
                best = np.argsort(-row, kind="stable")[:top]
                yield name, [(class_names[i], float(row[i])) for i in best]
            batch_files, batch_images = [], []
    if num_damaged:
        print_notice(
            f"{num_damaged:,} of {len(files):,} images were read without their metadata, which is "
            "damaged or too large"
        )


def _print_table(predictions: Iterable[Prediction], title: str) -> None:
    table = Table(title=title, box=box.SIMPLE_HEAD)
    table.add_column("image", overflow="fold")
    table.add_column("class", overflow="fold")
    table.add_column("probability", justify="right")
    for file, classes in predictions:
        for number, (name, value) in enumerate(classes):
            image = "" if number else printable(file)  # also without line breaks
            table.add_row(image, printable(name), f"{value:.4f}")
        table.add_section()
    if table.row_count:
        print_table(table)
