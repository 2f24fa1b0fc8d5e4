"""Downloads and prepares a TFDS data set.

flaxres prepare --name=cifar10

Training runs this program if a data set is missing. It is the only module that needs TensorFlow
(`pip install -r requirements-prepare.txt`). The ArrayRecord files that it writes are read without.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import NoReturn

from absl import flags, logging

from flaxres.data.tfds_names import check_tfds_name
from flaxres.errors import UserError, one_line, printable
from flaxres.extras import install_command
from flaxres.files import expand_home
from flaxres.plain_commands import parse_words

NAME = flags.DEFINE_string("name", None, "Name of the data set in TFDS, e.g. 'cifar10'.")
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


def main() -> None:
    """Parses the flags and prepares the data set that they name; prints an error as one line."""
    if words := parse_words(__doc__ or ""):
        _exit(f"unexpected arguments: {' '.join(words)}; flags are --NAME=VALUE", 2)
    if not NAME.value:
        _exit("--name is missing; give it the name of a data set in TFDS, e.g. --name=cifar10", 2)
    try:
        check_tfds_name(NAME.value)
        data_dir = DATA_DIR.value and str(expand_home(DATA_DIR.value, "--data_dir"))
    except UserError as error:
        _exit(printable(str(error)), 2)
    if importlib.util.find_spec("tensorflow") is None:
        _exit(f"TensorFlow is not installed; run `{install_command('prepare')}`", 1)
    logging.set_verbosity(logging.ERROR)  # TFDS shows progress bars
    try:
        print(f"prepared {prepare(NAME.value, data_dir)}")
    except Exception as error:  # downloads raise exceptions of many types
        _exit(f"preparing {NAME.value!r} failed: {type(error).__name__}: {one_line(error)}", 1)


def _exit(message: str, code: int) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
