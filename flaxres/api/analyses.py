"""Analyses from Python: `analyze` and its result."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flaxres.api.arguments import of_type, overrides_of, path_of, paths_of, texts_of
from flaxres.api.input_images import PathName
from flaxres.api.sweeps import import_pandas
from flaxres.errors import ArgumentError, WorkdirError
from flaxres.experiments.analyses import ANALYSES, ANALYSES_DIR
from flaxres.experiments.analyses.source_selection import select_sources
from flaxres.field_checks import FieldChecker, shown
from flaxres.suggestions import did_you_mean

if TYPE_CHECKING:
    import pandas as pd

TRAINS_MODELS = "identity"  # the analysis whose runs need the options of a sweep


@dataclasses.dataclass(frozen=True)
class AnalysisResult:
    """Files of an analysis.

    Attributes:
      name: name of the analysis.
      files: all files: figures (PNG and SVG) and tables (CSV).
    """

    name: str
    files: tuple[Path, ...]

    @property
    def figures(self) -> list[Path]:
        """The figures, as PNG files."""
        return [file for file in self.files if file.suffix == ".png"]

    def table(self, name: str = "") -> pd.DataFrame:
        """Returns a table as a DataFrame.

        Args:
          name: name of the CSV file without its suffix (default: the first one).

        Raises:
          ArgumentError: the analysis has no such table.
          MissingPackageError: pandas is not installed.
        """
        of_type(name, str, "name", "the name of a CSV file without its suffix")
        tables = {file.stem: file for file in self.files if file.suffix == ".csv"}
        name = name or next(iter(tables))
        if name not in tables:
            raise ArgumentError(
                f"the analysis {self.name} has no table {shown(name)}, only {', '.join(tables)}"
                f"{did_you_mean(name, tables)}"
            )
        return import_pandas().read_csv(tables[name])

    def __repr__(self) -> str:
        files = ", ".join(str(file) for file in self.files)
        return f"AnalysisResult({self.name}: {files})"


def analyze(
    name: str,
    workdir: PathName | None = None,
    *,
    weights: Sequence[PathName] | PathName = (),
    data_dir: PathName | None = None,
    only: Sequence[str] | str = (),
    output: PathName | None = None,
    **options: Any,
) -> AnalysisResult:
    """Runs an analysis of trained models, as `flaxres analyze NAME` does.

        flaxres.analyze("blocks", "runs/degradation", only=["*-20"], trials=5).table()
        flaxres.analyze("blocks", weights=["resnet-20-cifar10_jpeg"], output="blocks")

    Args:
      name: 'responses', 'gradients', 'population', 'batch_norm', 'blocks' or 'landscape'
        (`docs/analyses.md`).
      workdir: directory of a run or of a sweep; None for `weights` only.
      weights: weights files, or names of pretrained weights of flaxres.
      data_dir: directory of the data sets of `weights` (default: that of TFDS).
      only: patterns of names of runs and weights, such as 'resnet-*' (default: all).
      output: directory of the figures and CSV files (default: WORKDIR/analyses); required without
        a workdir.
      **options: options of the analysis, with the names of the command's flags.

    Raises:
      ArgumentError: there is no such analysis, it has no such option, or an argument is missing.
      ConfigError: an option has an invalid value, a pattern matches no run, or the analysis does
        not support a model.
      WorkdirError: there is no run, or the files cannot be written.
      WeightsError: a weights file does not exist or is damaged.
      DatasetError: the data set of the weights cannot be read.
    """
    if isinstance(name, str) and name == TRAINS_MODELS:
        raise ArgumentError(
            f"the analysis {name} trains models and is only a command: python -m "
            f"experiments.analyze {name} --workdir={workdir or 'DIR'}"
        )
    names = [analysis for analysis in ANALYSES if analysis != TRAINS_MODELS]
    if not isinstance(name, str) or name not in names:
        raise ArgumentError(
            f"analysis must be one of {', '.join(names)}, got {shown(name)}"
            f"{did_you_mean(str(name), names)}"
        )
    module = importlib.import_module(f"flaxres.experiments.analyses.{name}")
    options = overrides_of(options)
    arguments = [_make_options(name, module.Options, options)] if hasattr(module, "Options") else []
    if options and not arguments:
        raise ArgumentError(f"the analysis {name} has no options, got {', '.join(options)}")
    files_of_weights = paths_of(weights, "weights")
    patterns = texts_of(only, "only", "a pattern of names, such as 'resnet-*'")
    directory = None if workdir is None else path_of(workdir)
    if directory is None and not files_of_weights:
        raise ArgumentError("workdir and weights are missing; give one of them")
    target = _output_directory(directory, output)
    data = None if data_dir is None else str(path_of(data_dir, "data_dir"))
    sources = select_sources(directory, files_of_weights, patterns, data)
    function = module.analyze_runs if arguments else module.analyze
    try:
        target.mkdir(parents=True, exist_ok=True)
        files = function(sources, target, *arguments)
    except OSError as error:
        raise WorkdirError(
            f"results cannot be written to {target} ({error.strerror}); choose another output"
        ) from error
    return AnalysisResult(name, tuple(files))


def _output_directory(workdir: Path | None, output: PathName | None) -> Path:
    """Returns the directory of the figures and tables."""
    if output is not None:
        return path_of(output, "output")
    if workdir is None:
        raise ArgumentError("output is missing; weights have no directory for figures and tables")
    return workdir / ANALYSES_DIR


def _make_options(name: str, kind: type, options: dict[str, Any]) -> Any:
    """Returns the options of an analysis after checks of their names and types."""
    fields = {field.name: field.default for field in dataclasses.fields(kind)}
    checker = FieldChecker(options)
    for option, value in options.items():
        if option not in fields:
            raise ArgumentError(
                f"the analysis {name} has no option {option}, only {', '.join(fields)}"
                f"{did_you_mean(option, fields)}"
            )
        is_text = isinstance(fields[option], tuple)
        checker.require_type(option, fields[option], str if is_text else type(fields[option]))
        fields[option] = tuple(value) if is_text else value
    return kind(**fields)
