"""The training loop: `train_and_evaluate(config, workdir)`."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from flaxres import replicas
from flaxres.checkpoint import Checkpoints
from flaxres.config import check_config, net_name
from flaxres.data import load_dataset
from flaxres.distributed import is_first, largest, together, watched
from flaxres.errors import DivergedError, InterruptedRunError, WorkdirError
from flaxres.programs import Programs, steps_per_dispatch
from flaxres.signals import StopRequest
from flaxres.state import TrainState
from flaxres.workdir import check_same_config, open_workdir
from flaxres.writers import Record, Terminal, Writers, read_metrics


def train_and_evaluate(config: ConfigDict, workdir: Path) -> Record:
    """Trains the run of `config` in `workdir` to its last step, going on from what is there.

    Args:
      config: see `flaxres.config`.
      workdir: receives config.json, metrics.jsonl, tensorboard/ and checkpoints/; with several
        replicas also a directory for each seed.

    Returns:
      The last record of metrics.jsonl. A finished run returns it at once.

    Raises:
      UserError: a bad config, missing data, a workdir of another run, no room for a checkpoint,
        divergence, or a signal that asked the run to stop (after saving its state).
    """
    check_config(config)
    net = net_name(config.model)
    with together():
        is_there = check_same_config(workdir, config)
    if is_there and (record := finished_record(config, workdir)):
        if is_first():
            print(f"{net} in {workdir} is finished: {config.num_steps:,} steps", flush=True)
        return record

    own_runs = replicas.runs(config, workdir)
    directories = [workdir, *own_runs]
    with watched(), contextlib.ExitStack() as stack:
        terminal = stack.enter_context(Terminal(net, config.num_steps, quiet=not is_first()))
        with together():
            dataset = load_dataset(config.dataset)
            programs = Programs(config, dataset)
            before = {}
            if is_first():
                info = programs.info()
                before = stack.enter_context(open_workdir(workdir, config, info))
                for directory, own in own_runs.items():
                    stack.enter_context(open_workdir(directory, own, info))
        checkpoints = stack.enter_context(Checkpoints(workdir, config.keep_checkpoints))
        stop = stack.enter_context(StopRequest())
        with together():
            state = checkpoints.restore(programs.state_shape, terminal.say)
            restored = None if state is None else int(np.max(state.step))
            for directory in directories:
                check_metrics(config, directory, restored)
        if state is None:
            state = programs.initial_state()
        else:
            state = programs.devices.replicate(state)
            terminal.say(f"{net} in {workdir} goes on from step {restored:,}")
            if config.bn_scope == "device" and before.get("devices", 1) != programs.devices.size:
                terminal.say(_other_devices(config, before, programs))
        step = restored or 0
        writers = stack.enter_context(Writers(directories, step))

        train = programs.put(dataset.train)
        evaluated = {"test": programs.put(dataset.test)}
        if dataset.validation is not None:
            evaluated["validation"] = programs.put(dataset.validation)
        most = steps_per_dispatch(config)
        compiled = {}
        clock = Clock(step)
        record: Record = {}
        stopping = 0
        while step < config.num_steps:
            # Up to the next multiple of `most`: logs, evaluations and checkpoints all lie there.
            num_steps = min(most - step % most, config.num_steps - step)
            if num_steps not in compiled:
                terminal.update(step, note="compiling")
                compiled[num_steps] = programs.compile_train_steps(state, train, num_steps)
                clock.restart(step)
                terminal.restart_clock(step)
            indices = programs.indices(step, num_steps)
            state, sums = compiled[num_steps](state, train, indices)
            step += num_steps
            rates = jax.device_get(sums).rates("train")
            terminal.update(step, replicas.mean(rates))

            log, evaluate, save = due(config, step)
            if log or evaluate:
                rates = {"step": step} | rates
                rates["learning_rate"] = np.asarray(state.learning_rate, np.float64).tolist()
                rates["images_per_second"] = clock.steps_per_second(step) * config.batch_size
                if evaluate:
                    for name, split in evaluated.items():
                        rates |= programs.evaluate(state, split).rates(name)
                record = replicas.mean(rates)
                with together():
                    _check_finite(config, checkpoints, rates)
                    writers.write([record, *replicas.each(rates, config.num_replicas)])
                terminal.write(record)
            stopping = largest(stop.signum or 0)  # asked once, as a signal may come at any moment
            if save or stopping:
                with together():
                    writers.sync()  # before the checkpoint, so that no restart leaves a gap
                    checkpoints.check()
                _save(config, checkpoints, step, state)
            if stopping:
                break
            if log or evaluate or save:
                clock.restart(step)
        checkpoints.wait()
        if stopping:
            raise InterruptedRunError(
                f"stopped at step {step:,} of {config.num_steps:,}, saved in {workdir}; "
                "the same command goes on from there",
                stopping,
            )
    return record


def _other_devices(config: ConfigDict, before: dict, programs: Programs) -> str:
    """What to say where the number of devices changes the images that batch norm sees together."""
    now, then = programs.devices.size, before.get("devices", 1)
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


def due(config: ConfigDict, step: int) -> tuple[bool, bool, bool]:
    """Whether to log, to evaluate and to save once `step` steps are done; all three at the end."""
    last = step == config.num_steps
    periods = (config.log_every, config.eval_every, config.checkpoint_every)
    log, evaluate, save = (last or step % period == 0 for period in periods)
    return log, evaluate, save


class Clock:
    """Speed of training, without what happens between the steps."""

    def __init__(self, step: int):
        self.restart(step)

    def restart(self, step: int) -> None:
        """Measures from here, with `step` steps done."""
        self._step, self._time = step, time.perf_counter()

    def steps_per_second(self, step: int) -> float:
        """Since the last restart; the results of `step` must have been waited for."""
        return (step - self._step) / (time.perf_counter() - self._time)


def _check_finite(config: ConfigDict, checkpoints: Checkpoints, record: Record) -> None:
    """Raises DivergedError for a record that holds a NaN or an infinity."""
    for name, value in record.items():
        if not np.all(np.isfinite(value)):
            raise _diverged(config, checkpoints, f"{name} is {value}", int(record["step"]))


def _save(config: ConfigDict, checkpoints: Checkpoints, step: int, state: TrainState) -> None:
    try:
        checkpoints.save(step, state)
    except DivergedError as error:
        raise _diverged(config, checkpoints, str(error), step) from None


def _diverged(config: ConfigDict, checkpoints: Checkpoints, what: str, step: int) -> DivergedError:
    checkpoints.wait()
    steps = checkpoints.steps()
    kept = f"checkpoint {steps[-1]} is kept" if steps else "there is no checkpoint yet"
    return DivergedError(
        f"training diverged: {what} at step {step:,}; {kept} in {checkpoints.directory}; "
        f"try a lower learning_rate than {config.learning_rate}"
    )
