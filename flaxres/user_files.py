"""Config and sweep files: where they are found, and one line of error for whatever is wrong.

A name such as `digits` or `configs/digits.py` means the user's own file where there is one, below
the current directory, and otherwise the file that comes with flaxres.
"""

from __future__ import annotations

import importlib.util
import stat
from pathlib import Path
from types import ModuleType

from ml_collections import ConfigDict, FrozenConfigDict

from flaxres.errors import ConfigError, UserError, one_line
from flaxres.field_checks import shown
from flaxres.former_packages import register_former_packages
from flaxres.suggestions import did_you_mean

SHIPPED = Path(__file__).parent  # contains configs/, with the files that come with flaxres
CONFIGS = "configs"
SWEEPS = "configs/sweeps"


def find_config(source: str) -> str:
    """Returns the path of a config file, with the model that follows its name.

    Args:
      source: path or name of a config file, with or without a model: 'configs/digits.py:resnet-20',
        'digits:resnet-20' or 'digits'.

    Returns:
      FILE.py:MODEL, or FILE.py without a model. `source` itself if there is no such file.
    """
    name, colon, model = source.partition(":")
    return _find(name, CONFIGS) + colon + model


def find_sweep(source: str) -> str:
    """Returns the path of a sweep file, with the config file that follows its name.

    Args:
      source: path or name of a sweep file, with or without a config file: 'shortcuts',
        'configs/sweeps/shortcuts.py' or 'shortcuts:configs/cifar10.py'.

    Returns:
      FILE.py:CONFIG, or FILE.py without a config file. `source` itself if there is no such file.
    """
    name, colon, config = source.partition(":")
    return _find(name, SWEEPS) + colon + config


def shipped_names(directory: str) -> list[str]:
    """Returns the names of the config or sweep files that come with flaxres.

    Args:
      directory: `CONFIGS` or `SWEEPS`.
    """
    files = (SHIPPED / directory).glob("*.py")
    return sorted(file.stem for file in files if file.stem != "__init__")


def _find(name: str, directory: str) -> str:
    """Returns the first file that a name can mean; the name itself if there is none."""
    file = Path(directory, f"{name}.py") if name.isidentifier() else Path(name)
    candidates = [Path(name), file]
    if str(file.parent) in (CONFIGS, SWEEPS):
        candidates.append(SHIPPED / file)
    try:
        return next((str(path) for path in candidates if path.is_file()), name)
    except (OSError, ValueError):  # such as a name that is too long; `check_readable` reports it
        return name


def check_readable(path: str, kind: str, advice: str) -> None:
    """Checks that a path is a regular file that can be read; a FIFO would wait forever.

    Args:
      path: path of the file.
      kind: kind of the file for messages, such as 'config file'.
      advice: what to do, as the end of each message.

    Raises:
      ConfigError: there is no such file, or it is a directory or device, or cannot be opened.
    """
    name = f"{kind} {shown(path)}"
    if not path:
        raise ConfigError(f"the path of the {kind} is empty; {advice}")
    try:
        mode = Path(path).stat().st_mode
        if stat.S_ISREG(mode):
            Path(path).open("rb").close()
    except (FileNotFoundError, NotADirectoryError):
        hint = _similar_file(path, kind) or f"; {advice}"
        raise ConfigError(f"{name} does not exist{hint}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise ConfigError(f"{name} cannot be read ({reason}); {advice}") from None
    if stat.S_ISDIR(mode):
        raise ConfigError(f"{name} is a directory; {advice}")
    if not stat.S_ISREG(mode):
        raise ConfigError(f"{name} is not a regular file; {advice}")


def _similar_file(path: str, kind: str) -> str:
    """Returns '; did you mean NAME?' if there is a file with a similar name.

    The files are those in the same directory and, for config and sweep files, the user's own ones
    and those that come with flaxres.

    Args:
      path: path or name of a file that does not exist.
      kind: kind of the file, such as 'config file'.
    """
    directory, _, name = path.rpartition("/")
    folder = {"config file": CONFIGS, "sweep file": SWEEPS}.get(kind, "")
    files = _list_files(directory, "*.py" if folder else "*")
    if folder and directory == folder:
        files += [f"{folder}/{name}.py" for name in shipped_names(folder)]
    elif folder and path == name:
        own = [file.rpartition("/")[2].removesuffix(".py") for file in _list_files(folder, "*.py")]
        files += [name for name in own if name.isidentifier() and name != "__init__"]
        files += shipped_names(folder)
    return did_you_mean(path, files)


def _list_files(directory: str, pattern: str) -> list[str]:
    """Returns the paths of the files in a directory; empty if it cannot be read."""
    prefix = f"{directory}/" if directory else ""
    try:
        files = sorted(path.name for path in Path(directory or ".").glob(pattern) if path.is_file())
    except (OSError, ValueError):
        return []
    return [prefix + name for name in files]


def import_file(path: str, kind: str) -> ModuleType:
    """Runs a Python file and returns it as a module.

    Args:
      path: path of the file.
      kind: kind of the file for messages, 'config' or 'sweep'.

    Raises:
      ConfigError: the file cannot be read, or fails.
    """
    check_readable(path, f"{kind} file", "give a Python file")
    register_former_packages()
    spec = importlib.util.spec_from_file_location(f"{kind}_file", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{kind} file {shown(path)} must have a name that ends in .py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise file_error(kind, path, error) from error
    return module


def call_get_config(source: str) -> object:
    """Runs a config file and returns what its get_config() returns.

    Args:
      source: FILE.py or FILE.py:MODEL, or a name that `find_config` finds.

    Raises:
      ConfigError: the file cannot be read or fails, or get_config() is missing or fails.
      UserError: get_config() raises it, for example for a model that does not exist.
    """
    path, _, model = find_config(source).partition(":")
    module = import_file(path, "config")
    if not hasattr(module, "get_config"):
        is_sweep = hasattr(module, "get_sweep")
        hint = f"use flaxres sweep --sweep={path}" if is_sweep else "define it"
        raise ConfigError(
            f"config file {shown(path)} has no get_config(); "
            f"{'it is a sweep file: ' if is_sweep else ''}{hint}"
        )
    try:
        return module.get_config(model) if model else module.get_config()
    except (UserError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise file_error("config", path, error) from error


def file_error(kind: str, path: str, error: BaseException) -> ConfigError:
    """Returns the error of one line for an exception that a user's file has raised."""
    text = f"{type(error).__name__}: {one_line(error, None)}"
    return ConfigError(f"{kind} file {shown(path)} fails: {text}")


def check_is_config(config: object, path: str) -> ConfigDict:
    """Returns what `get_config` of a config file has returned.

    Raises:
      ConfigError: it is not a ConfigDict, or a part of it is frozen or contains itself.
    """
    if not isinstance(config, ConfigDict):
        hint = "; is its return statement missing?" if config is None else ""
        raise ConfigError(
            f"get_config() of config file {shown(path)} must return a ConfigDict, as "
            f"flaxres.config.default_config() does, got {shown(config)}{hint}"
        )
    _check_parts(config, f"get_config() of config file {shown(path)}", ())
    return config


def _check_parts(config: ConfigDict, source: str, outer: tuple[ConfigDict, ...]) -> None:
    if isinstance(config, FrozenConfigDict):
        raise ConfigError(
            f"{source} must return a ConfigDict that can be changed, got a FrozenConfigDict; "
            "return ConfigDict(config)"
        )
    for name, value in config.items(preserve_field_references=True):
        if any(value is part for part in (*outer, config)):
            raise ConfigError(f"{source} returns a config whose field {name!r} contains itself")
        if isinstance(value, ConfigDict):
            _check_parts(value, source, (*outer, config))
