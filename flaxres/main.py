"""Command line: train, evaluate or summarise one net, predict with it, or export it.

python -m flaxres.main --config=configs/digits.py:resnet-56 --workdir=runs/resnet-56
python -m flaxres.main --mode=eval --workdir=runs/resnet-56 --test_crops=10-crop
python -m flaxres.main --mode=eval --ensemble=runs/resnet-44,runs/resnet-56
python -m flaxres.main --mode=predict --workdir=runs/resnet-56 --images='*.jpg'
python -m flaxres.main --mode=export --workdir=runs/resnet-56 --output=net.stablehlo
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from flaxres import cli
from flaxres.errors import ConfigError

MODES = ("train", "eval", "predict", "export", "summary")
MODE = flags.DEFINE_enum("mode", "train", MODES, "What to do.")
WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Where the run lives; runs/<config name>/<net>-seed<seed> if not given. eval, predict and "
    "export take the run's own config where there is no --config.",
)
INIT_FROM = flags.DEFINE_string(
    "init_from",
    None,
    "Weights to begin with: a PyTorch state dict (resnet50.pth), variables (NAME.msgpack) or a "
    "run's directory; config.init_from.",
)
MODELS = flags.DEFINE_list("models", [], "With --mode=summary: models to compare, a line for each.")
BATCH_STATS = flags.DEFINE_enum(
    "batch_stats",
    "running",
    ["running", "population"],
    "With --mode=eval, predict or export: batch norm's statistics, those kept in training or those "
    "of all training images, computed anew.",
)
TEST_CROPS = flags.DEFINE_enum(
    "test_crops",
    "split",
    ["split", "center", "10-crop", "multi-scale"],
    "With --mode=eval: what is shown of each image; see flaxres/evaluation/test_crops.py.",
)
SHORT_SIDE = flags.DEFINE_integer(
    "short_side", None, "Of center and 10-crop, in pixels; 256/224 of the net's size if not given."
)
SCALES = flags.DEFINE_list(
    "scales", [], "Short sides of multi-scale; {224,256,384,480,640}/224 of the net's size."
)
SPLITS = flags.DEFINE_list("splits", [], "With --mode=eval: train, validation, test; else all.")
ENSEMBLE = flags.DEFINE_list(
    "ensemble",
    [],
    "With --mode=eval: directories of runs, whose probabilities are averaged, with those of "
    "--workdir if that is given.",
)
IMAGES = flags.DEFINE_list("images", [], "With --mode=predict: files, or patterns like 'a/*.jpg'.")
TOP = flags.DEFINE_integer("top", 5, "With --mode=predict: classes to show of each image.")
JSON = flags.DEFINE_bool("json", False, "With --mode=predict: JSON lines in the place of a table.")
OUTPUT = flags.DEFINE_string("output", None, "With --mode=export: the file to write.")
COORDINATOR = flags.DEFINE_string(
    "coordinator_address",
    None,
    "HOST:PORT of process 0, for a run of several processes; auto where JAX can find it itself.",
)
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Processes of the run.")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "Number of this one, from 0.")
cli.define_config("configs/cifar10.py:resnet-56")

# The modes that flags are for, of those that are not for all.
MODES_OF = (
    ((BATCH_STATS,), ("eval", "predict", "export")),
    ((TEST_CROPS, SHORT_SIDE, SCALES, SPLITS, ENSEMBLE), ("eval",)),
    ((IMAGES, TOP, JSON), ("predict",)),
    ((OUTPUT,), ("export",)),
    ((MODELS,), ("summary",)),
)


def main() -> None:
    """Runs the mode that the flags ask for."""
    mode = MODE.value
    _check_flags(mode)
    trained = mode in ("eval", "predict", "export")
    config = None if trained and flags.FLAGS.config is None else cli.get_config()
    if config is None and not (WORKDIR.value or ENSEMBLE.value):
        raise ConfigError(f"--workdir is missing; give --mode={mode} the directory of a run")
    if config is not None and INIT_FROM.value is not None:
        config.init_from = INIT_FROM.value
    if mode == "summary":
        from flaxres import summary

        if MODELS.value:
            summary.print_comparison([cli.with_model(config, net) for net in MODELS.value])
        else:
            summary.print_summary(config)
        return

    from flaxres.parallel import multihost

    multihost.initialize(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
    lines = _use(mode, config) if trained else _train(config, _workdir(config))
    if multihost.is_main_process():
        print("\n".join(lines), end="\n" if lines else "")


def _check_flags(mode: str) -> None:
    """Raises ConfigError for a flag that the mode does not read."""
    for group, modes in MODES_OF:
        for flag in group:
            if flag.value != flag.default and mode not in modes:
                *others, last = modes
                listed = f"{', '.join(others)} or {last}" if others else last
                given = ",".join(flag.value) if isinstance(flag.value, list) else flag.value
                raise ConfigError(
                    f"--{flag.name}={given} is for --mode={listed}, got --mode={mode}"
                )


def _workdir(config: ConfigDict | None) -> Path:
    from flaxres.run.workdir import default_workdir

    return Path(WORKDIR.value).expanduser() if WORKDIR.value else default_workdir(config)


def _train(config: ConfigDict, workdir: Path) -> list[str]:
    from flaxres.training.train import train_and_evaluate

    record = train_and_evaluate(config, workdir)
    return [
        f"{workdir}: training error {record['train_error']:.2f}%, "
        f"test error {record['test_error']:.2f}% after {record['step']:,} steps"
    ]


def _use(mode: str, config: ConfigDict | None) -> list[str]:
    """Evaluates, predicts or exports; returns what to print at the end."""
    from flaxres.inference.trained_model import load_trained_model

    load = functools.partial(load_trained_model, log=_log, batch_stats=BATCH_STATS.value)
    if mode == "eval":
        return _evaluate(config)
    if mode == "predict":
        from flaxres.inference.predict import predict

        predict(load(_workdir(config), config), IMAGES.value, TOP.value, JSON.value)
        return []
    from flaxres.inference.export import write_export

    if OUTPUT.value is None:
        raise ConfigError("--output is missing; give a file, e.g. --output=net.stablehlo")
    net, output = load(_workdir(config), config), Path(OUTPUT.value).expanduser()
    return [f"{output}: {net.name} after {net.step:,} steps; {write_export(net, output)}"]


def _evaluate(config: ConfigDict | None) -> list[str]:
    from flaxres.evaluation.evaluate import evaluate_ensemble, evaluate_run

    options = {
        "protocol": TEST_CROPS.value,
        "short_side": SHORT_SIDE.value,
        "scales": _scales(),
        "splits": SPLITS.value,
        "say": _log,
        "batch_stats": BATCH_STATS.value,
    }
    if ENSEMBLE.value:
        others = [Path(name).expanduser() for name in ENSEMBLE.value]
        own = Path(WORKDIR.value).expanduser() if WORKDIR.value else None
        record = evaluate_ensemble(config, own, others, **options)
    else:
        record = evaluate_run(config, _workdir(config), **options)
    return [f"{name}: {value:.6g}" for name, value in record.items()]


def _scales() -> list[int]:
    try:
        return [int(scale) for scale in SCALES.value]
    except ValueError:
        raise ConfigError(
            f"--scales must be numbers of pixels, e.g. 224,256, got {','.join(SCALES.value)}"
        ) from None


def _log(message: str) -> None:
    from flaxres.parallel.multihost import is_main_process

    if is_main_process():
        print(message, file=sys.stderr)


if __name__ == "__main__":
    cli.run(main)
