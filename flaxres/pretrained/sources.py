"""Sources of pretrained weights: runs, files, and names of those of flaxres."""

from __future__ import annotations

import enum
import hashlib
import os
import stat
from pathlib import Path

from flaxres.errors import WeightsError
from flaxres.pretrained.load import VARIABLES_SUFFIX
from flaxres.pretrained.weights_file import WEIGHTS_SUFFIX, is_weights_file
from flaxres.suggestions import did_you_mean

DIRECTORY = Path(__file__).parent / "weights"
# Pretrained weights of flaxres (docs/weights.md), with the SHA-256 digests of their files.
SHIPPED: dict[str, str] = {
    "plain-20-cifar10_jpeg": "e3eb60a540eabb8e41617ea2c564382b7f3b5695520a8f0f2697b7489b66631d",
    "plain-32-cifar10_jpeg": "5ae0ba6e4ba29750d12b7919c36fe86bba73018ec3440eab7ce4cda5c7a201a8",
    "plain-56-cifar10_jpeg": "9d816bd5343acfa58584dd68877a27135bbfddb408f8310cf6aa53bdbac2cf3f",
    "resnet-20-cifar10_jpeg": "efa9e47c587f35b6af98bfb4e27b020e132e3b92bcceb18c82245ef9974535da",
    "resnet-56-cifar10_jpeg": "543fddc8416d73b950fa47d22fdbcd5abe6b6865a594d3f5a0ab0545c4e2a722",
}


class Kind(enum.Enum):
    """Kind of a source of pretrained weights, as messages call it."""

    RUN = "run"
    WEIGHTS = "weights file"
    VARIABLES = "file of variables"
    STATE_DICT = "PyTorch state dict"


def find_source(given: str) -> Path:
    """Returns the file or directory of pretrained weights.

    A file or directory of the user precedes pretrained weights of flaxres with the same name.

    Args:
      given: a path, or a name in `SHIPPED`.

    Raises:
      WeightsError: the path begins with the home directory of an unknown user, or the
        pretrained weights of flaxres are damaged.
    """
    try:
        path = Path(given).expanduser()
    except RuntimeError as error:
        raise WeightsError(f"{given} cannot be read ({error})") from None
    if given not in SHIPPED or os.path.lexists(path):
        return path
    shipped = DIRECTORY / f"{given}{WEIGHTS_SUFFIX}"
    try:
        digest = hashlib.sha256(shipped.read_bytes()).hexdigest()
    except OSError as error:
        raise WeightsError(
            f"the pretrained weights {given} cannot be read ({error.strerror}: {shipped}); install "
            "flaxres again"
        ) from error
    if digest != SHIPPED[given]:
        raise WeightsError(f"{shipped} is damaged; install flaxres again")
    return shipped


def source_kind(path: Path) -> Kind:
    """Returns the kind of pretrained weights in a file or directory, which need not exist.

    A directory is a run, a path that ends in .msgpack a file of variables, a file that ends in
    .safetensors and holds flaxres's metadata a weights file, and any other path a state dict.
    """
    if path.is_dir():
        return Kind.RUN
    if path.suffix == VARIABLES_SUFFIX:
        return Kind.VARIABLES
    return Kind.WEIGHTS if is_weights_file(path) else Kind.STATE_DICT


def is_state_dict(init_from: str | None) -> bool:
    """Returns True if `config.init_from` is a PyTorch state dict, or None if there are no weights.

    Raises:
      WeightsError: the pretrained weights of flaxres are damaged.
    """
    return init_from is not None and source_kind(find_source(init_from)) is Kind.STATE_DICT


def is_directory(path: Path, flag: str = "--init_from") -> bool:
    """Returns True if a source of weights is a directory, False if it is a file.

    Args:
      path: the source.
      flag: the flag that has it, for messages.

    Raises:
      WeightsError: `path` does not exist, cannot be read, or is a device, a pipe or a socket.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a null byte
        hint = did_you_mean(path.name.removesuffix(WEIGHTS_SUFFIX), SHIPPED)
        raise WeightsError(
            f"{flag}={path} does not exist; give a run directory, a weights file "
            f"({WEIGHTS_SUFFIX}), a file of variables ({VARIABLES_SUFFIX}), a PyTorch state dict, "
            f"or one of the pretrained weights {', '.join(SHIPPED)}{hint}"
        ) from None
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror})") from error
    if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
        raise WeightsError(f"{path} must be a file or the workdir of a run, got a special file")
    return stat.S_ISDIR(mode)
