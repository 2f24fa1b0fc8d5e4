"""Flags of every command, read from their definitions."""

from __future__ import annotations

import dataclasses
import importlib
import sys

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

    Imports the modules of all commands, whose flags have the same names. Call it in a process that
    ends soon: it removes the flags of each command again.
    """
    modules = {"": MAIN} | {
        word: module for word, (module, _) in PROGRAMS.items() if word not in WORDS
    }
    return {word: _flags_of(module) for word, module in modules.items()}


def _flags_of(module: str) -> list[Flag]:
    before = set(flags.FLAGS)
    arguments, sys.argv = sys.argv, [module]  # ml_collections reads it
    try:
        importlib.import_module(module)
    finally:
        sys.argv = arguments
    values = flags.FLAGS
    found = [_describe(flag) for flag in values.get_key_flags_for_module(module)]
    if "config" in values and not any(flag.name == "config" for flag in found):
        found.append(Flag("config"))
    defined = set(values) - before
    own = {
        name
        for name in defined
        if values.find_module_defining_flag(name) == module or name.startswith("config")
    }
    values.remove_flag_values({name: values[name] for name in own})
    return sorted(found, key=lambda flag: flag.name)


def _describe(flag: flags.Flag) -> Flag:
    values = getattr(flag.parser, "enum_values", None) or ()
    return Flag(flag.name, tuple(values), is_boolean=bool(flag.boolean))
