"""Python files of users, config and sweep files: one line of error for whatever is wrong."""

from __future__ import annotations

import importlib.util
import stat
from pathlib import Path
from types import ModuleType

from ml_collections import ConfigDict, FrozenConfigDict

from flaxres.errors import ConfigError, UserError, one_line
from flaxres.field_checks import shown


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
        raise ConfigError(f"{name} does not exist; {advice}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise ConfigError(f"{name} cannot be read ({reason}); {advice}") from None
    if stat.S_ISDIR(mode):
        raise ConfigError(f"{name} is a directory; {advice}")
    if not stat.S_ISREG(mode):
        raise ConfigError(f"{name} is not a regular file; {advice}")


def import_file(path: str, kind: str) -> ModuleType:
    """Runs a Python file and returns it as a module.

    Args:
      path: path of the file.
      kind: kind of the file for messages, 'config' or 'sweep'.

    Raises:
      ConfigError: the file cannot be read, or fails.
    """
    check_readable(path, f"{kind} file", "give a Python file")
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
      source: FILE.py or FILE.py:MODEL.

    Raises:
      ConfigError: the file cannot be read or fails, or get_config() is missing or fails.
      UserError: get_config() raises it, for example for a model that does not exist.
    """
    path, _, model = source.partition(":")
    module = import_file(path, "config")
    if not hasattr(module, "get_config"):
        is_sweep = hasattr(module, "get_sweep")
        hint = f"use python -m experiments.sweep --sweep={path}" if is_sweep else "define it"
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
