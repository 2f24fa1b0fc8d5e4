"""Modes of `flaxres.main` that read a trained model: eval, predict and export.

The model is that of a run (--workdir) or of a file or name of weights (--weights). The functions
read the flags of `flaxres.main` and return the lines to print.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from flaxres import cli
from flaxres.config_durations import convert_durations
from flaxres.errors import ConfigError, counted
from flaxres.evaluation.evaluate import evaluate_ensemble, evaluate_models, evaluate_run
from flaxres.files import expand_home
from flaxres.inference.export import SUFFIXES, export_format, write_export
from flaxres.inference.predict import print_predictions
from flaxres.inference.pretrained import load_pretrained
from flaxres.inference.trained_model import TrainedModel, load_run_config, load_trained_model
from flaxres.parallel.multihost import print_to_stderr
from flaxres.pretrained.torch_export import describe_differences
from flaxres.run.paths import check_path
from flaxres.run.workdir import default_workdir
from flaxres.suggestions import did_you_mean

FLAGS = flags.FLAGS


def check_source_flags(config: ConfigDict | None) -> None:
    """Checks that the flags name one trained model, or the models of an ensemble.

    Args:
      config: the config of --config, which has a default workdir; None without --config.

    Raises:
      ConfigError: they name none, or several.
    """
    if FLAGS.weights is not None:
        for name in ("workdir", "ensemble"):
            if getattr(FLAGS, name):
                raise ConfigError(f"--weights and --{name} exclude each other; give one of them")
    elif config is None and not (FLAGS.workdir or FLAGS.ensemble):
        raise ConfigError(
            f"--workdir is missing; give --mode={FLAGS.mode} the directory of a run, or --weights"
        )


def evaluate(config: ConfigDict | None) -> list[str]:
    """Evaluates a model or an ensemble on the splits of its data set."""
    options: dict[str, Any] = {
        "log": print_to_stderr,
        "test_crops": FLAGS.test_crops,
        "short_side": FLAGS.short_side,
        "scales": _scales(),
        "splits": FLAGS.splits,
        "by_class": FLAGS.by_class,
    }
    checkpoint_options: dict[str, Any] = {"batch_stats": FLAGS.batch_stats, "ema": FLAGS.ema}
    if FLAGS.weights is not None:
        trained = _load(config)
        record = evaluate_models([trained], trained.config, **options)
    elif FLAGS.ensemble:
        workdir = expand_home(FLAGS.workdir, "--workdir") if FLAGS.workdir else None
        others = [expand_home(name, "--ensemble") for name in FLAGS.ensemble]
        workdirs = [*([workdir] if workdir else []), *others]
        _check_different(workdirs)
        config = config or _overridden_config(workdirs[0])
        record = evaluate_ensemble(config, workdir, others, **checkpoint_options, **options)
    else:
        workdir = _workdir(config)
        config = config or _overridden_config(workdir)
        record = evaluate_run(config, workdir, **checkpoint_options, **options)
    return [f"{name}: {_shown(name, value)}" for name, value in record.items()]


def _shown(name: str, value: float) -> str:
    """Returns six digits of a value, and at least two decimals of an error in percent."""
    digits = f"{value:.6g}"
    return max(digits, f"{value:.2f}", key=len) if "_error" in name else digits


def predict(config: ConfigDict | None) -> list[str]:
    """Prints predictions as they are computed; returns no further lines to print."""
    print_predictions(_load(config), FLAGS.images, FLAGS.top, FLAGS.json)
    return []


def export(config: ConfigDict | None) -> list[str]:
    """Writes a model to a file of another format."""
    if FLAGS.output is None:
        raise ConfigError("--output is missing; give a file, e.g. --output=model.stablehlo")
    output = expand_home(FLAGS.output, "--output")
    chosen = export_format(output, FLAGS.format)
    if FLAGS.format is None and output.suffix and output.suffix.lower() not in SUFFIXES:
        print_to_stderr(
            f"note: {output.suffix} is no suffix of a format, so the format is {chosen}; --format "
            f"or one of {', '.join(SUFFIXES)} selects another"
            f"{did_you_mean(output.suffix, SUFFIXES)}"
        )
    trained = _load(config)
    metadata = write_export(trained, output, chosen)
    notes = describe_differences(trained.config.model) if chosen == "torch" else []
    for note in notes:
        print_to_stderr(f"note: {note}")
    described = f", with metadata in {metadata}" if metadata else ""
    steps = counted(trained.step, "step")
    return [f"exported {trained.name} after {steps} to {output}{described}"]


def _load(config: ConfigDict | None) -> TrainedModel:
    """Loads the model that --weights or --workdir names."""
    if FLAGS.weights is not None:
        overrides = cli.get_overrides() if config is None else None
        return load_pretrained(
            FLAGS.weights, config, print_to_stderr, FLAGS.batch_stats, overrides, FLAGS.ema
        )
    workdir = _workdir(config)
    config = config or _overridden_config(workdir)
    return load_trained_model(workdir, config, print_to_stderr, FLAGS.batch_stats, ema=FLAGS.ema)


def _workdir(config: ConfigDict | None) -> Path:
    given = FLAGS.workdir
    workdir = expand_home(given, "--workdir") if given else default_workdir(config)
    check_path(workdir)
    return workdir


def _overridden_config(workdir: Path) -> ConfigDict | None:
    """Returns the config of a run with --config.FIELD=VALUE; None if there is no such flag."""
    if not cli.get_overrides():
        return None
    return convert_durations(cli.override(load_run_config(workdir)))


def _check_different(workdirs: Sequence[Path]) -> None:
    """Checks that no run is twice in an ensemble.

    Raises:
      ConfigError: two paths lead to the same directory.
    """
    paths = [os.path.realpath(workdir) for workdir in workdirs]
    for workdir, path in zip(workdirs, paths, strict=True):
        if paths.count(path) > 1:
            raise ConfigError(
                f"--ensemble, together with --workdir, has the run {workdir} twice; give each run "
                "once"
            )


def _scales() -> list[int]:
    try:
        return [int(scale) for scale in FLAGS.scales]
    except ValueError:
        raise ConfigError(
            f"--scales must be numbers of pixels, e.g. 224,256, got {','.join(FLAGS.scales)}"
        ) from None
