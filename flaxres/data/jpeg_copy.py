"""TFDS builder that copies a data set with its images re-encoded as JPEG.

`cifar10_jpeg` is CIFAR-10 as JPEG of quality 75, `cifar10_jpeg50` of quality 50. Records keep their
order, labels and names. Splits of up to 1,000 MiB need no TensorFlow, because TFDS keeps them in
memory while writing; larger ones do.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import shutil
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from flaxres.data.decode import BrokenImageError, decode
from flaxres.data.record_source import RecordSource
from flaxres.data.source import check_label
from flaxres.errors import DatasetError

NO_LABEL = -1  # label of an image without a class in TFDS, as in test sets of competitions
SUBSAMPLING = "4:2:0"  # chroma planes at half the width and half the height


class JpegCopy(  # type: ignore[call-arg]  # mypy reads no annotations of TFDS
    tfds.core.GeneratorBasedBuilder, skip_registration=True
):
    """Builder of a JPEG copy; `write` prepares it.

    Attributes:
      source: TFDS builder of the data set whose images are re-encoded; need not be prepared.
      quality: quality of libjpeg, 1 to 100.
    """

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, name: str, source: Any, image_key: str, quality: int, data_dir: str):
        """Creates the builder, and checks that the source can be re-encoded.

        Args:
          name: name of the copy.
          source: TFDS builder of the data set whose images are re-encoded.
          image_key: name of its image feature.
          quality: quality of libjpeg, 1 to 100.
          data_dir: directory of prepared data sets.

        Raises:
          DatasetError: the images are not 8-bit PNG files of one size, gray or RGB, or records have
            features other than images, classes and texts.
        """
        _check_features(name, source.info, image_key)
        self.name = name
        self.source = source
        self.quality = quality
        self._image_key = image_key
        self._splits: Mapping[str, RecordSource] = {}
        super().__init__(data_dir=data_dir, file_format="array_record")

    def write(self, splits: Mapping[str, RecordSource]) -> None:
        """Writes the copy to a temporary directory and renames it when it is complete.

        Temporary directories of killed processes are removed.

        Args:
          splits: records of the source by the name of the split.

        Raises:
          DatasetError: an image cannot be read or decoded, or its label is not a class.
          OSError: the copy cannot be written.
        """
        self._splits = splits
        # TFDS prints that it downloads, although it does not.
        silence = contextlib.redirect_stdout(io.StringIO())
        with _lock_for_writing(self.data_path.parent), silence:
            self.download_and_prepare()

    def _info(self) -> tfds.core.DatasetInfo:
        source = self.source.info
        features = dict(source.features)
        shape = features[self._image_key].shape
        features[self._image_key] = tfds.features.Image(shape=shape, encoding_format="jpeg")
        chroma = f", {SUBSAMPLING}" if shape[2] == 3 else ""
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{source.full_name} re-encoded as JPEG (quality {self.quality}{chroma}).",
            features=tfds.features.FeaturesDict(features),
            supervised_keys=source.supervised_keys,
            homepage=source.homepage,
            citation=source.citation,
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {name: self._generate_examples(source) for name, source in self._splits.items()}

    def _generate_examples(
        self, source: RecordSource
    ) -> Generator[tuple[int, dict[str, Any]], None, None]:
        num_classes = self.source.info.features[source.label_key].num_classes
        for index in range(len(source)):
            record, description = source.record(index), source.describe(index)
            try:
                image = decode(record[self._image_key], description, source.channels)
            except BrokenImageError as error:
                raise DatasetError(
                    f"{error.problem}; repair the data set {self.source.name!r}, or delete its "
                    "directory and prepare it again"
                ) from None
            if (label := int(record[source.label_key])) != NO_LABEL:
                check_label(label, num_classes, description)
            yield index, {**record, self._image_key: encode_jpeg(image, self.quality)}


@contextlib.contextmanager
def _lock_for_writing(directory: os.PathLike[str]) -> Iterator[None]:
    """Context in which a copy is written; first removes what killed processes have left.

    Each process that writes holds a shared lock on the directory of the copy, so a process that
    gets the exclusive lock is alone. Where directories cannot be locked, nothing is removed.
    """
    os.makedirs(directory, exist_ok=True)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for path in Path(directory).glob("incomplete.*"):
                shutil.rmtree(path, ignore_errors=True)
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


def encode_jpeg(image: Image.Image, quality: int) -> bytes:
    """Encodes an RGB or gray image as a baseline JPEG file with libjpeg's standard Huffman tables.

    Args:
      image: the image, of mode RGB or L.
      quality: quality of libjpeg, 1 to 100, which scales the standard quantization tables.
    """
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling=SUBSAMPLING)
    return buffer.getvalue()


def _check_features(name: str, info: Any, image_key: str) -> None:
    """Checks that the records of a source consist of PNG images of one size, classes and texts."""
    image = info.features[image_key]
    allowed = (tfds.features.ClassLabel, tfds.features.Text)
    others = [
        key
        for key, feature in info.features.items()
        if key != image_key and not isinstance(feature, allowed)
    ]
    problem = ""
    if np.dtype(image.np_dtype) != np.uint8 or image.shape[2] not in (1, 3):
        problem = f"its images are {image}, not 8-bit gray or RGB images"
    elif None in image.shape:
        problem = f"its images vary in size {image.shape}"
    elif (encoding := image.to_json_content().encoding_format) not in ("", "png"):
        problem = f"its images are {encoding} files, not PNG files"
    elif others:
        problem = f"it has features other than images, classes and texts: {', '.join(others)}"
    if problem:
        raise DatasetError(f"data set {info.name!r} cannot be re-encoded as {name!r}: {problem}")
