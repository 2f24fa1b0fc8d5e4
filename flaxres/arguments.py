"""Arguments of a command line, parsed with absl: every error becomes a ConfigError of one line."""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Sequence

from absl import flags

from flaxres.aliases import explain_former_field
from flaxres.errors import ConfigError, UserError, one_line
from flaxres.field_checks import MAX_INT64, shown
from flaxres.former_packages import register_former_packages
from flaxres.subcommands import MODES, PROGRAMS
from flaxres.suggestions import did_you_mean, nearest_fields, nearest_names, suggestion
from flaxres.user_files import (
    call_get_config,
    check_is_config,
    check_readable,
    file_error,
    find_config,
)

MAY_BE_EMPTY = ("models", "deep_models")  # in a reproduction one of them may be
HELP = r"--?(help|h$|\?|only_check_args)"  # flags with which absl ends the program
MAX_MESSAGE = 400  # characters of a message of absl


def read_flag_files(arguments: Sequence[str]) -> list[str]:
    """Replaces --flagfile=FILE by the arguments in the file.

    Args:
      arguments: arguments without the program's name.

    Raises:
      ConfigError: such a file cannot be read.
    """
    for position, argument in enumerate(arguments):
        if argument == "--":
            break
        if match := re.fullmatch(r"--?flagfile(?:=(.*))?", argument, re.DOTALL):
            following = [*arguments, ""][position + 1]
            path = os.path.expanduser(following if match[1] is None else match[1])
            check_readable(path, "flag file", "give a text file with one flag per line")
    try:
        return flags.FLAGS.read_flags_from_files(arguments, force_gnu=True)
    except (flags.Error, OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"a flag file cannot be read: {one_line(error)}") from None


def find_configs(arguments: Sequence[str]) -> list[str]:
    """Replaces the value of --config by the path of the file that it means (`find_config`).

    Args:
      arguments: arguments without the program's name, such as ['--config=digits:resnet-20'].

    Returns:
      The arguments with paths. Arguments after '--' are left alone.
    """
    found = list(arguments)
    end = found.index("--") if "--" in found else len(found)
    for position, argument in enumerate(found[:end]):
        if match := re.fullmatch(r"(--?config=)(.*)", argument, re.DOTALL):
            found[position] = match[1] + find_config(match[2])
        elif re.fullmatch("--?config", argument) and position + 1 < end:
            found[position + 1] = find_config(found[position + 1])
    return found


def drop_repeated_overrides(arguments: Sequence[str]) -> list[str]:
    """Removes each --config.FIELD=VALUE that a later one replaces.

    ml_collections would join the values of a field that is a tuple.

    Args:
      arguments: arguments without the program's name and with current names of fields.

    Returns:
      The other arguments in the same order. Arguments after '--' are left alone.
    """
    end = arguments.index("--") if "--" in arguments else len(arguments)
    overrides = {}  # position of an override -> its field and number of arguments
    for position, argument in enumerate(arguments[:end]):
        if match := re.match(r"--?config\.([^=]*)(=?)", argument):
            following = arguments[position + 1 : end][:1]  # the value in "--config.seed 1"
            has_value = bool(following) and not re.match(r"--?[a-zA-Z]", following[0])
            overrides[position] = match[1], 1 if match[2] or not has_value else 2
    last = {field: position for position, (field, _) in overrides.items()}
    dropped = {
        position + offset
        for position, (field, length) in overrides.items()
        for offset in range(length)
        if last[field] != position
    }
    return [argument for i, argument in enumerate(arguments) if i not in dropped]


def parse_arguments(argv: Sequence[str]) -> list[str]:
    """Parses the flags, loads the config file of --config, and checks the values of the flags.

    Args:
      argv: the program's name and the arguments.

    Returns:
      The program's name.

    Raises:
      ConfigError: a flag is unknown or has an invalid value, or the config file fails.
    """
    config_file = find_config_file(argv) if "config" in flags.FLAGS else None
    if config_file is not None:
        check_readable(config_file.partition(":")[0], "config file", "give --config=FILE.py:MODEL")
        register_former_packages()
    try:
        with warnings.catch_warnings():  # ml_collections loads the file in a deprecated way
            warnings.simplefilter("ignore", DeprecationWarning)
            rest = flags.FLAGS(argv)
        if config_file is not None:
            getattr(flags.FLAGS.config, "keys", None)  # raises the OSError of a config file
    except (UserError, KeyboardInterrupt):
        raise
    except SystemExit as error:
        if any(re.match(HELP, argument) for argument in argv[1:]):
            raise SystemExit(0) from None  # absl's code is 1
        if config_file is None:
            raise
        raise file_error("config", config_file.partition(":")[0], error) from None
    except BaseException as error:  # code in the config file may raise anything
        if config_file is not None:
            _check_config_file(config_file)
        raise ConfigError(_explain(error, argv)) from error
    if config_file is not None:
        check_is_config(flags.FLAGS.config, config_file.partition(":")[0])
    if len(rest) > 1:
        raise ConfigError(f"unexpected arguments: {' '.join(rest[1:])}{_word_hint(rest[1])}")
    _check_values()
    return rest


def find_config_file(argv: Sequence[str]) -> str | None:
    """Returns the value of the last --config=FILE.py:MODEL or --config FILE.py:MODEL, if any."""
    value = None
    for argument, following in zip(argv[1:], [*argv[2:], ""], strict=False):
        if argument == "--":
            break
        if match := re.fullmatch(r"--?config(?:=(.*))?", argument, re.DOTALL):
            value = following if match[1] is None else match[1]
    return value


def _check_config_file(config_file: str) -> None:
    """Runs a config file again to find out whether it is the cause of an error.

    Raises:
      ConfigError: the file fails, or get_config() does not return a config.
    """
    path = config_file.partition(":")[0]
    try:
        check_is_config(call_get_config(config_file), path)
    except ConfigError as error:
        if former := explain_former_field(str(error)):
            raise ConfigError(f"config file {shown(path)}: {former}") from None
        raise


def _explain(error: BaseException, argv: Sequence[str]) -> str:
    """Returns one line on why the flags cannot be parsed."""
    if unknown := re.match(r"Unknown command line flag '([^']*)'", str(error)):
        return _unknown_flag(unknown[1])
    # absl adds the traceback of a parser; its last line is the error itself.
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, flags.Error) and lines:
        flag, _, reason = lines[-1].partition(": ")
        if (given := re.match(r"flag --([^=]+)=(.*)", flag)) and (rule := _rule(reason, given[2])):
            name = given[1].removeprefix("config.")
            return (f"{name} " if name != given[1] else f"--{name} ") + rule
        return one_line(ValueError(f"{flag}: {reason}" if reason else flag), MAX_MESSAGE)
    if message := unknown_override(argv):
        return message
    is_missing = isinstance(error, AttributeError | KeyError)
    return ("the config of --config has no field " if is_missing else "") + one_line(error)


def _rule(reason: str, value: str) -> str | None:
    """Returns 'must be RULE, got VALUE' for an error of absl's parsers; None for other errors."""
    rules = {
        "('Non-boolean argument": "true or false",
        "invalid literal for int": "an integer",
        "could not convert string to float": "a number",
    }
    for start, rule in rules.items():
        if reason.startswith(start):
            return f"must be {rule}, got {shown(value)}"
    if choices := re.match(r"value should be one of <(.*)>", reason):
        names = choices[1].split("|")
        return f"must be one of {', '.join(names)}, got {shown(value)}{did_you_mean(value, names)}"
    return None


def _unknown_flag(name: str) -> str:
    """Returns the message for an unknown flag, which may be the name of a config field."""
    if name.startswith("noconfig."):
        return f"unknown flag --{name}; only fields that are true or false can be negated"
    return f"unknown flag --{name}{_flag_hint(name)}"


def _word_hint(word: str) -> str:
    """Returns the end of the message about an argument that is no flag."""
    if word in MODES or word in PROGRAMS:
        return f"; a command comes first: flaxres {word} --NAME=VALUE ..."
    is_config = "config" in flags.FLAGS and find_config(word).partition(":")[0].endswith(".py")
    return f"; did you mean --config={word}?" if is_config else "; flags are --NAME=VALUE"


def _flag_hint(name: str) -> str:
    """Returns '; did you mean --FLAG?' or '; did you mean --config.FIELD?', or ''."""
    own = sorted(
        flag
        for module, defined in flags.FLAGS.flags_by_module_dict().items()
        for flag in (flag.name for flag in defined)
        if not module.startswith("absl.") and not flag.startswith("config.")
    )
    switches = [f"no{flag}" for flag in own if flags.FLAGS[flag].boolean]
    group, dot, field = name.partition(".")
    if dot and nearest_names(group, ["config"]):
        name = field  # such as --configs.seed
    near = [] if dot else nearest_names(name, [*own, *switches])
    if "config" not in flags.FLAGS:
        return suggestion(near, "--{}")
    from flaxres.config import default_config, flatten  # imports JAX

    known = list(flatten(default_config()))
    fields = [field for field in known if name in (field, field.rpartition(".")[2])]
    if fields or not near:
        near = [f"config.{field}" for field in fields or nearest_fields(name, known)]
    return suggestion(near, "--{}")


def unknown_override(argv: Sequence[str]) -> str | None:
    """Returns the message for the first override of a field that does not exist, if any."""
    from flaxres.config import default_config, flatten, unknown_field  # imports JAX

    known = flatten(default_config())
    for argument in argv[1:]:
        match = re.match(r"--?(?:no)?config\.([^=]*)", argument)
        if match and match[1] not in known and match[1] not in {k.split(".")[0] for k in known}:
            return unknown_field(match[1])
    return None


def _check_values() -> None:
    """Checks the values of the given flags that absl accepts but no program can use.

    Raises:
      ConfigError: a value is empty, not finite or has more than 64 bits.
    """
    for name in flags.FLAGS:
        flag = flags.FLAGS[name]
        if not flag.present or name.startswith("config"):
            continue
        value = flag.value
        if value == "" or (value == [] and name not in MAY_BE_EMPTY):
            raise ConfigError(f"--{name} is empty; give it a value or leave it out")
        if isinstance(value, list) and "" in value:
            raise ConfigError(f"--{name}={','.join(value)} has an empty element")
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"--{name} must be a finite number, got {value}")
        if isinstance(value, int) and abs(value) > MAX_INT64:
            raise ConfigError(f"--{name} must be an integer of 64 bits, got {shown(value)}")
