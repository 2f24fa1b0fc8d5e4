"""Commands without a config, such as `flaxres list`: parsing of their flags, errors of one line."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable

from absl import app, flags

from flaxres import streams
from flaxres.errors import UserError, one_line, printable
from flaxres.help_text import asks_for_help, print_help
from flaxres.subcommands import exit_with_error
from flaxres.suggestions import did_you_mean


def run(main: Callable[[], None]) -> None:
    """Runs a command, and prints an error that a user can fix as one line.

    The exit codes are those of `flaxres.cli.run`.

    Args:
      main: the command; it may raise UserError or SystemExit.
    """
    streams.prepare_streams()
    try:
        try:
            main()
        finally:
            streams.flush_output()
    except UserError as error:
        _exit(f"error: {error}" if str(error) else "", error.exit_code)
    except KeyboardInterrupt:
        _exit("interrupted", 130)


def _exit(message: str, code: int) -> None:
    with contextlib.suppress(streams.OutputError):  # `message` is the error to report
        streams.flush_output()
    if message:
        print(printable(message), file=sys.stderr, flush=True)
    sys.exit(code)


def parse_words(description: str) -> list[str]:
    """Parses the command line of a command that is not a program of `flaxres.cli`.

    Prints the help text and ends the program for --help. Define the flags of the command first.

    Args:
      description: docstring of the command's module.

    Returns:
      The arguments that are no flags.
    """
    if asks_for_help(sys.argv[1:]):
        print_help(description)
        sys.exit(0)
    app.define_help_flags()
    try:
        return flags.FLAGS(sys.argv)[1:]
    except flags.UnrecognizedFlagError as error:
        known = [flag.name for flag in flags.FLAGS.get_key_flags_for_module(sys.argv[0])]
        exit_with_error(
            f"unknown flag --{error.flagname}{did_you_mean(error.flagname, known, '--{}')}"
        )
    except flags.Error as error:
        exit_with_error(one_line(error, None))
