"""Evaluation of the newest checkpoints of runs: one model or an ensemble, with test-time crops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from flaxres.config import check_config
from flaxres.data import Dataset, load_dataset, open_sources
from flaxres.data.source import Sources
from flaxres.errors import ConfigError
from flaxres.evaluation.evaluator import evaluate_split
from flaxres.evaluation.test_crops import make_crop_protocol
from flaxres.inference.predictor import Predictor
from flaxres.inference.trained_model import (
    TrainedModel,
    check_has_average,
    check_same_data,
    load_run_config,
    load_trained_model,
    no_run_error,
)
from flaxres.memory_estimate import check_crop_memory
from flaxres.parallel.replicas import mean_record
from flaxres.pretrained.stride_on import resolve_stride
from flaxres.run.data_record import report_changed_data
from flaxres.run.input_spec import read_input_spec
from flaxres.run.records import Record
from flaxres.run.workdir import check_same_config
from flaxres.suggestions import did_you_mean
from flaxres.training.compiled_steps import CompiledSteps
from flaxres.training.restore import restore_newest
from flaxres.training.weight_average import EMA_PREFIX, evaluated_states

SPLITS = ("train", "validation", "test")


def evaluate_run(
    config: ConfigDict | None,
    workdir: Path,
    log: Callable[[str], None] = print,
    batch_stats: str = "running",
    *,
    ema: bool = False,
    test_crops: str = "split",
    short_side: int | None = None,
    scales: Sequence[int] = (),
    splits: Sequence[str] = (),
    by_class: bool = False,
) -> Record:
    """Evaluates the newest checkpoint of a run on all images of each split.

    Images are not augmented and batch norm uses stored statistics, so the training error differs
    from the one that training logs.

    Args:
      config: config of the run, or None for the config stored in `workdir`.
      workdir: directory of the run; nothing in it is changed.
      log: receives one line for each damaged checkpoint, and those of `evaluate_models`.
      batch_stats: statistics that norms use: 'running' from the checkpoint, or 'population',
        recomputed over the training set (`flaxres.inference.population_statistics`).
      ema: if True, evaluates the moving average of the weights (`config.ema_decay`).
      test_crops: name of the crop protocol (`flaxres.evaluation.test_crops`).
      short_side: short side for center and 10-crop, in pixels (None: the protocol's default).
      scales: short sides for multi-scale, in pixels (empty: the protocol's defaults).
      splits: any of train, validation and test; empty for all that the data set has.
      by_class: if True, also returns the top-1 error of each class.

    Returns:
      For each split its loss, top-1 error, top-5 error (with more than five classes), number of
      images and, with `by_class`, SPLIT_error_CLASS. For a run with several replicas, means of loss
      and top-1 error over replicas. With `ema` the names begin with 'ema_', as in metrics.jsonl.

    Raises:
      UserError: the config is invalid or not that of `workdir`; there is no checkpoint or no data;
        the model has no population statistics or does not accept the crops; the run has no average,
        or several replicas and another `batch_stats`, `test_crops` or `by_class` than the default.
    """
    config = load_run_config(workdir) if config is None else config
    check_config(config)
    if config.num_replicas > 1:
        _check_replica_options(config, test_crops, batch_stats, by_class)
        # Rejects sizes, which the crop protocol 'split' does not have.
        make_crop_protocol(test_crops, (1, 1), short_side, scales)
        return _evaluate_replicas(config, workdir, log, splits, ema)
    trained_model = load_trained_model(workdir, config, log, batch_stats, ema=ema)
    record = evaluate_models(
        [trained_model],
        config,
        test_crops=test_crops,
        short_side=short_side,
        scales=scales,
        splits=splits,
        by_class=by_class,
        log=log,
    )
    return _with_prefix(record) if ema else record


def evaluate_ensemble(
    config: ConfigDict | None,
    workdir: Path | None,
    other_workdirs: Sequence[Path],
    log: Callable[[str], None] = print,
    batch_stats: str = "running",
    *,
    ema: bool = False,
    test_crops: str = "split",
    short_side: int | None = None,
    scales: Sequence[int] = (),
    splits: Sequence[str] = (),
    by_class: bool = False,
) -> Record:
    """Evaluates the averaged class probabilities of several runs' newest checkpoints.

    Args:
      config: config of the run in `workdir`; its data directory, evaluation batch size and number
        of devices apply to all runs. None for the config stored in the first run.
      workdir: directory of a run, or None.
      other_workdirs: directories of further runs, which use the configs stored there.
      log: receives one line for each damaged checkpoint, and those of `evaluate_models`.
      batch_stats: statistics that norms use: 'running' or 'population'.
      ema: if True, evaluates the moving average of each run's weights (`config.ema_decay`).
      test_crops: name of the crop protocol (`flaxres.evaluation.test_crops`).
      short_side: short side for center and 10-crop, in pixels (None: the protocol's default).
      scales: short sides for multi-scale, in pixels (empty: the protocol's defaults).
      splits: any of train, validation and test; empty for all that the data set has.
      by_class: if True, also returns the top-1 error of each class.

    Returns:
      The record that `evaluate_models` returns. With `ema` the names begin with 'ema_'.

    Raises:
      UserError: a run cannot be evaluated, or the runs have different data sets.
    """
    if config is not None:
        check_config(config)
    trained_models = []
    if workdir is not None:
        trained_models.append(load_trained_model(workdir, config, log, batch_stats, ema=ema))
    for directory in other_workdirs:
        run_config = load_run_config(directory)
        if config is not None:
            run_config.dataset.data_dir = config.dataset.data_dir
        trained_models.append(load_trained_model(directory, run_config, log, batch_stats, ema=ema))
    record = evaluate_models(
        trained_models,
        config or trained_models[0].config,
        test_crops=test_crops,
        short_side=short_side,
        scales=scales,
        splits=splits,
        by_class=by_class,
        log=log,
    )
    return _with_prefix(record) if ema else record


def _with_prefix(record: Record) -> Record:
    """Returns a record whose metrics have the names of those of average weights."""
    return {
        name if name in ("step", "models") else EMA_PREFIX + name: value
        for name, value in record.items()
    }


def evaluate_models(
    trained_models: Sequence[TrainedModel],
    config: ConfigDict,
    *,
    test_crops: str = "split",
    short_side: int | None = None,
    scales: Sequence[int] = (),
    splits: Sequence[str] = (),
    by_class: bool = False,
    log: Callable[[str], None] = print,
) -> Record:
    """Evaluates the averaged class probabilities of models on all images of each split.

    Args:
      trained_models: one or more models that were trained on the same data set.
      config: config with the data set, the evaluation batch size and the number of devices.
      test_crops: name of the crop protocol (`flaxres.evaluation.test_crops`).
      short_side: short side for center and 10-crop, in pixels (None: the protocol's default).
      scales: short sides for multi-scale, in pixels (empty: the protocol's defaults).
      splits: any of train, validation and test; empty for all that the data set has.
      by_class: if True, also returns the top-1 error of each class.
      log: receives one line about the crops, one about data that have changed since the training,
        and one about images that cannot be decoded.

    Returns:
      'step' of a single model or 'models', the number of several models. For each split its loss,
      top-1 error, top-5 error (with more than five classes), number of images and, with `by_class`,
      SPLIT_error_CLASS for each class that has images.

    Raises:
      UserError: the models have different data sets or do not accept the crops, or there is no
        data.
    """
    _check_splits(splits)
    check_same_data(trained_models, config)
    first = trained_models[0]
    size = first.input_spec.image_shape[:2]
    split_short_side = config.dataset.eval_short_side or config.dataset.image_size
    protocol = make_crop_protocol(test_crops, size, short_side, scales, split_short_side)
    sizes, requested_by = protocol.extreme_sizes(), f"--test_crops={test_crops}"
    for trained_model in trained_models:
        largest = max(min(size) for size in sizes)
        check_crop_memory(trained_model.config, largest, requested_by)
        trained_model.check_input_sizes(sizes, requested_by)
    sources = open_sources(config.dataset)
    for trained in trained_models:
        if trained.batch_stats == "running":  # otherwise it has been reported already
            class_names = trained.input_spec.class_names
            report_changed_data(trained.source, class_names, sources, log)
    if test_crops != "split":
        log(str(protocol))
    predictor = Predictor(trained_models, config, mirror=protocol.mirror)
    is_single = len(trained_models) == 1
    record: Record = {"step": first.step} if is_single else {"models": len(trained_models)}
    skip_broken = config.dataset.broken_images == "skip"
    for name in _available_splits(splits, sources):
        source, title = getattr(sources, name), f"{test_crops} {name}"
        totals = evaluate_split(predictor, protocol, source, title, skip_broken, log)
        record |= totals.averages(name)
        if by_class:
            record |= totals.errors_by_class(name, first.input_spec.class_names)
    return record


def _check_replica_options(
    config: ConfigDict, test_crops: str, batch_stats: str, by_class: bool
) -> None:
    """Checks that the programs that trained several replicas can evaluate them with these options.

    Raises:
      ConfigError: an option needs a run of one model.
    """
    unsupported = {
        f"--test_crops={test_crops}": test_crops != "split",
        f"--batch_stats={batch_stats}": batch_stats != "running",
        "--by_class": by_class,
    }
    if given := [option for option, is_given in unsupported.items() if is_given]:
        raise ConfigError(
            f"{' and '.join(given)} {'needs' if len(given) == 1 else 'need'} a run of one model, "
            f"got a run of {config.num_replicas} models in one program (num_replicas="
            f"{config.num_replicas}); evaluate it without, or train each seed as a run of its own"
        )


def _evaluate_replicas(
    config: ConfigDict,
    workdir: Path,
    log: Callable[[str], None],
    splits: Sequence[str],
    ema: bool,
) -> Record:
    """Returns means over the replicas of a run, evaluated by the programs that trained them."""
    _check_splits(splits)
    if not check_same_config(workdir, config, is_training=False):
        raise no_run_error(workdir)
    check_has_average(workdir, config, ema)
    config = resolve_stride(config, workdir)
    sources = open_sources(config.dataset)
    class_names = read_input_spec(workdir, config).class_names
    report_changed_data(workdir, class_names, sources, log)
    dataset = load_dataset(config.dataset, sources)
    compiled_steps = CompiledSteps(config, dataset)
    state = restore_newest(workdir, config, dataset.image_shape, dataset.num_classes, log)
    prefix = EMA_PREFIX if ema else ""
    state = compiled_steps.devices.replicate(evaluated_states(state)[prefix])
    record: Record = {"step": int(np.max(state.step))}
    for name in _available_splits(splits, dataset):
        split = compiled_steps.put(getattr(dataset, name))
        record |= mean_record(compiled_steps.evaluate(state, split).averages(prefix + name))
    return record


def _check_splits(splits: Sequence[str]) -> None:
    for name in splits:
        if name not in SPLITS:
            raise ConfigError(
                f"--splits must be any of {', '.join(SPLITS)}, got {name!r}"
                f"{did_you_mean(name, SPLITS)}"
            )


def _available_splits(splits: Sequence[str], data: Sources | Dataset) -> list[str]:
    """Returns the requested splits in the order of `SPLITS`; all that exist if none is requested.

    Raises:
      ConfigError: the data set has no such split.
    """
    available = [name for name in SPLITS if getattr(data, name) is not None]
    if missing := [name for name in splits if name not in available]:
        raise ConfigError(f"dataset.{missing[0]}_split is None, so it cannot be evaluated")
    return [name for name in available if not splits or name in splits]
