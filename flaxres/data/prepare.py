"""Prepares a data set: downloads one of TFDS, or re-encodes the images of another one as JPEG.

flaxres prepare --name=cifar10
flaxres prepare --name=cifar10_jpeg

NAME_jpeg is the data set NAME with its images re-encoded as JPEG of quality 75, NAME_jpegQ of
quality Q (1 to 100). NAME is prepared first if it is not.

Training runs this program if a data set is missing. It is the only module that needs TensorFlow
(`pip install -r requirements-prepare.txt`), and only to download and prepare a data set of TFDS.
The ArrayRecord files that it writes are read without.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import sys
from types import FrameType

from absl import flags, logging

from flaxres import plain_commands
from flaxres.data.child_process import STOP_SIGNALS
from flaxres.data.tfds import prepare_jpeg_copy
from flaxres.data.tfds_builders import is_prepared, open_builder
from flaxres.data.tfds_names import OWN_DATASETS, check_tfds_name, split_jpeg_name
from flaxres.errors import ConfigError, DatasetError, UserError, one_line, print_lines
from flaxres.extras import install_command
from flaxres.files import expand_home

NAME = flags.DEFINE_string(
    "name", None, "Name of the data set, such as 'cifar10' (TFDS) or 'cifar10_jpeg' (re-encoded)."
)
DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Directory of prepared data sets (default: that of TFDS)."
)


def prepare(name: str, data_dir: str | None = None) -> str:
    """Prepares a data set, unless it is already prepared; returns a message with its directory.

    Args:
      name: name in TFDS, or NAME_jpeg for a JPEG copy of the data set NAME.
      data_dir: directory of prepared data sets; None for the default of TFDS.

    Raises:
      DatasetError: the data set is unknown or incomplete, or cannot be prepared.
    """
    import tensorflow_datasets as tfds

    from flaxres.data.jpeg_copy import JpegCopy  # imports TFDS

    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    try:
        if name in OWN_DATASETS:
            return f"{name} needs no preparation"
        builder = open_builder(name, data_dir)
        if is_prepared(builder):
            return f"already prepared: {builder.data_path}"
        make = prepare_jpeg_copy if isinstance(builder, JpegCopy) else _download
        return f"prepared {make(name, data_dir)}"
    except UserError:
        raise
    except Exception as error:  # downloads raise exceptions of many types
        raise DatasetError(
            f"preparing {name!r} failed: {type(error).__name__}: {one_line(error)}"
        ) from error


def _download(name: str, data_dir: str | None) -> str:
    if importlib.util.find_spec("tensorflow") is None:
        raise DatasetError(f"TensorFlow is not installed; run `{install_command('prepare')}`")
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
    """Parses the flags and prepares the data set that they name."""
    if words := plain_commands.parse_words(__doc__ or ""):
        raise ConfigError(f"unexpected arguments: {' '.join(words)}; flags are --NAME=VALUE")
    if not NAME.value:
        raise ConfigError(
            "--name is missing; give it the name of a data set in TFDS, e.g. --name=cifar10"
        )
    try:
        check_tfds_name(NAME.value)
        split_jpeg_name(NAME.value)
    except DatasetError as error:
        raise ConfigError(str(error)) from None
    data_dir = DATA_DIR.value and str(expand_home(DATA_DIR.value, "--data_dir"))
    logging.set_verbosity(logging.ERROR)  # TFDS shows progress bars
    for signum in STOP_SIGNALS:
        if signal.getsignal(signum) is not signal.SIG_IGN:  # as SIGHUP under nohup
            signal.signal(signum, _stop)
    print_lines([prepare(NAME.value, data_dir)])


def _stop(signum: int, _frame: FrameType | None) -> None:
    """Ends the program after TFDS has removed incomplete files, which only Ctrl-C interrupts."""
    for other in {*STOP_SIGNALS} - {signal.SIGINT}:
        signal.signal(other, signal.SIG_IGN)
    with contextlib.suppress(OSError):  # the terminal may have been closed
        os.write(2, b"interrupted\n")
    raise SystemExit(128 + signum)


if __name__ == "__main__":
    plain_commands.run(main)
