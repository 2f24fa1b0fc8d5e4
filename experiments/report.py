"""Command line that writes the report of a sweep or a run, finished or not.

flaxres report --workdir=runs/sweep

Writes WORKDIR/report.html, one page that contains its figures and loads nothing, and
WORKDIR/report.md, which links to the figures. Both list unfinished runs first. Figures of the runs
are drawn again, so that they show the same numbers as the tables.
"""

from __future__ import annotations

from absl import flags

from flaxres import cli
from flaxres.errors import ConfigError, print_lines
from flaxres.experiments.reporting.report import write_report
from flaxres.files import expand_home

WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Directory of a sweep or a run, or of results, such as runs/sweep. The report is written "
    "there.",
)


def main() -> None:
    """Writes the report and prints the paths of its files.

    Raises:
      ConfigError: --workdir is missing.
      WorkdirError: there is no run in it, a run cannot be read, or it cannot be written.
    """
    if WORKDIR.value is None:
        raise ConfigError("--workdir is missing; set it to the directory of a run or a sweep")
    print_lines(write_report(expand_home(WORKDIR.value, "--workdir")))


if __name__ == "__main__":
    cli.run(main, trains=False)
