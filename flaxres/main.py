"""Command line for one model: train, evaluate, predict, export or summarize.

flaxres train --config=digits:resnet-56 --workdir=runs/resnet-56
flaxres eval --workdir=runs/resnet-56 --test_crops=10-crop
flaxres eval --ensemble=runs/resnet-44,runs/resnet-56
flaxres predict --workdir=runs/resnet-56 --images='*.jpg'
flaxres predict --weights=resnet-20-cifar10_jpeg --images='*.jpg'
flaxres export --workdir=runs/resnet-56 --output=model.stablehlo
flaxres export --workdir=runs/resnet-56 --output=model.pth
flaxres summary --config=digits:resnet-56

`python -m flaxres.main` is the same as `flaxres`, and `--mode=eval` as the word `eval`.
"""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from flaxres import cli, cpu, errors, subcommands, train_flags
from flaxres.errors import ConfigError
from flaxres.files import expand_home
from flaxres.train_flags import QUIET, TRAIN_FLAGS, train_options

MODES = tuple(subcommands.MODES)
MODE = flags.DEFINE_enum(
    "mode",
    "train",
    MODES,
    "Task: train a model (and evaluate it while it trains), evaluate a trained one, predict the "
    "classes of image files, export the model, or print a summary of its layers.",
)
WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Run directory (default: runs/CONFIG/MODEL-seedSEED). With --mode=eval, predict or export and "
    "no --config, the config stored there is used.",
)
WEIGHTS = flags.DEFINE_string(
    "weights",
    None,
    "With --mode=eval, predict or export, instead of --workdir: a weights file (NAME.safetensors), "
    "a name of pretrained weights (resnet-20-cifar10_jpeg), or, with --config, a PyTorch state "
    "dict or a file of Flax variables (NAME.msgpack).",
)
INIT_FROM = flags.DEFINE_string(
    "init_from",
    None,
    "Pretrained weights to start from: a weights file (NAME.safetensors), a name of "
    "pretrained weights (resnet-20-cifar10_jpeg), a PyTorch state dict (resnet50.pth), a file of "
    "Flax variables (NAME.msgpack) or a run directory. Sets config.init_from (default: random "
    "weights).",
)
MODELS = flags.DEFINE_list(
    "models",
    [],
    "With --mode=summary: models to compare, one line each, e.g. plain-20,resnet-20 (default: "
    "the layers of the model of --config).",
)
BATCH_STATS = flags.DEFINE_enum(
    "batch_stats",
    "running",
    ["running", "population"],
    "With --mode=eval, predict or export: batch-norm statistics, 'running' from training or "
    "'population', recomputed over the training set.",
)
EMA = flags.DEFINE_bool(
    "ema",
    False,
    "With --mode=eval, predict or export: use the moving average of the run's weights "
    "(config.ema_decay) instead of the weights of the last step.",
)
TEST_CROPS = flags.DEFINE_enum(
    "test_crops",
    "split",
    ["split", "center", "10-crop", "multi-scale"],
    "With --mode=eval: test-time crops: 'split' (as the data set provides images), 'center', "
    "'10-crop' or 'multi-scale'.",
)
SHORT_SIDE = flags.DEFINE_integer(
    "short_side",
    None,
    "With --test_crops=center or 10-crop: length in pixels to which the shorter side is resized "
    "before the crop, e.g. 256 (default: 256/224 of the model's input size).",
)
SCALES = flags.DEFINE_list(
    "scales",
    [],
    "With --test_crops=multi-scale: lengths in pixels to which the shorter side is resized, e.g. "
    "224,256,384 (default: 1, 8/7, 12/7, 15/7 and 20/7 of the model's input size).",
)
SPLITS = flags.DEFINE_list(
    "splits",
    [],
    "With --mode=eval: splits to evaluate, any of train,validation,test (default: all that the "
    "data set has).",
)
BY_CLASS = flags.DEFINE_bool(
    "by_class", False, "With --mode=eval: also print the top-1 error of each class."
)
ENSEMBLE = flags.DEFINE_list(
    "ensemble",
    [],
    "With --mode=eval: run directories whose class probabilities are averaged, together with "
    "those of --workdir if it is given, e.g. runs/resnet-44,runs/resnet-56.",
)
IMAGES = flags.DEFINE_list(
    "images", [], "With --mode=predict: image files, or patterns such as 'photos/*.jpg'."
)
TOP = flags.DEFINE_integer(
    "top", 5, "With --mode=predict: number of most probable classes to print for each image."
)
JSON = flags.DEFINE_bool("json", False, "With --mode=predict: print JSON lines instead of a table.")
OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "With --mode=export: file to write, e.g. model.stablehlo, model.safetensors or model.pth.",
)
FORMAT = flags.DEFINE_enum(
    "format",
    None,
    ["stablehlo", "safetensors", "torch", "onnx"],
    "With --mode=export: 'stablehlo' (a program that needs only JAX), 'safetensors' (a weights "
    "file of flaxres), 'torch' (a PyTorch state dict with torchvision's names) or 'onnx' (default: "
    "by the suffix of --output, .pth for torch, otherwise stablehlo).",
)
COORDINATOR = flags.DEFINE_string(
    "coordinator_address",
    None,
    "HOST:PORT of process 0 in a run of several processes, e.g. 10.0.0.1:1234, or 'auto' where JAX "
    "can find it itself (default: from the environment, otherwise one process).",
)
NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "Number of processes of the run, with --coordinator_address=HOST:PORT."
)
PROCESS_ID = flags.DEFINE_integer(
    "process_id", None, "Index of this process, from 0, with --coordinator_address=HOST:PORT."
)
flags.adopt_module_key_flags(train_flags)
cli.define_config("configs/cifar10.py:resnet-56")

# Flags that only some modes read, with these modes.
FLAG_MODES: tuple[tuple[tuple[flags.FlagHolder[Any], ...], tuple[str, ...]], ...] = (
    ((BATCH_STATS, EMA, WEIGHTS), ("eval", "predict", "export")),
    ((TEST_CROPS, SHORT_SIDE, SCALES, SPLITS, BY_CLASS, ENSEMBLE), ("eval",)),
    ((IMAGES, TOP, JSON), ("predict",)),
    ((OUTPUT, FORMAT), ("export",)),
    ((MODELS,), ("summary",)),
    (TRAIN_FLAGS, ("train",)),
)


def main() -> None:
    """Runs the mode that the flags select."""
    mode = MODE.value
    _check_flags(mode)
    errors.silence_notes(QUIET.value)
    if mode == "train":
        # Imports make half a million objects that stay. To search them for garbage again and again
        # takes a tenth of the start. `_train` ends this.
        gc.disable()
    config = _given_config(mode)
    if config is not None and INIT_FROM.value is not None:
        config.init_from = INIT_FROM.value
    if config is not None and WEIGHTS.value is not None:
        config.init_from = WEIGHTS.value  # fields of config.transfer describe a state dict
    if config is not None:
        from flaxres.config import check_config
        from flaxres.config_durations import convert_durations, describe_durations

        if mode == "summary":  # needs no data
            check_config(config)
        else:
            given, config = config, convert_durations(config)
            if mode == "train" and (note := describe_durations(given, config)):
                errors.print_note(note)
        cpu.start_build(config.dtype)
        if config.init_from is not None:
            expand_home(config.init_from, "--init_from")
    if mode == "summary":
        from flaxres import summary
        from flaxres.pretrained.stride_on import resolve_stride

        if MODELS.value:
            configs = [cli.with_model(config, name) for name in MODELS.value]
            summary.print_comparison([resolve_stride(config) for config in configs])
        else:
            summary.print_summary(resolve_stride(config))
        return

    from flaxres.parallel import multihost
    from flaxres.training.dispatches import choose_execution

    if mode == "train":
        choose_execution(config)
    multihost.initialize(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
    if not QUIET.value:
        cpu.report_missing_settings(multihost.print_to_stderr)
    if mode == "train":
        lines = _train(config, _workdir(config))
    else:
        from flaxres import trained_modes

        trained_modes.check_source_flags(config)
        modes = {"eval": trained_modes.evaluate, "predict": trained_modes.predict}
        lines = modes.get(mode, trained_modes.export)(config)
    if multihost.is_main_process():
        errors.print_lines(lines)


def _check_flags(mode: str) -> None:
    """Checks that no flag is given that the mode does not read.

    Raises:
      ConfigError: such a flag is given.
    """
    for group, modes in FLAG_MODES:
        for flag in group:
            if flag.value != flag.default and mode not in modes:
                *others, last = modes
                listed = f"{', '.join(others)} or {last}" if others else last
                given = ",".join(flag.value) if isinstance(flag.value, list) else flag.value
                raise ConfigError(
                    f"--{flag.name}={given} applies to --mode={listed}, got --mode={mode}"
                )


def _given_config(mode: str) -> ConfigDict | None:
    """Returns the config of the command line; None if a mode reads that of a trained model.

    Training without --config continues the run in --workdir, with its own config.

    Raises:
      ConfigError: --config is missing.
    """
    if not cli.has_config():
        if mode in ("eval", "predict", "export"):
            return None
        if mode == "train" and WORKDIR.value is not None:
            from flaxres.run.workdir import CONFIG_FILE, read_run_config

            workdir = expand_home(WORKDIR.value, "--workdir")
            if (workdir / CONFIG_FILE).exists():
                return cli.override(read_run_config(workdir))
    return cli.get_config()


def _workdir(config: ConfigDict | None) -> Path:
    from flaxres.run.paths import check_path
    from flaxres.run.workdir import default_workdir

    given = WORKDIR.value
    workdir = expand_home(given, "--workdir") if given else default_workdir(config)
    check_path(workdir)
    return workdir


def _train(config: ConfigDict, workdir: Path) -> list[str]:
    """Trains a model and returns the lines to print."""
    from flaxres.training.train import train_and_evaluate

    gc.freeze()
    gc.enable()
    record = train_and_evaluate(config, workdir, **train_options())
    metrics = {"training": "train_error", "test": "test_error", "EMA test": "ema_test_error"}
    shown = [f"{name} error {record[key]:.2f}%" for name, key in metrics.items() if key in record]
    return [f"{workdir}: {', '.join(shown)} after {errors.counted(int(record['step']), 'step')}"]


if __name__ == "__main__":
    subcommands.execute_other_command()
    cli.run(main, lists_commands=True)
