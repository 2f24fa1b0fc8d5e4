"""Training of one run, from its first step or its newest checkpoint: `train_and_evaluate`."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from flaxres.config import model_name
from flaxres.config_durations import convert_durations
from flaxres.data import Sources, StreamedDataset, open_dataset, open_sources
from flaxres.errors import DataChangedError, InterruptedRunError, counted, print_note, printable
from flaxres.memory_estimate import check_dispatch_memory, check_memory
from flaxres.parallel import replicas
from flaxres.parallel.multihost import (
    check_same_on_all_processes,
    explain_lost_processes,
    is_main_process,
    raise_on_all_processes,
)
from flaxres.pretrained.stride_on import resolve_stride
from flaxres.run.checkpoint import Checkpoints
from flaxres.run.checkpoint_files import checkpoint_steps
from flaxres.run.data_record import RunData, check_data, check_image_shape
from flaxres.run.failed_start import replace_failed_start
from flaxres.run.info_file import read_info, write_info
from flaxres.run.input_spec import INPUT_SPEC_FILE, read_input_spec
from flaxres.run.lock import LockedDirectory
from flaxres.run.metric_writers import MetricWriters
from flaxres.run.notebook_writer import make_progress_writer
from flaxres.run.preemption import StopRequest
from flaxres.run.records import Record, last_record
from flaxres.run.terminal_writer import LOG_SECONDS
from flaxres.run.trackers import check_metric_writers
from flaxres.run.workdir import open_workdir
from flaxres.training.compiled_steps import CompiledSteps
from flaxres.training.initial_weights import check_pretrained_weights
from flaxres.training.initialization import completed
from flaxres.training.learning_rate import describe_unreached_boundaries
from flaxres.training.loop import TrainLoop
from flaxres.training.restore import has_checkpoint
from flaxres.training.run_start import Resume, RunStart, find_run_start, replica_change
from flaxres.training.run_state import (
    check_checkpoints_not_removed,
    check_metrics,
    finished_record,
    is_final_checkpoint_valid,
    last_step_record,
)
from flaxres.training.train_state import TrainState


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """Options of `train_and_evaluate`, which describes them."""

    allow_data_change: bool = False
    allow_schedule_change: bool = False
    resume: Resume = "auto"
    quiet: bool = False
    log_seconds: float = LOG_SECONDS
    stop_event: threading.Event | None = None


def train_and_evaluate(
    config: ConfigDict,
    workdir: Path,
    allow_data_change: bool = False,
    *,
    allow_schedule_change: bool = False,
    resume: Resume = "auto",
    quiet: bool = False,
    log_seconds: float = LOG_SECONDS,
    stop_event: threading.Event | None = None,
) -> Record:
    """Trains a run to its last step, resuming from the newest checkpoint in its workdir.

    A run may resume with a larger num_steps or another learning-rate schedule
    (`flaxres.training.run_start`), and replaces a run that ended before its first checkpoint.

    Args:
      config: config of the run (`flaxres.config`). Durations may be text, such as '1.5ep'.
      workdir: directory of the run. It receives config.json, info.json, data.json, inputs.npz,
        metrics.jsonl, tensorboard/ and checkpoints/; with several replicas also a directory for
        each seed.
      allow_data_change: if True, the run may resume with other data than before.
      allow_schedule_change: if True, the run may resume with a schedule that would have given the
        steps before another learning rate.
      resume: 'auto' starts or resumes a run, 'never' refuses a workdir that holds one, 'must'
        refuses a workdir without a checkpoint.
      quiet: if True, prints nothing.
      log_seconds: smallest time between two printed lines where there is no terminal, in seconds.
      stop_event: stops the run after a checkpoint when it is set, as SIGTERM does.

    Returns:
      The last record of metrics.jsonl. If the run is finished already, nothing is trained.

    Raises:
      UserError: the config is invalid, data are missing or have changed, the workdir belongs to
        another run, the disk is full, the training diverged, or a signal stopped the run after a
        checkpoint.
    """
    options = TrainOptions(
        allow_data_change, allow_schedule_change, resume, quiet, log_seconds, stop_event
    )
    config = convert_durations(config)
    with raise_on_all_processes():
        start = find_run_start(workdir, config, resume, allow_schedule_change)
        if start.has_run:
            check_checkpoints_not_removed(workdir)
        config = resolve_stride(config, workdir if start.has_run else None)
    record = finished_record(config, workdir) if start.has_run else None
    if record and is_final_checkpoint_valid(config, workdir):
        with raise_on_all_processes():
            for directory in (workdir, *replicas.replica_runs(config, workdir)):
                check_metrics(config, directory, config.num_steps)
            if is_main_process():
                _report_finished(config, workdir, start, options)
        return record
    with raise_on_all_processes():
        if config.init_from is not None and not has_checkpoint(workdir):
            check_pretrained_weights(config)
        check_memory(config)
        check_metric_writers(config)
    return _train(config, workdir, start, options)


def _report_finished(
    config: ConfigDict, workdir: Path, start: RunStart, options: TrainOptions
) -> None:
    """Prints that a run is finished, and stores its config if that has changed."""
    for directory, directory_config in _configs(config, workdir).items():
        if change := replica_change(workdir, directory, directory_config) or start.change:
            info, step = read_info(directory), config.num_steps
            with open_workdir(directory, directory_config, info, change, step):
                pass
    if options.quiet:
        return
    name = model_name(config.model)
    steps = counted(config.num_steps, "step")
    print(printable(f"{name} in {workdir} is finished: {steps}"), flush=True)
    if options.allow_data_change:
        print_note(
            f"--allow_data_change has no effect, because {workdir} is finished; its data are not "
            "read"
        )


def _configs(config: ConfigDict, workdir: Path) -> dict[Path, ConfigDict]:
    """Returns the config of the run and of each of its replicas, by directory."""
    return {workdir: config, **replicas.replica_runs(config, workdir)}


def _train(config: ConfigDict, workdir: Path, start: RunStart, options: TrainOptions) -> Record:
    """Opens the files of the run, trains it, and closes them however it ends."""
    configs = _configs(config, workdir)
    directories = [*configs]
    with explain_lost_processes(), contextlib.ExitStack() as stack:
        name = model_name(config.model)
        quiet = options.quiet or not is_main_process()
        terminal = stack.enter_context(
            make_progress_writer(name, config.num_steps, quiet, options.log_seconds)
        )
        with raise_on_all_processes():
            sources = open_sources(config.dataset)
            if is_main_process():
                start, run_data = _check_data(workdir, config, sources, start, options)
        check_same_on_all_processes(sources.fingerprint.digest, "data")
        with raise_on_all_processes():
            dataset = open_dataset(config, sources)
            if not start.is_failed:
                check_image_shape(workdir, config, dataset.image_shape)
            compiled_steps = CompiledSteps(config, dataset)
            check_dispatch_memory(config, compiled_steps.dispatch_bytes)
            if config.init_from is not None and not has_checkpoint(workdir):
                compiled_steps.initialization.read_pretrained_weights()
            previous_info: dict[Path, Mapping[str, Any]] = {}
            locked_directories: list[LockedDirectory] = []
            if is_main_process():
                info = compiled_steps.info()
                if start.replaces:
                    terminal.log(replace_failed_start(workdir))
                newest = max(checkpoint_steps(workdir), default=0)
                for directory, directory_config in configs.items():
                    stored = replica_change(workdir, directory, directory_config) or start.change
                    content, locked = stack.enter_context(
                        open_workdir(directory, directory_config, info, stored, newest)
                    )
                    previous_info[directory] = content
                    locked_directories.append(locked)
        checkpoints = stack.enter_context(Checkpoints(workdir, config.keep_checkpoints))
        stop = stack.enter_context(StopRequest(event=options.stop_event))
        state, step = _restore_or_initialize(
            config, compiled_steps, checkpoints, directories, terminal.log
        )
        if start.change is not None:
            terminal.log(start.change.describe())
        if step == 0 and (note := describe_unreached_boundaries(config)):
            terminal.log(f"note: {note}")
        if step and config.bn_scope == "device":
            previous_devices = previous_info.get(workdir, {}).get("devices", 1)
            _report_changed_devices(config, compiled_steps, previous_devices, terminal.log)
        with raise_on_all_processes():
            if is_main_process():
                if change := run_data.accepted_change():
                    terminal.log(f"note: {workdir} continues with changed data: {change}")
                run_data.store(workdir, config, step, dataset.mean_image)
                if step < newest:  # newer checkpoints are damaged
                    for directory, previous in previous_info.items():
                        write_info(directory, info, previous, step)
        with raise_on_all_processes():
            if isinstance(dataset, StreamedDataset) and (workdir / INPUT_SPEC_FILE).exists():
                dataset = dataset.with_mean(read_input_spec(workdir, config).mean)
        former_record = last_record(workdir)
        # If no step is left, the last record is written again if it has no evaluation.
        is_evaluated = step < config.num_steps or last_step_record(config, workdir) is not None
        writers = stack.enter_context(
            MetricWriters(
                directories,
                step if is_evaluated else step - 1,
                config.log_layers_every > 0,
                list(configs.values()),
            )
        )
        loop = TrainLoop(
            config, compiled_steps, dataset, writers, checkpoints, terminal, locked_directories
        )
        if signum := loop.run(state, step, stop, former_record, is_evaluated):
            if loop.step == 0:
                raise InterruptedRunError(
                    f"Stopped before the first of {config.num_steps:,} steps. Rerun the same "
                    f"command to start the run in {workdir}.",
                    signum,
                )
            raise InterruptedRunError(
                f"Stopped at step {loop.step:,} of {config.num_steps:,}. Checkpoint saved in "
                f"{workdir}; rerun the same command to resume.",
                signum,
            )
    return loop.record or last_record(workdir) or {}  # {} if no step was left


def _check_data(
    workdir: Path, config: ConfigDict, sources: Sources, start: RunStart, options: TrainOptions
) -> tuple[RunStart, RunData]:
    """Compares the data with those of the run, unless it is a failed start.

    Returns:
      The start, which replaces a failed start if the data differ; and the data.
    """
    new_data = RunData(sources.fingerprint, None, None, ())
    if start.replaces:
        return start, new_data
    try:
        return start, check_data(workdir, config, sources, options.allow_data_change)
    except DataChangedError:
        if not start.is_failed:
            raise
    return dataclasses.replace(start, has_run=False), new_data


def _restore_or_initialize(
    config: ConfigDict,
    compiled_steps: CompiledSteps,
    checkpoints: Checkpoints,
    directories: Sequence[Path],
    log: Callable[[str], None],
) -> tuple[Future[TrainState], int]:
    """Returns the state of the newest checkpoint, or else the initial state, and its step.

    The initial state may still be in computation.

    Args:
      config: config of the run.
      compiled_steps: step functions of the run.
      checkpoints: checkpoints of the run.
      directories: the workdir, then those of the replicas if there are several.
      log: receives one line if the run resumes, and one for each damaged checkpoint.
    """
    with raise_on_all_processes():
        state = checkpoints.restore(compiled_steps.state_shape, log)
        step = None if state is None else int(np.max(state.step))
        for directory in directories:
            check_metrics(config, directory, step)
    if state is None or step is None:
        return compiled_steps.initialization.start(), 0
    log(f"{model_name(config.model)} in {directories[0]} resumes from step {step:,}")
    return completed(compiled_steps.devices.replicate(state)), step


def _report_changed_devices(
    config: ConfigDict,
    compiled_steps: CompiledSteps,
    previous_devices: int,
    log: Callable[[str], None],
) -> None:
    """Logs that batch statistics cover another number of images than before the restart."""
    devices = compiled_steps.devices.num_devices
    if devices != previous_devices:
        log(
            f"Batch statistics now cover {counted(config.batch_size // devices, 'image')} on each "
            f"of {counted(devices, 'device')}. Before the restart they covered "
            f"{config.batch_size // previous_devices} on each of {previous_devices}."
        )
