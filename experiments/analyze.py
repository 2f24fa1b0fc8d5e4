"""What trained nets are like inside: one analysis of the runs of a workdir.

python -m experiments.analyze responses --workdir=runs/degradation

The workdir is that of a run or of a sweep, finished or not. Figures (PNG, SVG) and numbers (CSV) go
to WORKDIR/analyses. --help lists the analyses, NAME --help shows the flags of one.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

from absl import flags

from experiments.analyses import ANALYSES
from flaxres import cli
from flaxres.errors import ConfigError, WorkdirError

WORKDIR = flags.DEFINE_string("workdir", None, "Of a run or a sweep.")
ONLY = flags.DEFINE_list("only", [], "Patterns of runs, e.g. 'resnet-*,*/seed-0'; else all.")
OUTPUT = flags.DEFINE_string("output", None, "Where results go; WORKDIR/analyses if not given.")


def listing() -> str:
    """The analyses, a line for each."""
    return "\n".join(f"  {name:<14}{what}" for name, what in ANALYSES.items())


def take_name() -> ModuleType:
    """The analysis that the first argument names, which is taken from the command line.

    Raises:
      ConfigError: there is none of that name.
    """
    given = sys.argv[1:2]
    if not given or given[0].startswith("-"):
        if {"--help", "-h", "--helpfull"} & set(given):
            print(f"{__doc__}\n{listing()}")
            sys.exit(0)
        raise ConfigError(
            f"the first argument must name an analysis, one of {', '.join(ANALYSES)}; "
            "--help says what they are"
        )
    if given[0] not in ANALYSES:
        raise ConfigError(f"analysis must be one of {', '.join(ANALYSES)}, got {given[0]!r}")
    del sys.argv[1]
    analysis = importlib.import_module(f"experiments.analyses.{given[0]}")
    getattr(analysis, "define_flags", lambda: None)()
    flags.adopt_module_key_flags(analysis)  # so that --help shows them
    return analysis


def main(analysis: ModuleType) -> None:
    """Runs it and prints what was written.

    Raises:
      UserError: no workdir, no run that can be analysed, or results that cannot be written.
    """
    from experiments.analyses.base import ANALYSES as DIRECTORY
    from experiments.analyses.base import run_directories

    if WORKDIR.value is None:
        raise ConfigError("--workdir is missing; give it that of a run or a sweep")
    workdir = Path(WORKDIR.value).expanduser()
    directories = run_directories(workdir, ONLY.value)
    output = Path(OUTPUT.value).expanduser() if OUTPUT.value else workdir / DIRECTORY
    try:
        output.mkdir(parents=True, exist_ok=True)
        files = analysis.analyze(directories, output)
    except OSError as error:
        raise WorkdirError(
            f"results cannot be written to {output} ({error.strerror}); choose another --output"
        ) from error
    print("\n".join(map(str, files)))


if __name__ == "__main__":
    chosen: list[ModuleType] = []
    cli.run(lambda: main(chosen[0]), define=lambda: chosen.append(take_name()))
