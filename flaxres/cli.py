"""What all command lines share: flags, configs from files, and errors as one line."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import ConfigDict, config_flags

from flaxres import cpu
from flaxres.aliases import rename_in_arguments, rename_in_config
from flaxres.cpu import compilation_cache
from flaxres.errors import ConfigError, InterruptedRunError, UserError, one_line
from flaxres.run import preemption


def define_config(example: str) -> None:
    """Defines --config=FILE.py[:NET] and its overrides, --config.FIELD=VALUE."""
    config_flags.DEFINE_config_file(
        "config",
        None,
        f"Config file and net, e.g. {example}; --config.seed=1 and the like override its fields.",
    )


def define_overrides() -> None:
    """Defines --config.FIELD=VALUE alone, where several configs get them.

    Raises:
      ConfigError: the command line has a field that does not exist, or a value of another type.
    """
    from flaxres.config import default_config

    if given := [arg for arg in sys.argv if re.match(r"--?config=", arg)]:
        raise ConfigError(
            f"only fields of configs can be set here, as in --config.num_steps=100; got {given[0]}"
        )
    try:
        config_flags.DEFINE_config_dict("config", default_config(), "Overrides for all runs.")
    except (AttributeError, TypeError, ValueError, flags.Error) as error:
        raise ConfigError(_unknown_override(sys.argv) or one_line(error)) from None


def get_overrides() -> dict[str, object]:
    """The fields that the command line overrides, by dotted name."""
    return dict(config_flags.get_override_values(flags.FLAGS["config"]))


def get_config() -> ConfigDict:
    """The config that the flags describe.

    Raises:
      ConfigError: there is no --config.
    """
    config = flags.FLAGS.config
    if config is None:
        raise ConfigError("--config is missing; give it a file, e.g. --config=configs/digits.py")
    rename_in_config(config)
    config.update_from_flattened_dict(get_overrides())
    return config


def with_model(config: ConfigDict, net: str) -> ConfigDict:
    """A copy with another net, and the overrides of the command line.

    Raises:
      ConfigError: no net has this name.
    """
    from flaxres.config import set_model

    other = set_model(config.copy_and_resolve_references(), net, config.model.stem)
    other.update_from_flattened_dict(get_overrides())
    return other


def run(
    main: Callable[[], None], trains: bool = True, define: Callable[[], None] = lambda: None
) -> None:
    """Parses the flags and runs `main`; a user's mistake ends as one line on standard error.

    Args:
      main: the program.
      trains: by itself; if not, the settings that make training fast are left out.
      define: defines flags that can go wrong.

    Exit codes: 2 for the command line and the config, 3 for a run that diverged, 4 for a workdir in
    use, 1 for all else, 128 + signal when stopped.
    """
    preemption.stop_with_parent()
    if trains:
        cpu.tune()
    sys.argv[1:] = rename_in_arguments(sys.argv[1:])
    absl_logging.set_verbosity(absl_logging.FATAL)  # libraries log what they raise as well

    def start(_: Sequence[str]) -> None:
        if trains:
            compilation_cache.enable_compilation_cache()
        main()

    try:
        define()
        app.run(start, flags_parser=_parse)
    except InterruptedRunError as error:
        _exit(str(error), error.exit_code)
    except UserError as error:
        _exit(f"error: {error}", error.exit_code, error.shared)
    except KeyboardInterrupt:
        _exit("interrupted", 130)
    except BrokenPipeError:  # the reader, `head` say, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)  # 128 + SIGPIPE


def _exit(message: str, code: int, shared: bool = True) -> None:
    print(message, file=sys.stderr, flush=True)
    if not shared and "jax" in sys.modules:
        from flaxres.parallel import multihost

        multihost.exit_without_waiting(code)
    sys.exit(code)


def _parse(argv: Sequence[str]) -> list[str]:
    """Absl's parser, with every error as a ConfigError of one line."""
    try:
        rest = flags.FLAGS(argv)
        if "config" in flags.FLAGS and flags.FLAGS.config:
            flags.FLAGS.config.name  # noqa: B018 (a missing file shows here)
    except flags.Error as error:
        # The message may hold the traceback of the config file; its last line says what it was.
        raise ConfigError(str(error).strip().splitlines()[-1].strip()) from None
    except AttributeError as error:
        raise ConfigError(_unknown_override(argv) or str(error)) from None
    except OSError:
        raise ConfigError(
            f"{_config_file(argv)} cannot be read; give --config=FILE.py:NET"
        ) from None
    except UserError:
        raise
    except Exception as error:  # whatever the code in the file raises
        raise ConfigError(
            f"{_config_file(argv)} fails: {type(error).__name__}: {one_line(error, None)}"
        ) from error
    if len(rest) > 1:
        raise ConfigError(f"unexpected arguments: {' '.join(rest[1:])}; flags are --NAME=VALUE")
    return rest


def _config_file(argv: Sequence[str]) -> str:
    """How to call the file of --config in a message."""
    for argument in argv[1:]:
        if match := re.match(r"--?config=([^:]*)", argument):
            return f"config file {match[1]!r}"
    return "the config file"


def _unknown_override(argv: Sequence[str]) -> str | None:
    """The message for the first override of a field that does not exist."""
    from flaxres.config import default_config, flatten, unknown_field  # imports JAX

    known = flatten(default_config())
    for argument in argv[1:]:
        match = re.match(r"--?(?:no)?config\.([\w.]+)", argument)
        if match and match[1] not in known:
            return unknown_field(match[1])
    return None
