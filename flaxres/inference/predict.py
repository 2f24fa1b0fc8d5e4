"""Classes of image files by a run's newest checkpoint.

python -m flaxres.main --mode=predict --workdir=RUN --images='photos/*.jpg' --top=5 [--json]

An image is scaled to cover the net's size and its middle is taken (`dataset.image_size` and
`dataset.eval_short_side`), so an image of the data set gets the probabilities that the evaluation
of its split gives it.
"""

from __future__ import annotations

import glob
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from rich import box
from rich.table import Table

from flaxres.data.decode import BrokenImageError, decode
from flaxres.data.resize import resize_to_shape
from flaxres.errors import ConfigError, UserError
from flaxres.inference.predictor import Predictor
from flaxres.inference.trained_model import TrainedModel
from flaxres.terminal import print_table

# An image file, and the names and probabilities of its most probable classes, falling.
Prediction = tuple[str, list[tuple[str, float]]]


class PredictionError(UserError):
    """An image file that is not there or cannot be decoded."""


def predict(net: TrainedModel, images: Sequence[str], top: int = 5, as_json: bool = False) -> None:
    """Prints the most probable classes of image files.

    Args:
      net: to predict with.
      images: files or patterns such as photos/*.jpg.
      top: how many classes to show; all if there are fewer.
      as_json: print a JSON object a line instead of a table: {"image": FILE, "predictions":
        [{"class": NAME, "probability": P}, ...]}.

    Raises:
      ConfigError: no image is asked for, or fewer than one class.
      PredictionError: some files failed; all others have been shown, and all errors but this one
        printed to standard error.
    """
    if not images:
        raise ConfigError("--images is missing; give files or patterns, e.g. --images='*.jpg'")
    if top < 1:
        raise ConfigError(f"top must be at least 1, got {top}")
    files, errors = find(images)
    results = predictions(net, files, top, errors)
    if as_json:
        for file, classes in results:
            listed = [{"class": name, "probability": value} for name, value in classes]
            print(json.dumps({"image": file, "predictions": listed}), flush=True)
    else:
        _print_table(results, net.name)
    for error in errors[:-1]:
        print(f"error: {error}", file=sys.stderr)
    if errors:
        sys.stdout.flush()
        raise PredictionError(errors[-1])


def find(images: Iterable[str]) -> tuple[list[str], list[str]]:
    """Files of names and patterns, each once, and a message for each that is not there."""
    files: dict[str, None] = {}
    errors = []
    for name in images:
        path = os.path.expanduser(name)
        if Path(path).is_dir():
            errors.append(f"{name} is a directory; give its files, e.g. {name.rstrip('/')}/*.jpg")
        elif Path(path).exists():  # a name may hold brackets
            files[path] = None
        elif not glob.has_magic(path):
            errors.append(f"there is no file {name}")
        elif found := sorted(f for f in glob.glob(path, recursive=True) if Path(f).is_file()):
            files |= dict.fromkeys(found)
        else:
            errors.append(f"no file matches {name}")
    return list(files), errors


def predictions(
    net: TrainedModel, files: Sequence[str], top: int, errors: list[str]
) -> Iterator[Prediction]:
    """The most probable classes of each file that can be decoded, in their order.

    Args:
      net: to predict with.
      files: of images of any size.
      top: classes of each.
      errors: gets a message for each file that cannot be.
    """
    if not files:
        return
    config = net.config.copy_and_resolve_references()
    config.num_devices = 1
    predictor = Predictor([net], config)
    height, width, channels = net.inputs.image_shape
    short_side = config.dataset.eval_short_side
    batch_size = predictor.batch_size((height, width), len(files))
    names, pixels = [], []
    for number, file in enumerate(files, start=1):
        try:
            image = decode(_read(file), file, channels)
            pixels.append(resize_to_shape(image, (height, width), short_side))
            names.append(file)
        except BrokenImageError as error:  # its message goes on with what is for data sets
            errors.append(str(error).partition(");")[0] + ")" * (");" in str(error)))
        except PredictionError as error:
            errors.append(str(error))
        if names and (len(names) == batch_size or number == len(files)):
            rows = np.exp(np.asarray(predictor.launch(np.stack(pixels), batch_size)))
            for name, row in zip(names, rows, strict=False):  # the batch may be filled up
                order = np.argsort(-row, kind="stable")[:top]
                yield name, [(net.inputs.class_names[i], float(row[i])) for i in order]
            names, pixels = [], []


def _read(file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise PredictionError(f"{file} cannot be read: {error.strerror}") from error


def _print_table(results: Iterable[Prediction], title: str) -> None:
    table = Table(title=title, box=box.SIMPLE_HEAD)
    table.add_column("image", overflow="fold")
    table.add_column("class", overflow="fold")
    table.add_column("probability", justify="right")
    for file, classes in results:
        for number, (name, value) in enumerate(classes):
            table.add_row("" if number else file, name, f"{value:.4f}")
        table.add_section()
    if not table.row_count:
        return
    print_table(table)
