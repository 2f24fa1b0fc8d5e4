"""Selection of the models that an analysis reads: runs of a workdir, and weights files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from flaxres.config import model_name
from flaxres.errors import ConfigError, WeightsError, WorkdirError
from flaxres.experiments.analyses.model_sources import (
    ModelSource,
    RunSource,
    WeightsSource,
    each_readable,
)
from flaxres.experiments.results.run_names import (
    check_inside,
    run_directories,
    run_name,
    select_names,
    sweep_hint,
)
from flaxres.inference.pretrained import load_pretrained
from flaxres.inference.trained_model import TrainedModel
from flaxres.parallel.multihost import print_to_stderr
from flaxres.pretrained.sources import SHIPPED, Kind, find_source, is_directory, source_kind
from flaxres.pretrained.weights_file import WEIGHTS_SUFFIX
from flaxres.run.workdir import CONFIG_FILE
from flaxres.suggestions import did_you_mean


def load_weights(
    weights: Sequence[str], data_dir: str | None = None, used_names: Iterable[str] = ()
) -> list[WeightsSource]:
    """Loads weights files. Each is named by its model, or by its file if models are equal.

    Args:
      weights: paths of weights files, or names of pretrained weights of flaxres.
      data_dir: directory of the data sets; None for that of TFDS.
      used_names: names of other models, which the files must not have.

    Raises:
      ConfigError: an element is no weights file, or two have the same name.
      WeightsError: a file does not exist, cannot be read or is damaged.
    """
    overrides = {} if data_dir is None else {"dataset.data_dir": data_dir}
    trained: dict[str, TrainedModel] = {}  # by the real path of the file
    for given in weights:
        path = find_source(given)
        if not os.path.lexists(path):
            raise WeightsError(
                f"--weights={given} does not exist; give a weights file (NAME{WEIGHTS_SUFFIX}) or "
                f"one of the pretrained weights {', '.join(SHIPPED)}"
                f"{did_you_mean(path.name.removesuffix(WEIGHTS_SUFFIX), SHIPPED)}"
            )
        if is_directory(path, "--weights"):
            raise ConfigError(
                f"--weights must be weights files or names, got the directory {given}; give the "
                "directory of a run or of a sweep with --workdir"
            )
        if (kind := source_kind(path)) is not Kind.WEIGHTS:
            raise ConfigError(
                f"--weights must be weights files (NAME{WEIGHTS_SUFFIX}) or names, but {given} is "
                f"a {kind.value}, which does not name its data set; --mode=export converts it"
            )
        if (real_path := os.path.realpath(path)) in trained:
            raise ConfigError(f"--weights has {given} twice; give each file once")
        trained[real_path] = load_pretrained(given, log=print_to_stderr, overrides=overrides)
    models = [model_name(model.config.model) for model in trained.values()]
    sources: dict[str, WeightsSource] = {}
    for name, model in zip(models, trained.values(), strict=True):
        if models.count(name) > 1 or name in used_names:
            name = Path(model.source).name.removesuffix(WEIGHTS_SUFFIX)
        if name in sources or name in used_names:
            other = f"the weights {sources[name]}" if name in sources else "a run of the workdir"
            raise ConfigError(
                f"the weights {model.source} and {other} have the same name in figures, {name}; "
                "rename the file"
            )
        sources[name] = WeightsSource(name, model)
    return list(sources.values())


def select_sources(
    workdir: Path | None,
    weights: Sequence[str] = (),
    patterns: Sequence[str] = (),
    data_dir: str | None = None,
) -> list[ModelSource]:
    """Returns the models to analyze: plain before residual models, by depth.

    Args:
      workdir: directory of one run or of a sweep; None for weights files only.
      weights: paths of weights files, or names of pretrained weights of flaxres.
      patterns: patterns of names, such as 'resnet-*' or '*/seed-0'; empty for all. The name of a
        single run is that of its directory.
      data_dir: directory of the data sets of `weights`; None for that of TFDS.

    Raises:
      WorkdirError: `workdir` contains no run whose config can be read.
      ConfigError: a pattern matches no model.
      UserError: `load_weights` cannot load a file.
    """
    if data_dir is not None and not weights:
        raise ConfigError("--data_dir requires --weights; the config of a run has its own")
    directories = {} if workdir is None else _directories_by_name(workdir)
    used_names = {name.partition("/")[0] for name in directories}
    if weights and directories.keys() == used_names:  # a run by itself has its model's name, too
        used_names |= {RunSource(directory).variant for directory in directories.values()}
    files = load_weights(weights, data_dir, used_names)
    kind = "model" if files else "run"
    names = select_names([*directories, *(file.name for file in files)], patterns, kind)
    runs = [RunSource(directories[name]) for name in names if name in directories]
    selected = [file for file in files if file.name in names]
    if len(names) == 1:
        return [*runs, *selected]
    keys: dict[ModelSource, tuple[Any, ...]] = {}
    for run, config in each_readable(runs, lambda run: _checked_config(run, workdir)):
        keys[run] = _sort_key(config, run.run_directory.parent.name)
    keys |= {file: _sort_key(file.config, file.name) for file in selected}
    return sorted(keys, key=keys.__getitem__)


def _directories_by_name(workdir: Path) -> dict[str, Path]:
    """Returns the directories of the runs in a workdir by the names that patterns match."""
    if (workdir / CONFIG_FILE).exists():
        return {run_name(workdir): workdir}
    if directories := run_directories(workdir):
        return {str(path.relative_to(workdir)): path for path in directories}
    advice = f"; train a model with python -m flaxres.main --config=... --workdir={workdir}"
    raise WorkdirError(
        f"{workdir} contains neither a run nor a sweep with runs in MODEL/seed-N"
        f"{sweep_hint(workdir) or advice}"
    )


def _checked_config(run: RunSource, workdir: Path | None) -> ConfigDict:
    if workdir is not None:
        check_inside(run.run_directory, workdir)
    return run.config


def _sort_key(config: ConfigDict, variant: str) -> tuple[Any, ...]:
    model = (config.model[field] for field in ("name", "depth", "shortcut"))
    return *model, variant, config.seed
