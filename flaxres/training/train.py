"""Runs from their first step or their last checkpoint: `train_and_evaluate(config, workdir)`."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from flaxres.config import check_config, model_name
from flaxres.data import StreamedDataset, open_dataset
from flaxres.errors import InterruptedRunError, WorkdirError
from flaxres.parallel import replicas
from flaxres.parallel.multihost import (
    explain_lost_processes,
    is_main_process,
    raise_on_all_processes,
)
from flaxres.run.checkpoint import Checkpoints
from flaxres.run.input_spec import INPUT_SPEC_FILE, read_input_spec, store_input_spec
from flaxres.run.metric_writers import MetricWriters, Record, TerminalWriter, read_metrics
from flaxres.run.preemption import StopRequest
from flaxres.run.workdir import check_same_config, open_workdir
from flaxres.training.compiled_steps import CompiledSteps
from flaxres.training.loop import TrainLoop, due


def train_and_evaluate(config: ConfigDict, workdir: Path) -> Record:
    """Trains the run of `config` in `workdir` to its last step, going on from what is there.

    Args:
      config: see `flaxres.config`.
      workdir: receives config.json, inputs.npz, metrics.jsonl, tensorboard/ and checkpoints/; with
        several replicas also a directory for each seed.

    Returns:
      The last record of metrics.jsonl. A finished run returns it at once.

    Raises:
      UserError: a bad config, missing data, a workdir of another run, no room for a checkpoint,
        divergence, or a signal that asked the run to stop (after saving its state).
    """
    check_config(config)
    net = model_name(config.model)
    with raise_on_all_processes():
        is_there = check_same_config(workdir, config)
    if is_there and (record := finished_record(config, workdir)):
        if is_main_process():
            print(f"{net} in {workdir} is finished: {config.num_steps:,} steps", flush=True)
        return record
    return _train(config, workdir)


def _train(config: ConfigDict, workdir: Path) -> Record:
    """Opens what the run needs, and closes it again however the run ends."""
    own_runs = replicas.replica_runs(config, workdir)
    directories = [workdir, *own_runs]
    with explain_lost_processes(), contextlib.ExitStack() as stack:
        net = model_name(config.model)
        terminal = stack.enter_context(
            TerminalWriter(net, config.num_steps, quiet=not is_main_process())
        )
        with raise_on_all_processes():
            dataset = open_dataset(config)
            compiled_steps = CompiledSteps(config, dataset)
            before = {}
            if is_main_process():
                info = compiled_steps.info()
                before = stack.enter_context(open_workdir(workdir, config, info))
                for directory, own in own_runs.items():
                    stack.enter_context(open_workdir(directory, own, info))
                store_input_spec(workdir, config, dataset.mean_image)
        with raise_on_all_processes():
            if isinstance(dataset, StreamedDataset) and (workdir / INPUT_SPEC_FILE).exists():
                dataset = dataset.with_mean(read_input_spec(workdir, config).mean)
        checkpoints = stack.enter_context(Checkpoints(workdir, config.keep_checkpoints))
        stop = stack.enter_context(StopRequest())
        with raise_on_all_processes():
            state = checkpoints.restore(compiled_steps.state_shape, terminal.log)
            step = None if state is None else int(np.max(state.step))
            for directory in directories:
                check_metrics(config, directory, step)
        if state is None:
            state, step = compiled_steps.initial_state(), 0
        else:
            state = compiled_steps.devices.replicate(state)
            terminal.log(f"{net} in {workdir} goes on from step {step:,}")
            if (
                config.bn_scope == "device"
                and before.get("devices", 1) != compiled_steps.devices.num_devices
            ):
                terminal.log(_other_devices(config, before, compiled_steps))
        writers = stack.enter_context(MetricWriters(directories, step, config.log_layers_every > 0))
        loop = TrainLoop(config, compiled_steps, dataset, writers, checkpoints, terminal)
        if signum := loop.run(state, step, stop):
            raise InterruptedRunError(
                f"stopped at step {loop.step:,} of {config.num_steps:,}, saved in {workdir}; "
                "the same command goes on from there",
                signum,
            )
    return loop.record


def _other_devices(config: ConfigDict, before: dict, compiled_steps: CompiledSteps) -> str:
    """What to say where the number of devices changes the images that batch norm sees together."""
    now, then = compiled_steps.devices.num_devices, before.get("devices", 1)
    return (
        f"batch norm takes {config.batch_size // now} images of each of {now} devices together; "
        f"up to here it took {config.batch_size // then} of each of {then}"
    )


def finished_record(config: ConfigDict, workdir: Path) -> Record | None:
    """The last record of the run in `workdir` if it has made all its steps, else None."""
    with Checkpoints(workdir) as checkpoints:
        saved = checkpoints.steps()
    records = read_metrics(workdir)
    if saved and records and saved[-1] == records[-1]["step"] == config.num_steps:
        return records[-1]
    return None


def check_metrics(config: ConfigDict, workdir: Path, step: int | None) -> None:
    """Checks that metrics.jsonl belongs to the checkpoint of `step` (None: there is none).

    Raises:
      WorkdirError: records before the checkpoint are missing; or there are so many records that
        there must have been a checkpoint. Going on would leave a gap, or throw the records away.
    """
    steps = [int(record["step"]) for record in read_metrics(workdir)]
    if step is None:
        # A killed run may have begun two saves and finished none.
        if steps and steps[-1] > 2 * config.checkpoint_every + config.log_every:
            raise WorkdirError(
                f"workdir {workdir} has metrics up to step {steps[-1]:,} and no checkpoint; "
                "choose another --workdir, or remove it to begin again"
            )
        return
    expected = next((s for s in range(step, 0, -1) if any(due(config, s)[:2])), None)
    if expected is not None and expected not in steps:
        raise WorkdirError(
            f"workdir {workdir} has a checkpoint of step {step:,}, but its metrics.jsonl lacks "
            f"step {expected:,}; bring the file back, or choose another --workdir"
        )
