"""Flags of every command, read from their definitions."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import sys
import tempfile
import warnings

from absl import flags

from flaxres.subcommands import MAIN, PROGRAMS

# Commands whose arguments absl does not parse -> their words.
WORDS = {
    "list": (
        *("models", "configs", "sweeps", "analyses", "weights", "data", "commands"),
        "--json",
    ),
    "doctor": ("--json", "--timeout="),
    "completion": ("bash", "zsh"),
}


@dataclasses.dataclass(frozen=True)
class Flag:
    """A flag of a command.

    Attributes:
      name: its name, without dashes.
      values: the values that it accepts, if they are a few names.
      is_boolean: True if it needs no value.
    """

    name: str
    values: tuple[str, ...] = ()
    is_boolean: bool = False


def flags_of_commands() -> dict[str, list[Flag]]:
    """Returns the flags of each command, '' for `flaxres` without a word.

    The flags of different commands have the same names, so each command is imported in a process
    of its own, which is forked: the libraries are imported already.

    Raises:
      RuntimeError: a command cannot be imported.
    """
    modules = {"": MAIN} | {
        word: module for word, (module, _) in PROGRAMS.items() if word not in WORDS
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*fork")  # JAX has no threads before its first use
        return {word: _flags_of(module) for word, module in modules.items()}


def _flags_of(module: str) -> list[Flag]:
    with tempfile.TemporaryFile("w+") as file:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                json.dump([dataclasses.asdict(flag) for flag in _import_flags(module)], file)
                file.flush()
                code = 0
            finally:
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        file.seek(0)
        if status:
            raise RuntimeError(f"{module} cannot be imported; python -m {module} shows the reason")
        found = json.load(file)
    return [Flag(flag["name"], tuple(flag["values"]), flag["is_boolean"]) for flag in found]


def _import_flags(module: str) -> list[Flag]:
    """Imports a module and returns its key flags."""
    sys.argv = [module]  # ml_collections reads it
    importlib.import_module(module)
    values = flags.FLAGS
    found = [_describe(flag) for flag in values.get_key_flags_for_module(module)]
    if "config" in values and not any(flag.name == "config" for flag in found):
        found.append(Flag("config"))
    return sorted(found, key=lambda flag: flag.name)


def _describe(flag: flags.Flag) -> Flag:
    values = getattr(flag.parser, "enum_values", None) or ()
    return Flag(flag.name, tuple(values), is_boolean=bool(flag.boolean))
