"""What a user can get wrong: errors that are shown as one line, without a traceback."""

from collections.abc import Sequence


def one_line(error: Exception, most: int | None = 200) -> str:
    """An error's message without line breaks, at most `most` characters (None: all of it)."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if most is None or len(text) <= most else text[:most] + "..."


def first_few(names: Sequence[str], most: int) -> str:
    """Lists the first `most` names, and says how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


class UserError(Exception):
    """A mistake of the user or of the machine; the message says what was given and what to do.

    Attributes:
      exit_code: with which a program ends for it.
      shared: of several processes of a run, all stop for it together.
    """

    exit_code = 1
    shared = False


class ConfigError(UserError):
    """A config that cannot be run."""

    exit_code = 2


class DatasetError(UserError):
    """A data set that is unknown, missing, incomplete or not what the config asks of it."""


class WorkdirError(UserError):
    """A working directory that cannot be written or that holds something else."""


class InUseError(WorkdirError):
    """A working directory that another live process writes."""

    exit_code = 4


class DistributedError(UserError):
    """The processes of a run do not find each other, or one of them has failed."""


class SweepError(UserError):
    """Some runs of a sweep failed."""


class CheckpointError(UserError):
    """A checkpoint that could not be written or read."""


class WeightsError(UserError):
    """Weights to begin with that cannot be read, or are not of this net."""


class DivergedError(UserError):
    """Loss or parameters are no longer finite."""

    exit_code = 3


class InterruptedRunError(UserError):
    """A signal asked the run to stop; its state has been saved.

    Attributes:
      exit_code: 128 + signum, as shells expect.
    """

    shared = True

    def __init__(self, message: str, signum: int):
        super().__init__(message)
        self.exit_code = 128 + signum
