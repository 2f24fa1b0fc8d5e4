"""Downloads and prepares a TFDS set: `python -m flaxres.data.prepare --name=cifar10`.

Training starts this by itself where a set is missing. It is the only module that needs TensorFlow
(`pip install -r requirements-prepare.txt`); the ArrayRecord files that it writes are read without.
"""

from __future__ import annotations

import os

from absl import app, flags, logging

from flaxres.errors import one_line

NAME = flags.DEFINE_string("name", None, "Name of the set, e.g. cifar10.", required=True)
DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Where prepared sets lie; TFDS's default if unset."
)


def prepare(name: str, data_dir: str | None = None) -> str:
    """Downloads and prepares the set `name` unless it is there already; returns its directory."""
    # Silences TensorFlow's greetings, for which it must be set before the import; errors still show.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download import downloader

    downloader.MAX_RETRIES = 5  # a dozen seconds; TFDS's own 10 make one wait minutes when offline
    builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
    builder.download_and_prepare()
    return str(builder.data_path)


def main(argv: list[str]) -> None:
    """Prepares the set that the flags name."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
    logging.set_verbosity(logging.ERROR)  # progress bars say it better
    try:
        print(f"prepared {prepare(NAME.value, DATA_DIR.value)}")
    except Exception as error:  # downloads fail in many ways; all of them are one line to a user
        text = f"{type(error).__name__}: {one_line(error, None)}"
        raise SystemExit(f"error: preparing {NAME.value!r} failed: {text}") from error


if __name__ == "__main__":
    app.run(main)
