"""Models and runs of the identity analysis, and the configs that train the deeper models."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from flaxres.config import flatten, model_name, set_model
from flaxres.errors import ConfigError, DamagedFileError, print_note
from flaxres.experiments.analyses.base import TrainedRun
from flaxres.experiments.analyses.identity_init import check_deeper
from flaxres.experiments.analyses.model_sources import ModelSource
from flaxres.experiments.results.runs import Run, read_run
from flaxres.models.names import model_fields
from flaxres.overrides import read_config
from flaxres.run.workdir import CONFIG_FILE, differing_fields, read_run_config
from flaxres.suggestions import did_you_mean
from flaxres.user_files import CONFIGS, shipped_names

DEFAULT_CONFIG = "cifar10"  # a config file with the default values
METRICS = {"train_error": "training error", "test_error": "test error"}


@dataclasses.dataclass(frozen=True)
class ModelPair:
    """A trained model and a deeper model to build from it.

    Attributes:
      source: run or weights file of the trained model.
      shallow: name of the trained model, or of its variant in a sweep.
      deeper: name of the deeper model or variant.
      config: config that trains the deeper model from random weights.
    """

    source: ModelSource
    shallow: str
    deeper: str
    config: ConfigDict


@dataclasses.dataclass(frozen=True, eq=False)
class DeepenedModel:
    """A deeper model built from a trained one, before its training.

    Attributes:
      pair: the trained model and the deeper model.
      trained: the trained run.
      weights_file: file with the variables of the deepened model.
      errors: {'train_error': ..., 'test_error': ...} in percent of the 'shallow' model, of the
        'deepened' model, and, if it is trained too, of the deeper model with 'random' weights; with
        running statistics and without augmentation.
      logits_difference: largest difference between the logits of the shallow and the deepened
        model on the test split.
      max_logit: largest absolute logit of the shallow model on the test split.
    """

    pair: ModelPair
    trained: TrainedRun
    weights_file: Path
    errors: dict[str, dict[str, float]]
    logits_difference: float
    max_logit: float


@dataclasses.dataclass(frozen=True, eq=False)
class DeeperRun:
    """A run that trains a deeper model.

    Attributes:
      variant: name of the directory above seed-N.
      config: config of the run.
      directory: directory of the run.
      model: the deepened model that the run belongs to.
      origin: initial weights of the run, 'deepened' or 'random'.
    """

    variant: str
    config: ConfigDict
    directory: Path
    model: DeepenedModel
    origin: str

    def read(self) -> Run | None:
        """Returns the run with a record of step 0, or None if it has no records yet."""
        if not (self.directory / CONFIG_FILE).exists() or (run := read_run(self.directory)) is None:
            return None
        initial = {"step": 0, **self.model.errors[self.origin]}
        return dataclasses.replace(run, variant=self.variant, metrics=run.metrics.prepend(initial))


def find_pairs(
    sources: Sequence[ModelSource], shallow: Sequence[str], deeper: Sequence[str]
) -> list[ModelPair]:
    """Returns the pairs that the flags select, after checking all of them.

    Args:
      sources: the trained models.
      shallow: model names such as plain-20, or depths; empty for the shallowest model of each kind.
        Models of one kind differ only in depth and seed.
      deeper: model names or depths of the models to build. A model is built only from models of the
        same kind.

    Raises:
      ConfigError: no run has such a model, or a model cannot be built.
      WorkdirError: a run cannot be read.
    """
    selected = _select_shallow(sources, shallow)
    pairs, used = [], set()
    for source in selected:
        config, variant = source.config, source.variant
        for spec in deeper:
            if (depth := _parse_depth(spec, config.model)) is None:
                continue
            used.add(spec)
            deeper_config = _with_depth(config, depth)
            check_deeper(config.model, deeper_config.model)
            name, deeper_name = model_name(config.model), model_name(deeper_config.model)
            if name in variant:
                deeper_variant = variant.replace(name, deeper_name)
            else:
                deeper_variant = f"{deeper_name}-{variant}"
            pairs.append(ModelPair(source, variant, deeper_variant, _with_warmup(deeper_config)))
    if not deeper or set(deeper) - used:
        variants = ", ".join(dict.fromkeys(source.variant for source in selected))
        raise ConfigError(
            f"--deeper must be depths or models of the same kind as {variants}, got "
            f"{','.join(deeper)!r}"
        )
    return pairs


def _select_shallow(sources: Sequence[ModelSource], shallow: Sequence[str]) -> list[ModelSource]:
    """Returns the models that are made deeper."""
    if not shallow:
        min_depth: dict[str, int] = {}
        for source in sources:
            kind, depth = _kind(source.config), source.config.model.depth
            min_depth[kind] = min(depth, min_depth.get(kind, depth))
        return [s for s in sources if s.config.model.depth == min_depth[_kind(s.config)]]
    selected: dict[ModelSource, None] = {}
    for spec in shallow:
        matching = [s for s in sources if spec in (s.variant, str(s.config.model.depth))]
        if not matching:
            variants = list(dict.fromkeys(source.variant for source in sources))
            raise ConfigError(
                f"--shallow={spec} matches none of the runs; there are {', '.join(variants)}"
                f"{did_you_mean(spec, variants)}"
            )
        selected |= dict.fromkeys(matching)
    return list(selected)


def _kind(config: ConfigDict) -> str:
    """Returns a text that is equal for runs that differ only in depth and seed."""
    ignored = ("seed", "model.depth", "warmup.enabled")
    return json.dumps({f: value for f, value in flatten(config).items() if f not in ignored})


def _parse_depth(spec: str, model: ConfigDict) -> int | None:
    """Returns the depth that a flag specifies, or None for a model of another kind.

    Raises:
      ConfigError: the text is neither a depth nor a model name.
    """
    if spec.isdecimal():
        return int(spec)
    try:
        fields = model_fields(spec, model.stem)
        deeper = ConfigDict({**model.to_dict(), "depth": fields["depth"]})
        return deeper.depth if model_fields(model_name(deeper), model.stem) == fields else None
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _with_depth(config: ConfigDict, depth: int) -> ConfigDict:
    """Returns a copy with another depth that trains from random weights."""
    config = config.copy_and_resolve_references()
    config.model.depth, config.init_from = depth, None
    return config


def _with_warmup(config: ConfigDict) -> ConfigDict:
    """Returns the config with warmup enabled if He15 uses it at that depth."""
    model = config.model
    paper = set_model(config.copy_and_resolve_references(), model_name(model), model.stem)
    config.warmup.enabled = config.warmup.enabled or paper.warmup.enabled
    return config


def deepened_configs(
    pair: ModelPair, weights_file: Path, factors: Iterable[float]
) -> dict[str, ConfigDict]:
    """Returns the configs of the runs that train the deepened model, by variant.

    Args:
      pair: the trained model and the deeper model.
      weights_file: file with the variables of the deepened model.
      factors: multiples of the config's learning rate, one for each run.
    """
    runs = {}
    for factor in factors:
        config = pair.config.copy_and_resolve_references()
        learning_rate = float(f"{factor * config.learning_rate:.6g}")
        config.learning_rate, config.init_from = learning_rate, str(relative_to_cwd(weights_file))
        # Warmup lasts until the error falls below a threshold, and it already is below.
        config.warmup.enabled = False
        suffix = "" if factor == 1 else f"-lr{learning_rate:g}"
        runs[f"{pair.deeper}-from-{pair.shallow}{suffix}"] = config
    return runs


def find_finished_run(directories: Iterable[Path], config: ConfigDict) -> Path | None:
    """Returns the directory of a finished run with this config, or None."""
    for directory in directories:
        try:
            if not differing_fields(flatten(read_run_config(directory)), flatten(config)):
                run = read_run(directory)
                if run is not None and run.finished:
                    return directory
        except DamagedFileError as error:
            print_note(f"a run is left out: {error}")
    return None


def shallow_errors(model: DeepenedModel) -> dict[str, float]:
    """Returns the errors that training logged at the model's step, or else evaluated ones.

    The logged errors are comparable with the curves of the other runs.
    """
    run = model.pair.source.read_metrics()
    errors = dict(model.errors["shallow"])
    if run is None:
        return errors
    for metric in METRICS:
        curve: dict[int, float] = dict(zip(*run.curve(metric), strict=True))
        errors[metric] = float(curve.get(model.trained.step, errors[metric]))
    return errors


def sweep_entry(name: str, config: ConfigDict) -> dict[str, object]:
    """Returns an entry for `make_plans` that reproduces a config.

    config.json does not name the file that a config came from. The entry uses the file in configs/
    with the config's name, or else the file with the default values, and overrides each field that
    differs. Either file gives the same config.

    Args:
      name: name of the run, VARIANT/seed-N.
      config: config of the run.
    """
    file = config.name if config.name in shipped_names(CONFIGS) else DEFAULT_CONFIG
    source = f"{CONFIGS}/{file}.py:{model_name(config.model)}"
    base = flatten(read_config(source, {}))
    overrides = {
        field: tuple(value) if isinstance(value, list) else value
        for field, value in flatten(config).items()
        if value != base[field]
    }
    return {"name": name, "config": source, "overrides": overrides}


def relative_to_cwd(path: Path) -> Path:
    """Returns a relative path for a file below the current directory, else an absolute path.

    Relative paths stay valid if the directory is moved.
    """
    path, cwd = path.absolute(), Path.cwd()
    return path.relative_to(cwd) if path.is_relative_to(cwd) else path
