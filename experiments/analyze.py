"""Analyses of trained models.

flaxres analyze NAME --workdir=runs/degradation
flaxres analyze NAME --weights=plain-20-cifar10_jpeg,resnet-20-cifar10_jpeg --output=DIR

The workdir is the directory of one run or of a sweep; runs may be unfinished. Weights files contain
trained models. Figures (PNG, SVG) and numbers (CSV) are written to WORKDIR/analyses or to --output.
`NAME --help` lists the flags of an analysis.
"""

from __future__ import annotations

import importlib
import sys
import textwrap
from types import ModuleType

from absl import flags

from flaxres import cli
from flaxres.errors import ConfigError, WorkdirError, print_lines
from flaxres.experiments.analyses import ANALYSES
from flaxres.files import expand_home
from flaxres.help_text import asks_for_help, print_help
from flaxres.suggestions import did_you_mean

WORKDIR = flags.DEFINE_string(
    "workdir", None, "Directory of a run or of a sweep, e.g. runs/degradation."
)
ONLY = flags.DEFINE_list(
    "only",
    [],
    "Patterns of names of runs and weights, e.g. 'resnet-*,*/seed-0' (default: all).",
)
WEIGHTS = flags.DEFINE_list(
    "weights",
    [],
    "Weights files to analyze, by themselves or together with the runs of --workdir: names of "
    "pretrained weights (`flaxres list weights`) or paths, e.g. "
    "plain-20-cifar10_jpeg,my.safetensors.",
)
DATA_DIR = flags.DEFINE_string(
    "data_dir",
    None,
    "Directory of the data sets of --weights (default: that of TFDS). A run has its own.",
)
OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "Directory of the figures and CSV files (default: WORKDIR/analyses). Required without "
    "--workdir.",
)


def format_analyses() -> str:
    """Returns the name and the description of each analysis, in lines of at most 80 characters."""
    return "\n".join(
        textwrap.fill(f"  {name:<12}{description}", 80, subsequent_indent=" " * 14)
        for name, description in ANALYSES.items()
    )


def pop_analysis() -> ModuleType:
    """Removes the name of the analysis from the command line, and imports it with its flags.

    Raises:
      ConfigError: the first argument does not name an analysis.
    """
    arguments = sys.argv[1:2]
    if not arguments or arguments[0].startswith("-"):
        if asks_for_help(arguments) or "--helpfull" in arguments:
            print_help(f"{__doc__}\nAnalyses:\n\n{format_analyses()}")
            sys.exit(0)
        raise ConfigError(
            f"the first argument must name an analysis: {', '.join(ANALYSES)}; --help describes "
            "them"
        )
    name = arguments[0]
    if name not in ANALYSES:
        raise ConfigError(
            f"analysis must be one of {', '.join(ANALYSES)}, got {name!r}"
            f"{did_you_mean(name, ANALYSES)}"
        )
    del sys.argv[1]
    analysis = importlib.import_module(f"flaxres.experiments.analyses.{name}")
    sys.modules["__main__"].__doc__ = analysis.__doc__  # which --help prints
    getattr(analysis, "define_flags", lambda: None)()
    flags.adopt_module_key_flags(analysis)  # lists them in --help
    return analysis


def main(analysis: ModuleType) -> None:
    """Runs the analysis and prints the paths of the files it wrote.

    Raises:
      UserError: there is no model, a model is not supported, or a file cannot be written.
    """
    from flaxres.experiments.analyses import ANALYSES_DIR
    from flaxres.experiments.analyses.source_selection import select_sources

    workdir = None if WORKDIR.value is None else expand_home(WORKDIR.value, "--workdir")
    given = DATA_DIR.value
    data_dir = None if given is None else str(expand_home(given, "--data_dir"))
    if workdir is None and not WEIGHTS.value:
        raise ConfigError(
            "--workdir is missing; set it to the directory of a run or of a sweep, or give weights "
            "files with --weights"
        )
    if OUTPUT.value:
        output = expand_home(OUTPUT.value, "--output")
    elif workdir is not None:
        output = workdir / ANALYSES_DIR
    else:
        raise ConfigError(
            "--output is missing; give --weights a directory for the figures and CSV files"
        )
    sources = select_sources(workdir, WEIGHTS.value, ONLY.value, data_dir)
    try:
        output.mkdir(parents=True, exist_ok=True)
        files = analysis.analyze(sources, output)
    except OSError as error:
        raise WorkdirError(
            f"results cannot be written to {output} ({error.strerror}); choose another --output"
        ) from error
    print_lines(files)


if __name__ == "__main__":
    selected: list[ModuleType] = []
    cli.run(lambda: main(selected[0]), define=lambda: selected.append(pop_analysis()))
