"""Errors that a user can fix; command lines print them as one line, without a traceback."""

import sys
import unicodedata
from collections.abc import Iterable, Sequence

JOINER = "\N{ZERO WIDTH JOINER}"  # joins emoji, such as those of a family

_printed: set[str] = set()  # keys of the lines that `print_once` has printed
_silent: set[str] = set()  # not empty if `print_once` prints nothing


def silence_notes(silent: bool) -> None:
    """Makes `print_once` and `print_note` print nothing in this process, or print again."""
    _silent.clear()
    _silent.update(["notes"] * silent)


def print_once(line: str, key: str | None = None) -> None:
    """Prints a line on standard error, once for each key and process.

    Args:
      line: the line, without its line break.
      key: lines with the same key are printed once (default: the line).
    """
    key = line if key is None else key
    if key not in _printed and not _silent:
        _printed.add(key)
        print(printable(line), file=sys.stderr, flush=True)


def print_note(message: str) -> None:
    """Prints a line 'note: MESSAGE' on standard error, once for each message and process."""
    print_once(f"note: {message}")


def print_lines(lines: Iterable[object]) -> None:
    """Prints results on standard output, each as one line without control characters."""
    for line in lines:
        print(printable(str(line)))


def one_line(error: BaseException, max_length: int | None = 200) -> str:
    """Returns the message of an error without line breaks and control characters.

    Args:
      error: any exception.
      max_length: number of characters after which the message is cut off; None for no limit.
    """
    try:
        message = str(error)
    except Exception:  # the class may be a user's, with a bad __str__
        message = ""
    text = printable(" ".join(message.split())) or type(error).__name__
    return text if max_length is None or len(text) <= max_length else text[:max_length] + "..."


def printable(text: str) -> str:
    """Returns a text with control characters and bytes that are not UTF-8 as escape sequences.

    Names of files and classes may contain both. A terminal would obey them, and other files reject
    them. Line breaks and marks of the direction of text are escaped; spaces of every width and the
    joiner of emoji are kept.
    """
    if text.isprintable():
        return text
    return "".join(
        char if char == JOINER or unicodedata.category(char) == "Zs" else escape_unprintable(char)
        for char in text
    )


def escape_unprintable(text: str) -> str:
    """Returns a text with everything that `str.isprintable` rejects as escape sequences.

    Unlike `printable`, it also escapes spaces other than U+0020. Fingerprints of data sets hold
    names in this form, so it must not change.
    """
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def first_few(names: Sequence[str], max_names: int, separator: str = ", ") -> str:
    """Returns the first `max_names` names and the number of others: 'a, b and 3 more'."""
    num_others = len(names) - max_names
    others = f" and {num_others} more" if num_others > 0 else ""
    return separator.join(names[:max_names]) + others


def counted(number: int, singular: str, plural: str = "") -> str:
    """Returns a number and its noun: '1 run', '2,000 runs'; `plural` defaults to `singular` + s."""
    return f"{number:,} {singular if number == 1 else plural or f'{singular}s'}"


class UserError(Exception):
    """An error of the user or the machine; the message says what was given and what to do.

    Attributes:
      exit_code: exit code of a program that ends with this error.
      on_all_processes: True if all processes of the run raise the error together.
    """

    exit_code = 1
    on_all_processes = False


class ConfigError(UserError):
    """A config or a command line is invalid."""

    exit_code = 2


class DatasetError(UserError):
    """A data set is unknown, missing, incomplete or does not fit the config."""


class WorkdirError(UserError):
    """A run directory cannot be read or written, or it belongs to another run."""


class DataChangedError(WorkdirError):
    """The data of a run differ from those that it was trained on."""

    exit_code = 2  # a sweep does not retry the run


class DamagedFileError(WorkdirError):
    """A file of a run cannot be read or has wrong content; other runs are not affected."""


class InUseError(WorkdirError):
    """Another live process uses the run directory."""

    exit_code = 4


class DistributedError(UserError):
    """The processes of a run cannot reach each other, or one of them has failed."""


class SweepError(UserError):
    """Some runs of a sweep failed."""


class CheckpointError(UserError):
    """A checkpoint cannot be written or read, or there is none."""


class WeightsError(UserError):
    """Pretrained weights cannot be read or do not fit the model."""


class DivergedError(UserError):
    """The loss or a parameter is no longer finite.

    Attributes:
      PREFIX: start of the message that ends a run, by which the report recognizes it.
    """

    PREFIX = "training diverged"
    exit_code = 3


class InterruptedRunError(UserError):
    """A signal stopped the run, after its checkpoint was saved.

    Attributes:
      signum: number of the signal.
      exit_code: 128 + signum, the shell convention.
    """

    on_all_processes = True

    def __init__(self, message: str, signum: int):
        """Creates the error for signal number `signum`."""
        super().__init__(message)
        self.signum = signum
        self.exit_code = 128 + signum


class ArgumentError(UserError, ValueError):
    """An argument of a function of the Python API is invalid."""
