"""Commands of flaxres: the first word of `flaxres WORD ...`, and the modules that run them.

Without a word, `flaxres` is `python -m flaxres.main`. The words work there too.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

from flaxres import __version__
from flaxres.errors import ConfigError, printable
from flaxres.suggestions import did_you_mean
from flaxres.version import commit

MAIN = "flaxres.main"
# Values of --mode -> description.
MODES = {
    "train": "train a model, or resume its training",
    "eval": "evaluate a trained model on every split",
    "predict": "predict the classes of image files",
    "export": "write a model to a file for other programs",
    "summary": "print layers, parameters and multiply-adds of models",
}
# Other commands -> module that runs them, description.
PROGRAMS = {
    "sweep": ("flaxres.experiments.sweep", "train the runs that a sweep file lists"),
    "degradation": ("flaxres.experiments.degradation", "compare plain and residual models"),
    "reproduction": ("flaxres.experiments.reproduction", "train all models of the paper"),
    "analyze": ("flaxres.experiments.analyze", "analyze trained models"),
    "report": ("flaxres.experiments.report", "write the report of a sweep or a run"),
    "prepare": ("flaxres.data.prepare", "prepare a data set of TFDS, or a JPEG copy of it"),
    "list": ("flaxres.catalog", "list models, configs, sweeps, analyses and data sets"),
    "doctor": ("flaxres.doctor", "check the installation, the devices and the data"),
    "completion": ("flaxres.completion", "print the completion script of a shell"),
}


def split_command(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """Returns the module that runs a command line, and the arguments for it.

    Args:
      arguments: arguments without the program's name, such as ['eval', '--workdir=x'].

    Returns:
      The module, and arguments in which a mode is a flag: ['--mode=eval', '--workdir=x'].

    Raises:
      ConfigError: the first word is no command.
    """
    word, *rest = arguments or [""]
    if word == "help":
        return split_command([*rest, "--help"])
    if word in MODES:
        return MAIN, [f"--mode={word}", *rest]
    if word in PROGRAMS:
        return PROGRAMS[word][0], rest
    if word and not word.startswith("-"):
        words = [*MODES, *PROGRAMS]
        raise ConfigError(
            f"command must be one of {', '.join(words)}, got {word!r}{did_you_mean(word, words)}"
        )
    match = re.fullmatch(r"--?(list|completion)(?:=(.*))?", word, re.DOTALL)
    if match:
        return PROGRAMS[match[1]][0], [*filter(None, (match[2] or "").split(",")), *rest]
    return MAIN, list(arguments)


def replace_command() -> str:
    """Replaces a command in `sys.argv` by its arguments, and returns the module that runs it.

    Prints the version for --version. Ends the program if the command does not exist.
    """
    if sys.argv[1:] == ["--version"]:
        revision = commit()
        print(f"flaxres {__version__}" + (f" ({revision})" if revision else ""))
        sys.exit(0)
    try:
        module, sys.argv[1:] = split_command(sys.argv[1:])
    except ConfigError as error:
        exit_with_error(str(error))
    return module


def execute_other_command() -> None:
    """Replaces this program by the command in `sys.argv`, unless that is a mode.

    `python -m flaxres.main` has defined its flags already, which those of other commands repeat.
    """
    module = replace_command()
    if module != MAIN:
        if sys.stdout is not None:  # it is None where the program starts with it closed
            sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]])


def exit_with_error(message: str) -> NoReturn:
    """Prints an error in the command line, and ends the program with its exit code."""
    print(f"error: {printable(message)}", file=sys.stderr, flush=True)
    sys.exit(ConfigError.exit_code)
