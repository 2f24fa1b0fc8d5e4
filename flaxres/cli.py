"""Shared parts of all command lines: flags, configs from files, one-line errors, exit codes."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import ConfigDict, config_flags

from flaxres import cpu, streams
from flaxres.aliases import rename_in_arguments, rename_in_config
from flaxres.arguments import (
    drop_repeated_overrides,
    find_config_file,
    find_configs,
    parse_arguments,
    read_flag_files,
    unknown_override,
)
from flaxres.cpu import compilation_cache
from flaxres.errors import ConfigError, InterruptedRunError, UserError, one_line, printable
from flaxres.field_checks import shown
from flaxres.help_text import asks_for_help, print_help
from flaxres.run import preemption

OPTIONAL_FIELDS = ("init_from", "dataset.data_dir", "dataset.validation_split")  # text or None


def define_config(example: str) -> None:
    """Defines --config=FILE.py[:MODEL] and its overrides, --config.FIELD=VALUE.

    Args:
      example: value of --config for the help text, such as 'configs/digits.py:resnet-20'.
    """
    short = example.removeprefix("configs/").replace(".py", "")
    try:
        read_flag_files(sys.argv[1:])  # ml_collections reads them here already
        config_flags.DEFINE_config_file(
            "config",
            None,
            f"Config file and model, e.g. {example}, or for files in configs/ only the name, e.g. "
            f"{short}. --config.FIELD=VALUE overrides a field, e.g. --config.seed=1.",
        )
        # --help of the program lists the flag, as if the program had defined it.
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS["config"])
    except UserError as error:
        _exit(f"error: {error}", error.exit_code)


def define_overrides() -> None:
    """Defines only --config.FIELD=VALUE, for programs that apply the overrides to several configs.

    Raises:
      ConfigError: the command line has --config, a field that does not exist, or a value of the
        wrong type.
    """
    from flaxres.config import default_config

    if given := [argument for argument in sys.argv if re.match(r"--?config=", argument)]:
        raise ConfigError(
            f"only config fields can be set here, such as --config.num_steps=100; got {given[0]}"
        )
    try:
        config_flags.DEFINE_config_dict(
            "config",
            default_config(),
            "Overrides a config field of all runs, e.g. --config.num_steps=100.",
        )
    except (AttributeError, TypeError, ValueError, flags.Error) as error:
        raise ConfigError(unknown_override(sys.argv) or one_line(error)) from None


def _define_overrides_without_config() -> None:
    """Replaces the flag --config by overrides if the command line has only overrides.

    They change the config that is stored with a trained model.

    Raises:
      ConfigError: a field does not exist, or a value has the wrong type.
    """
    has_override = any(re.match(r"--?(no)?config\.", argument) for argument in sys.argv[1:])
    is_file = "config" in flags.FLAGS and flags.FLAGS["config"].default is None
    if is_file and has_override and find_config_file(sys.argv) is None:
        delattr(flags.FLAGS, "config")
        define_overrides()


def has_config() -> bool:
    """Returns True if the command line has --config=FILE.py:MODEL."""
    return flags.FLAGS.config is not None and flags.FLAGS["config"].default is None


def get_overrides() -> dict[str, Any]:
    """Returns the config fields that the command line overrides, by dotted name."""
    if flags.FLAGS.config is None:
        return {}
    overrides = dict(config_flags.get_override_values(flags.FLAGS["config"]))
    for field in OPTIONAL_FIELDS:
        if overrides.get(field) == "None":  # the command line has only text
            overrides[field] = None
    return overrides


def get_config() -> ConfigDict:
    """Returns the config that the flags describe.

    Raises:
      ConfigError: --config is missing.
    """
    config = flags.FLAGS.config
    if not has_config():
        raise ConfigError("--config is missing; give it a file, e.g. --config=configs/digits.py")
    rename_in_config(config)
    return override(config)


def override(config: ConfigDict) -> ConfigDict:
    """Sets the fields of a config that the command line overrides, and returns the config."""
    config.update_from_flattened_dict(get_overrides())
    return config


def with_model(config: ConfigDict, model: str) -> ConfigDict:
    """Returns a copy of a config with another model and with the overrides of the command line.

    Args:
      config: config of an experiment.
      model: name of the model, such as 'resnet-56'.

    Raises:
      ConfigError: no model has this name.
    """
    from flaxres.config import set_model

    changed = set_model(config.copy_and_resolve_references(), model, config.model.stem)
    return override(changed)


def run(
    main: Callable[[], None],
    trains: bool = True,
    define: Callable[[], None] = lambda: None,
    lists_commands: bool = False,
) -> None:
    """Parses the flags, runs `main`, and prints errors that a user can fix as one line.

    Args:
      main: the program.
      trains: True if this process itself trains or evaluates models. It then gets XLA flags for the
        CPU and the compilation cache.
      define: called first, to define flags; may raise UserError.
      lists_commands: if True, --help also lists the commands of flaxres.

    Exit codes: 2 for an error in the command line or config, 3 for a run that diverged, 4 for a
    workdir in use, 1 for other errors, 128 + signal for an interrupted program.
    """
    streams.prepare_streams()
    preemption.remember_interrupts()
    preemption.stop_with_parent()
    if trains and not asks_for_help(sys.argv[1:]):
        cpu.tune()
    absl_logging.set_verbosity(absl_logging.FATAL)  # libraries would log errors that they raise

    def start(_: Sequence[str]) -> None:
        if trains:
            cpu.execute_asynchronously(False)
            compilation_cache.enable_compilation_cache()
        main()

    try:
        _check_environment()
        arguments = rename_in_arguments(read_flag_files(sys.argv[1:]))
        sys.argv[1:] = drop_repeated_overrides(find_configs(arguments))
        define()
        _define_overrides_without_config()
        if asks_for_help(sys.argv[1:]):
            print_help(sys.modules["__main__"].__doc__ or "", lists_commands)
            streams.flush_output()
            sys.exit(0)
        try:
            app.run(start, flags_parser=parse_arguments)
        except SystemExit:  # also after `main` has returned
            streams.flush_output()
            raise
    except InterruptedRunError as error:
        _exit(str(error), error.exit_code)
    except UserError as error:
        # There is no message if the program that reads the output has ended, such as `head`.
        _exit(f"error: {error}" if str(error) else "", error.exit_code, error.on_all_processes)
    except KeyboardInterrupt:
        _exit("interrupted", 130)
    except (RuntimeError, AssertionError) as error:
        if (problem := platform_problem(error)) is None:
            raise
        _exit(f"error: {problem}", ConfigError.exit_code, on_all_processes=False)


def _check_environment() -> None:
    """Checks what the environment sets for the whole process.

    Raises:
      ConfigError: the current directory is gone, or JAX must not compile.
    """
    try:
        Path.cwd()
    except OSError as error:
        raise ConfigError(
            f"the current directory cannot be used ({error.strerror}); change to another one"
        ) from None
    value = os.environ.get("JAX_DISABLE_JIT", "")
    if value.lower() in ("1", "true", "t", "yes", "y", "on"):
        raise ConfigError(
            f"JAX_DISABLE_JIT={value} is set, but flaxres runs compiled programs only; unset it"
        )


def check_models(names: Sequence[str]) -> None:
    """Checks the names of models in a flag, before a program starts other processes for them.

    Raises:
      ConfigError: there is no name, or no CIFAR model has one of the names.
    """
    from flaxres.config import check_config, default_config, set_model

    if not any(names):
        raise ConfigError("--models has no value; give it model names, e.g. --models=resnet-20")
    for name in names:
        check_config(set_model(default_config(), name))


def parse_integers(flag: flags.FlagHolder[list[str]], minimum: int, maximum: int) -> list[int]:
    """Returns the integers of a list flag.

    Args:
      flag: the flag.
      minimum: smallest allowed integer.
      maximum: largest allowed integer.

    Raises:
      ConfigError: an element is not an integer from `minimum` to `maximum`.
    """
    try:
        values = [int(text) for text in flag.value]
        if all(minimum <= value <= maximum for value in values):
            return values
    except ValueError:
        pass
    raise ConfigError(
        f"--{flag.name} must be integers from {minimum:,} to {maximum:,}, separated by commas, "
        f"got {shown(','.join(flag.value))}"
    )


def _exit(message: str, code: int, on_all_processes: bool = True) -> None:
    with contextlib.suppress(streams.OutputError):  # `message` is the error to report
        streams.flush_output()
    if message:
        print(printable(message), file=sys.stderr, flush=True)
    if "jax" in sys.modules:
        from flaxres.parallel import multihost

        if not on_all_processes:
            multihost.exit_without_waiting(code)
        multihost.limit_exit_time(code)
    sys.exit(code)


def platform_problem(error: Exception) -> str | None:
    """Returns one line if JAX could not start the platform of JAX_PLATFORMS, otherwise None."""
    frames = traceback.extract_tb(error.__traceback__)
    is_platform = str(error).startswith("Unable to initialize backend") or (
        isinstance(error, AssertionError) and frames[-1].filename.endswith("xla_bridge.py")
    )
    if not is_platform:
        return None
    platforms = os.environ.get("JAX_PLATFORMS")
    reason = f" ({one_line(error)})" if str(error) else ""
    if not platforms:
        return f"JAX cannot use the devices of this machine{reason}; JAX_PLATFORMS=cpu uses the CPU"
    return (
        f"JAX finds no device for JAX_PLATFORMS={platforms}{reason}; unset it to use the devices "
        "of this machine"
    )
