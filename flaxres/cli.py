"""Shared parts of all command lines: flags, configs from files, one-line errors, exit codes."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import ConfigDict, config_flags

from flaxres import cpu, streams
from flaxres.aliases import explain_former_field, rename_in_arguments, rename_in_config
from flaxres.cpu import compilation_cache
from flaxres.errors import ConfigError, InterruptedRunError, UserError, one_line, printable
from flaxres.run import preemption


def define_config(example: str) -> None:
    """Defines --config=FILE.py[:MODEL] and its overrides, --config.FIELD=VALUE.

    Args:
      example: value of --config for the help text, such as 'configs/digits.py:resnet-20'.
    """
    try:
        config_flags.DEFINE_config_file(
            "config",
            None,
            f"Config file and model, e.g. {example}. --config.FIELD=VALUE overrides a field, e.g. "
            "--config.seed=1.",
        )
    except flags.Error as error:  # a file of --flagfile, which ml_collections reads here already
        _exit(f"error: {one_line(error)}", ConfigError.exit_code)


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
        config_flags.DEFINE_config_dict("config", default_config(), "Overrides for all runs.")
    except (AttributeError, TypeError, ValueError, flags.Error) as error:
        raise ConfigError(_unknown_override(sys.argv) or one_line(error)) from None


def get_overrides() -> dict[str, Any]:
    """Returns the config fields that the command line overrides, by dotted name."""
    return dict(config_flags.get_override_values(flags.FLAGS["config"]))


def get_config() -> ConfigDict:
    """Returns the config that the flags describe.

    Raises:
      ConfigError: --config is missing.
    """
    config = flags.FLAGS.config
    if config is None:
        raise ConfigError("--config is missing; give it a file, e.g. --config=configs/digits.py")
    rename_in_config(config)
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
    changed.update_from_flattened_dict(get_overrides())
    return changed


def run(
    main: Callable[[], None], trains: bool = True, define: Callable[[], None] = lambda: None
) -> None:
    """Parses the flags, runs `main`, and prints errors that a user can fix as one line.

    Args:
      main: the program.
      trains: True if this process itself trains or evaluates models. It then gets XLA flags for the
        CPU and the compilation cache.
      define: called first, to define flags; may raise UserError.

    Exit codes: 2 for an error in the command line or config, 3 for a run that diverged, 4 for a
    workdir in use, 1 for other errors, 128 + signal for an interrupted program.
    """
    streams.prepare_streams()
    preemption.remember_interrupts()
    preemption.stop_with_parent()
    if trains:
        cpu.tune()
    absl_logging.set_verbosity(absl_logging.FATAL)  # libraries would log errors that they raise

    def start(_: Sequence[str]) -> None:
        if trains:
            compilation_cache.enable_compilation_cache()
        main()

    try:
        _rename_arguments()
        define()
        try:
            app.run(start, flags_parser=_parse)
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


def _rename_arguments() -> None:
    """Replaces former names on the command line, also in the files of --flagfile.

    Raises:
      ConfigError: such a file cannot be read.
    """
    try:
        arguments = flags.FLAGS.read_flags_from_files(sys.argv[1:], force_gnu=True)
    except flags.Error as error:
        raise ConfigError(one_line(error)) from None
    sys.argv[1:] = rename_in_arguments(arguments)


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


def _parse(argv: Sequence[str]) -> list[str]:
    """Parses the flags with absl; raises every error as a ConfigError of one line."""
    try:
        rest = flags.FLAGS(argv)
        if "config" in flags.FLAGS and flags.FLAGS.config:
            flags.FLAGS.config.name  # noqa: B018 (raises OSError if the config file is missing)
    except flags.Error as error:
        # The message may contain the config file's traceback; its last line is the error itself.
        raise ConfigError(str(error).strip().splitlines()[-1].strip()) from None
    except AttributeError as error:
        if former := explain_former_field(str(error)):
            raise ConfigError(f"{_config_file(argv)}: {former}") from None
        raise ConfigError(_unknown_override(argv) or one_line(error)) from None
    except OSError:
        raise ConfigError(
            f"{_config_file(argv)} cannot be read; give --config=FILE.py:MODEL"
        ) from None
    except UserError:
        raise
    except Exception as error:  # code in the config file may raise anything
        raise ConfigError(
            f"{_config_file(argv)} fails: {type(error).__name__}: {one_line(error, None)}"
        ) from error
    if len(rest) > 1:
        raise ConfigError(f"unexpected arguments: {' '.join(rest[1:])}; flags are --NAME=VALUE")
    return rest


def _config_file(argv: Sequence[str]) -> str:
    """Returns how a message refers to the config file of the command line."""
    for argument in argv[1:]:
        if match := re.match(r"--?config=([^:]*)", argument):
            return f"config file {match[1]!r}"
    return "the config file"


def _unknown_override(argv: Sequence[str]) -> str | None:
    """Returns the message for the first override of a field that does not exist, if any."""
    from flaxres.config import default_config, flatten, unknown_field  # imports JAX

    known = flatten(default_config())
    for argument in argv[1:]:
        match = re.match(r"--?(?:no)?config\.([\w.]+)", argument)
        if match and match[1] not in known:
            return unknown_field(match[1])
    return None
