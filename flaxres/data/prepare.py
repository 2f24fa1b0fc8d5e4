"""Downloads and prepares a TFDS data set: `python -m flaxres.data.prepare --name=cifar10`.

Training runs this program if a data set is missing. It is the only module that needs TensorFlow
(`pip install -r requirements-prepare.txt`). The ArrayRecord files that it writes are read without.
"""

from __future__ import annotations

import os

from absl import app, flags, logging

from flaxres.errors import one_line

NAME = flags.DEFINE_string(
    "name", None, "Name of the data set in TFDS, e.g. 'cifar10'.", required=True
)
DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Directory of prepared data sets (default: that of TFDS)."
)


def prepare(name: str, data_dir: str | None = None) -> str:
    """Downloads and prepares a data set, unless it is already prepared; returns its directory."""
    # Silences TensorFlow's start-up messages, but not its errors. Must be set before the import.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download import downloader

    # With TFDS's default of 10, an offline machine waits for minutes; with 5, for seconds.
    downloader.MAX_RETRIES = 5
    builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
    builder.download_and_prepare()
    return str(builder.data_path)


def main(argv: list[str]) -> None:
    """Prepares the data set that the flags name."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
    logging.set_verbosity(logging.ERROR)  # TFDS shows progress bars
    try:
        print(f"prepared {prepare(NAME.value, DATA_DIR.value)}")
    except Exception as error:  # downloads raise exceptions of many types
        reason = f"{type(error).__name__}: {one_line(error, None)}"
        raise SystemExit(f"error: preparing {NAME.value!r} failed: {reason}") from error


if __name__ == "__main__":
    app.run(main)
