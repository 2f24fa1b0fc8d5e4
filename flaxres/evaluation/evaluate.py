"""Evaluation of runs' newest checkpoints: of one, or of an ensemble, by any protocol."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from flaxres.config import check_config
from flaxres.data import load_dataset, open_sources
from flaxres.errors import CheckpointError, ConfigError
from flaxres.evaluation.evaluator import evaluate_split
from flaxres.evaluation.test_crops import make_crop_protocol
from flaxres.inference.predictor import Predictor
from flaxres.inference.trained_model import (
    TrainedModel,
    check_same_data,
    load_trained_model,
    run_config,
)
from flaxres.parallel.replicas import mean_record
from flaxres.run.metric_writers import Record
from flaxres.run.workdir import check_same_config
from flaxres.training.compiled_steps import CompiledSteps
from flaxres.training.restore import restore_newest

SPLITS = ("train", "validation", "test")


def evaluate_run(
    config: ConfigDict | None,
    workdir: Path,
    log: Callable[[str], None] = print,
    batch_stats: str = "running",
    protocol: str = "split",
    **options,
) -> Record:
    """Evaluates the newest checkpoint of `workdir` on the whole of each split.

    All without augmentation and not by the statistics of batches, so the training error is not the
    one logged during training.

    Args:
      config: of the run; None for the one that it keeps.
      workdir: of the run; nothing in it is changed.
      say: told in one line about each damaged checkpoint.
      batch_stats: what norms go by: the 'running' statistics of the checkpoint, or those of the
        'population' of training images, see `flaxres.inference.population_statistics`.
      protocol: see `flaxres.evaluation.test_crops`.
      options: see `evaluate_models`.

    Returns:
      Of each split its loss, top-1 error, with more than five classes top-5 error, and images.
      Of a run of several replicas the means of loss and top-1 error.

    Raises:
      UserError: a bad config, no data, another config's workdir, or no checkpoint; a net that has
        no such statistics, or is not for the protocol.
    """
    config = run_config(workdir) if config is None else config
    check_config(config)
    if config.num_replicas > 1 and protocol == "split" and batch_stats == "running":
        # They have no sizes to choose; this says so.
        make_crop_protocol(protocol, (1, 1), options.get("short_side"), options.get("scales", ()))
        return _evaluate_replicas(config, workdir, log, options.get("splits", ()))
    net = load_trained_model(workdir, config, log, batch_stats)
    return evaluate_models([net], config, log=log, protocol=protocol, **options)


def evaluate_ensemble(
    config: ConfigDict | None,
    workdir: Path | None,
    others: Sequence[Path],
    log: Callable[[str], None] = print,
    batch_stats: str = "running",
    **options,
) -> Record:
    """Evaluates the mean of the probabilities of several runs' newest checkpoints.

    Args:
      config: says where the data is, how many images a batch has, and on how many devices; and is
        that of the run in `workdir`. None for the one that the first run keeps.
      workdir: of a run, or None.
      others: directories of further runs, with configs of their own.
      say: see `evaluate_run`.
      batch_stats: see there.
      options: see `evaluate_models`.

    Raises:
      UserError: see `evaluate_run`; runs of several data sets.
    """
    if config is not None:
        check_config(config)
    nets = [] if workdir is None else [load_trained_model(workdir, config, log, batch_stats)]
    for directory in others:
        own = run_config(directory)
        if config is not None:
            own.dataset.data_dir = config.dataset.data_dir
        nets.append(load_trained_model(directory, own, log, batch_stats))
    return evaluate_models(nets, config or nets[0].config, log=log, **options)


def evaluate_models(
    nets: Sequence[TrainedModel],
    config: ConfigDict,
    *,
    protocol: str = "split",
    short_side: int | None = None,
    scales: Sequence[int] = (),
    splits: Sequence[str] = (),
    log: Callable[[str], None] = print,
) -> Record:
    """Evaluates nets, the means of whose probabilities are taken, on the whole of each split.

    Args:
      nets: of one data set.
      config: says where the data is, how many images a batch has, and on how many devices.
      protocol: see `flaxres.evaluation.test_crops`.
      short_side: see `flaxres.evaluation.test_crops.make_crop_protocol`, as is `scales`.
      scales: see there.
      splits: of train, validation and test; () for all that there are.
      say: told in one line of the protocol, and of images that cannot be decoded.

    Returns:
      See `evaluate_run`; 'step' of a single net, 'nets' of several.

    Raises:
      UserError: nets of several data sets, no data, or a net that is not for the protocol.
    """
    _check_splits(splits)
    check_same_data(nets, config)
    size = nets[0].inputs.image_shape[:2]
    own = config.dataset.eval_short_side or config.dataset.image_size
    shown = make_crop_protocol(protocol, size, short_side, scales, own)
    for net in nets:
        net.check_shapes(shown.extreme_shapes(), f"protocol {protocol}")
    sources = open_sources(config.dataset)
    if sources.class_names != nets[0].inputs.class_names:
        raise ConfigError(
            f"{nets[0].directory} was trained on other classes than those of {sources.name}"
        )
    if protocol != "split":
        log(str(shown))
    predictor = Predictor(nets, config, mirror=shown.mirror)
    record: Record = {"step": nets[0].step} if len(nets) == 1 else {"nets": len(nets)}
    for name in _present(splits, sources):
        source, title = getattr(sources, name), f"{protocol} {name}"
        skip = config.dataset.broken_images == "skip"
        record |= evaluate_split(predictor, shown, source, title, skip, log).averages(name)
    return record


def _evaluate_replicas(
    config: ConfigDict, workdir: Path, log: Callable[[str], None], splits: Sequence[str]
) -> Record:
    """Means over the replicas of a run, by the programs that trained them."""
    _check_splits(splits)
    if not check_same_config(workdir, config):
        raise CheckpointError(f"workdir {workdir} holds no run; train it first with --mode=train")
    dataset = load_dataset(config.dataset)
    compiled_steps = CompiledSteps(config, dataset)
    state = restore_newest(workdir, config, dataset.image_shape, dataset.num_classes, log)
    state = compiled_steps.devices.replicate(state)
    record: Record = {"step": int(np.max(state.step))}
    for name in _present(splits, dataset):
        split = compiled_steps.put(getattr(dataset, name))
        record |= mean_record(compiled_steps.evaluate(state, split).averages(name))
    return record


def _check_splits(splits: Sequence[str]) -> None:
    for name in splits:
        if name not in SPLITS:
            raise ConfigError(f"splits must be of {', '.join(SPLITS)}, got {name!r}")


def _present(splits: Sequence[str], data: object) -> list[str]:
    """The splits asked for, of those that the data set has."""
    present = [name for name in SPLITS if getattr(data, name) is not None]
    if missing := [name for name in splits if name not in present]:
        raise ConfigError(f"dataset.{missing[0]}_split is None, so it cannot be evaluated")
    return [name for name in present if not splits or name in splits]
