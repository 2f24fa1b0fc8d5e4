"""Training from Python: `train` and its result."""

from __future__ import annotations

import dataclasses
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np
from jaxtyping import Float64, Num
from ml_collections import ConfigDict

from flaxres import cpu
from flaxres.api.arguments import bool_of, config_of, of_type, path_of
from flaxres.api.configs import get_config
from flaxres.api.cpu_settings import report_missing_settings
from flaxres.api.input_images import PathName
from flaxres.config_durations import convert_durations
from flaxres.errors import ArgumentError, InterruptedRunError
from flaxres.field_checks import shown
from flaxres.run.checkpoint_files import checkpoint_steps
from flaxres.run.paths import check_path
from flaxres.run.records import read_columns
from flaxres.run.workdir import default_workdir, read_run_config
from flaxres.suggestions import did_you_mean
from flaxres.training.run_start import RESUME, Resume
from flaxres.training.train import train_and_evaluate

if TYPE_CHECKING:
    from flaxres.api.trained import TrainedModel

# Settings of JAX: for compiled programs, and for random numbers as in JAX's defaults.
REQUIRED_SETTINGS = (
    ("jax_disable_jit", False),
    ("jax_numpy_dtype_promotion", "standard"),
    ("jax_default_prng_impl", "threefry2x32"),
    ("jax_threefry_partitionable", True),
)


@dataclasses.dataclass(frozen=True, eq=False)
class TrainResult:
    """Result of a run, finished or stopped.

    `metrics` has one array for each metric, with one element for each logged step, and "step" has
    the logged steps. A metric is NaN at steps where it was not measured, such as between two
    evaluations; `curve` leaves these steps out:

        plt.plot(result.metrics["step"], result.metrics["train_loss"])
        plt.plot(*result.curve("test_error"))

    Attributes:
      config: config of the run.
      workdir: directory of the run.
      step: step of the newest checkpoint.
      metrics: float64 (records,) by name, errors in percent; "step" is int64. With several
        replicas, means over them; the replicas are runs of their own in `workdir`.
      record: metrics of the last logged step, as floats. For a finished run, they include an
        evaluation.
    """

    config: ConfigDict
    workdir: Path
    step: int
    metrics: dict[str, Num[np.ndarray, " records"]]
    record: dict[str, float]

    @property
    def finished(self) -> bool:
        """True if the run has reached its last step."""
        return self.step == int(self.config.num_steps)

    def curve(self, name: str) -> tuple[Num[np.ndarray, " points"], Float64[np.ndarray, " points"]]:
        """Returns the steps at which a metric has values, and the values.

        Args:
          name: name of the metric, such as 'test_error'.

        Raises:
          ArgumentError: the run has no such metric.
        """
        of_type(name, str, "name", "the name of a metric, such as 'test_error'")
        if name not in self.metrics:
            raise ArgumentError(
                f"the run has no metric {shown(name)}, only {', '.join(self.metrics)}"
                f"{did_you_mean(name, self.metrics)}"
            )
        values = self.metrics[name]
        recorded = ~np.isnan(values)
        return self.metrics["step"][recorded], values[recorded]

    def model(self, batch_stats: str = "running", ema: bool = False) -> TrainedModel:
        """Loads the trained model, as `flaxres.load(result.workdir)` does."""
        from flaxres.api.loading import load

        return load(self.workdir, batch_stats=batch_stats, ema=ema)

    def __repr__(self) -> str:
        parts = [f"workdir='{self.workdir}'", f"step={self.step}"]
        for name in ("train_loss", "train_error", "test_error", "ema_test_error"):
            if name in self.record:
                parts.append(f"{name}={self.record[name]:.4g}")
        return f"TrainResult({', '.join(parts)})"


def train(
    config: ConfigDict | str,
    workdir: PathName | None = None,
    *,
    allow_data_change: bool = False,
    allow_schedule_change: bool = False,
    resume: Resume = "auto",
    progress: bool = True,
    stop: threading.Event | None = None,
) -> TrainResult:
    """Trains a run to its last step, resuming from the newest checkpoint in its workdir.

        result = flaxres.train(flaxres.get_config("digits:resnet-20"), "runs/resnet-20")

    It does what `python -m flaxres.main` does, with the same files and, under the same CPU settings
    (`flaxres.tune`), the same results to the last bit. Ctrl-C, or an interrupt of a notebook, saves
    a checkpoint and raises KeyboardInterrupt; calling it again resumes. Several threads may train
    at the same time, each in its own workdir.

    Args:
      config: config of the run, or the source of one for `get_config`, such as 'digits:resnet-20'.
      workdir: directory of the run (default: runs/CONFIG/MODEL-seedSEED).
      allow_data_change: if True, the run may resume with other data than before.
      allow_schedule_change: if True, the run may resume with a schedule whose learning rates
        differ in steps that are already done.
      resume: 'auto' starts or resumes a run, 'never' refuses a workdir that holds one, 'must'
        refuses a workdir without a checkpoint.
      progress: if True, shows a progress bar on a terminal or in a notebook, lines elsewhere.
      stop: an event that another thread sets to stop the run after a checkpoint; the result is then
        not `finished`.

    Returns:
      The result. If the run is finished already, nothing is trained.

    Raises:
      UserError: the config is invalid, data are missing or have changed, the workdir belongs to
        another run or is in use, the disk is full, or the training diverged.
      InterruptedRunError: SIGTERM or SIGHUP stopped the run after a checkpoint.
      KeyboardInterrupt: SIGINT stopped the run after a checkpoint, if training had begun.
    """
    if isinstance(config, str):
        config = get_config(config)
    config = convert_durations(config_of(config).copy_and_resolve_references())
    directory = default_workdir(config) if workdir is None else path_of(workdir)
    check_path(directory)
    if not isinstance(resume, str) or resume not in RESUME:
        raise ArgumentError(f"resume must be one of {', '.join(RESUME)}, got {shown(resume)}")
    allow_data_change = bool_of(allow_data_change, "allow_data_change")
    allow_schedule_change = bool_of(allow_schedule_change, "allow_schedule_change")
    progress = bool_of(progress, "progress")
    if stop is not None:
        of_type(stop, threading.Event, "stop", "a threading.Event")
    _check_jax_settings()
    report_missing_settings()
    cpu.start_build(config.dtype)
    try:
        train_and_evaluate(
            config,
            directory,
            allow_data_change,
            allow_schedule_change=allow_schedule_change,
            resume=resume,
            quiet=not progress,
            stop_event=stop,
        )
    except InterruptedRunError as error:
        if error.signum == signal.SIGINT:
            raise KeyboardInterrupt(str(error)) from None
        if stop is None or not stop.is_set():
            raise
    return load_run(directory)


def _check_jax_settings() -> None:
    """Checks that JAX can compile the steps and draws the random numbers of the commands.

    Raises:
      ArgumentError: a setting of JAX prevents it.
    """
    for name, needed in REQUIRED_SETTINGS:
        value = getattr(jax.config, name)
        value = getattr(value, "value", value)  # of an enumeration
        if value != needed:
            raise ArgumentError(f"train needs {name} to be {needed!r}, got {shown(value)}")


def load_run(workdir: PathName) -> TrainResult:
    """Reads the result of a run from its files; the command line may have trained it.

    Args:
      workdir: directory of the run.

    Raises:
      WorkdirError: the directory holds no run, or a file of it cannot be read.
    """
    directory = path_of(workdir)
    config = read_run_config(directory)
    columns = read_columns(directory)
    metrics = {"step": columns.steps, **columns.values}
    record: dict[str, float] = {}
    if len(columns):
        record = {name: values[-1].item() for name, values in metrics.items()}
        record = {name: value for name, value in record.items() if not np.isnan(value)}
    steps = checkpoint_steps(directory)
    step = steps[-1] if steps else int(record.get("step", 0))
    return TrainResult(config, directory, step, metrics, record)
