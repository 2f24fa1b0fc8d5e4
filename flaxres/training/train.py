"""Training of one run, from its first step or its newest checkpoint: `train_and_evaluate`."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from flaxres.config import model_name
from flaxres.config_durations import convert_durations
from flaxres.data import StreamedDataset, open_dataset, open_sources
from flaxres.errors import CheckpointError, InterruptedRunError, WorkdirError, print_note
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
from flaxres.run.checkpoint_files import CHECKPOINTS_DIRECTORY, checkpoint_steps, is_complete
from flaxres.run.data_record import check_data, check_image_shape
from flaxres.run.input_spec import INPUT_SPEC_FILE, read_input_spec
from flaxres.run.lock import LockedDirectory
from flaxres.run.metric_writers import MetricWriters
from flaxres.run.notebook_writer import make_progress_writer
from flaxres.run.preemption import StopRequest
from flaxres.run.records import Record, last_record, record_blocks
from flaxres.run.workdir import check_same_config, open_workdir
from flaxres.training.compiled_steps import CompiledSteps
from flaxres.training.dispatches import due
from flaxres.training.initial_weights import check_pretrained_weights
from flaxres.training.initialization import completed
from flaxres.training.loop import TrainLoop
from flaxres.training.optimizer import describe_unreached_boundaries
from flaxres.training.restore import has_checkpoint, train_state_shapes
from flaxres.training.train_state import TrainState


def train_and_evaluate(
    config: ConfigDict,
    workdir: Path,
    allow_data_change: bool = False,
    *,
    quiet: bool = False,
    stop_event: threading.Event | None = None,
) -> Record:
    """Trains a run to its last step, resuming from the newest checkpoint in its workdir.

    Args:
      config: config of the run (`flaxres.config`).
      workdir: directory of the run. It receives config.json, info.json, data.json, inputs.npz,
        metrics.jsonl, tensorboard/ and checkpoints/; with several replicas also a directory for
        each seed.
      allow_data_change: if True, the run may resume with other data than before.
      quiet: if True, shows no progress and prints no messages.
      stop_event: stops the run after a checkpoint when it is set, as SIGTERM does.

    Returns:
      The last record of metrics.jsonl. If the run is finished already, nothing is trained.

    Raises:
      UserError: the config is invalid, data are missing or have changed, the workdir belongs to
        another run, the disk is full, the training diverged, or a signal stopped the run after a
        checkpoint.
    """
    config = convert_durations(config)
    with raise_on_all_processes():
        has_run = check_same_config(workdir, config)
        if has_run:
            _check_checkpoints_not_removed(workdir)
        config = resolve_stride(config, workdir if has_run else None)
    record = finished_record(config, workdir) if has_run else None
    if record and _is_final_checkpoint_valid(config, workdir):
        with raise_on_all_processes():
            for directory in (workdir, *replicas.replica_runs(config, workdir)):
                check_metrics(config, directory, config.num_steps)
        if is_main_process() and not quiet:
            name = model_name(config.model)
            print(f"{name} in {workdir} is finished: {config.num_steps:,} steps", flush=True)
            if allow_data_change:
                print_note(
                    f"--allow_data_change has no effect, because {workdir} is finished; its data "
                    "are not read"
                )
        return record
    with raise_on_all_processes():
        if config.init_from is not None and not has_checkpoint(workdir):
            check_pretrained_weights(config)
        check_memory(config)
    return _train(config, workdir, allow_data_change, quiet, stop_event)


def _train(
    config: ConfigDict,
    workdir: Path,
    allow_data_change: bool,
    quiet: bool,
    stop_event: threading.Event | None,
) -> Record:
    """Opens the files of the run, trains it, and closes them however it ends."""
    replica_runs = replicas.replica_runs(config, workdir)
    directories = [workdir, *replica_runs]
    with explain_lost_processes(), contextlib.ExitStack() as stack:
        name = model_name(config.model)
        quiet = quiet or not is_main_process()
        terminal = stack.enter_context(make_progress_writer(name, config.num_steps, quiet))
        with raise_on_all_processes():
            sources = open_sources(config.dataset)
            if is_main_process():
                run_data = check_data(workdir, config, sources, allow_data_change)
        check_same_on_all_processes(sources.fingerprint.digest, "data")
        with raise_on_all_processes():
            dataset = open_dataset(config, sources)
            check_image_shape(workdir, config, dataset.image_shape)
            compiled_steps = CompiledSteps(config, dataset)
            check_dispatch_memory(config, compiled_steps.dispatch_bytes)
            if config.init_from is not None and not has_checkpoint(workdir):
                compiled_steps.initialization.read_pretrained_weights()
            previous_info: Mapping[str, Any] = {}
            locked_directories: list[LockedDirectory] = []
            if is_main_process():
                info = compiled_steps.info()
                for directory, directory_config in {workdir: config, **replica_runs}.items():
                    content, locked = stack.enter_context(
                        open_workdir(directory, directory_config, info)
                    )
                    previous_info = previous_info or content
                    locked_directories.append(locked)
        checkpoints = stack.enter_context(Checkpoints(workdir, config.keep_checkpoints))
        stop = stack.enter_context(StopRequest(event=stop_event))
        state, step = _restore_or_initialize(
            config, compiled_steps, checkpoints, directories, terminal.log
        )
        if step == 0 and (note := describe_unreached_boundaries(config)):
            terminal.log(f"note: {note}")
        if step and config.bn_scope == "device":
            _report_changed_devices(config, compiled_steps, previous_info, terminal.log)
        with raise_on_all_processes():
            if is_main_process():
                if change := run_data.accepted_change():
                    terminal.log(f"note: {workdir} continues with changed data: {change}")
                run_data.store(workdir, config, step, dataset.mean_image)
        with raise_on_all_processes():
            if isinstance(dataset, StreamedDataset) and (workdir / INPUT_SPEC_FILE).exists():
                dataset = dataset.with_mean(read_input_spec(workdir, config).mean)
        writers = stack.enter_context(MetricWriters(directories, step, config.log_layers_every > 0))
        loop = TrainLoop(
            config, compiled_steps, dataset, writers, checkpoints, terminal, locked_directories
        )
        if signum := loop.run(state, step, stop):
            raise InterruptedRunError(
                f"Stopped at step {loop.step:,} of {config.num_steps:,}. Checkpoint saved in "
                f"{workdir}; rerun the same command to resume.",
                signum,
            )
    return loop.record or last_record(workdir) or {}  # {} if no step was left


def _check_checkpoints_not_removed(workdir: Path) -> None:
    """Checks that a run with metrics has its directory of checkpoints, which is made before them.

    Raises:
      WorkdirError: the directory was removed, so training would start over and discard the metrics.
    """
    record = last_record(workdir)
    if record is not None and not os.path.lexists(workdir / CHECKPOINTS_DIRECTORY):
        raise _no_checkpoint_error(workdir, int(record["step"]))


def _no_checkpoint_error(workdir: Path, step: int) -> WorkdirError:
    return WorkdirError(
        f"workdir {workdir} has metrics up to step {step:,} but no checkpoint. Choose another "
        "--workdir, or remove this one to start over."
    )


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
    previous_info: Mapping[str, Any],
    log: Callable[[str], None],
) -> None:
    """Logs that batch statistics cover another number of images than before the restart."""
    devices, previous_devices = compiled_steps.devices.num_devices, previous_info.get("devices", 1)
    if devices != previous_devices:
        log(
            f"Batch statistics now cover {config.batch_size // devices} images on each of "
            f"{devices} devices. Before the restart they covered "
            f"{config.batch_size // previous_devices} on each of {previous_devices}."
        )


def finished_record(config: ConfigDict, workdir: Path) -> Record | None:
    """Returns the last record of a finished run, or None if the run is not finished.

    A run is finished if its metrics reach the last step and all files of the checkpoint of this
    step are there. The arrays are not read.
    """
    try:
        steps = checkpoint_steps(workdir)
    except CheckpointError:  # training the run reports it
        return None
    if steps[-1:] != [config.num_steps] or not is_complete(workdir, config.num_steps):
        return None
    record = last_record(workdir)
    return record if record and record["step"] == config.num_steps else None


def _is_final_checkpoint_valid(config: ConfigDict, workdir: Path) -> bool:
    """Returns True if the last checkpoint of a run can be restored."""
    input_spec = read_input_spec(workdir, config)
    template = train_state_shapes(config, input_spec.image_shape, input_spec.num_classes)
    with Checkpoints(workdir) as checkpoints:
        return checkpoints.is_valid(config.num_steps, template)


def check_metrics(config: ConfigDict, workdir: Path, step: int | None) -> None:
    """Checks that metrics.jsonl and the newest checkpoint belong to the same training.

    Args:
      config: config of the run.
      workdir: directory of the run, or of one of its replicas.
      step: step of the newest checkpoint; None if there is none.

    Raises:
      WorkdirError: the record before the checkpoint is missing, so resuming would leave a gap; or
        there is no checkpoint but so many records that one must have existed, so starting over
        would discard them; or a line is damaged.
    """
    expected = next((s for s in range(step or 0, 0, -1) if any(due(config, s)[:2])), None)
    is_found, last_step = expected is None, 0
    for records in record_blocks(workdir):
        last_step = int(records[-1]["step"])
        is_found = is_found or any(record["step"] == expected for record in records)
    if step is None:
        # A killed run may have started two saves and finished neither.
        if last_step > 2 * config.checkpoint_every + config.log_every:
            raise _no_checkpoint_error(workdir, last_step)
    elif not is_found:
        raise WorkdirError(
            f"workdir {workdir} has a checkpoint of step {step:,}, but its metrics.jsonl lacks "
            f"step {expected:,}. Restore the file, or choose another --workdir."
        )
