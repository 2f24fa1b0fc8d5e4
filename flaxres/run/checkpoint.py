"""Asynchronous, verified checkpoints of the train state.

`Checkpoints` saves and restores the states of one workdir. If the newest checkpoint is damaged, it
restores the one before.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar, cast

import jax
import numpy as np

from flaxres.errors import CheckpointError, DivergedError, UserError, first_few
from flaxres.parallel.multihost import is_main_process, max_over_processes, raise_on_all_processes
from flaxres.run.checkpoint_files import (
    CHECKPOINTS_DIRECTORY,
    STEP,
    checkpoint_steps,
    make_directory,
    move_damaged,
    unknown_entries,
)
from flaxres.run.orbax_files import OrbaxFiles
from flaxres.run.snapshot import Snapshot

PyTree = Any
Template = TypeVar("Template")

FULL_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# Orbax numbers the saves of a process, and the threads of a save wait for signals with its number.
# Two saves at a time, of two runs in one process, would wait for the signals of each other.
_save_lock = threading.Lock()


def _lower_thread_priority() -> None:
    """Gives the train steps priority over this thread, and over threads that it starts, on a CPU.

    The priority is only a little lower. With a much lower one, the thread could be suspended while
    it holds Python's global lock, and the main thread would wait for it. Only Linux has priorities
    of threads.
    """
    if sys.platform == "linux":
        thread_id = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread_id, os.getpriority(os.PRIO_PROCESS, thread_id) + 5)


class Checkpoints:
    """The checkpoints of one workdir.

    A save copies the state on its device; a background thread does the rest. It fetches the copy,
    checks it for NaNs, computes a digest, and writes the files. The digest detects damage that the
    file format does not. A step may therefore donate the state's buffers at once, and a checkpoint
    does not depend on the number of devices that wrote it. Errors of the thread are raised by the
    next call of `check`, `save` or `wait`.

    In a run of several processes, which wait for one another during a save, the main thread does
    this work, and only the files are written in the background.
    """

    def __init__(self, workdir: Path, keep: int | None = None):
        """Opens the checkpoints of a workdir.

        Args:
          workdir: directory of the run.
          keep: number of newest checkpoints to keep. With None, the directory is opened read-only.

        Raises:
          CheckpointError: the directory of the checkpoints cannot be read, or with `keep` written.
        """
        self.directory = workdir.absolute() / CHECKPOINTS_DIRECTORY
        self._workdir = workdir
        self._read_only = keep is None
        self._files = OrbaxFiles(workdir, keep)
        self._thread = ThreadPoolExecutor(1, "checkpoint", initializer=_lower_thread_priority)
        self._pending_save: Future[None] | None = None
        checkpoint_steps(workdir)
        if not self._read_only:
            make_directory(workdir)
            if jax.process_count() > 1 or any(self.directory.iterdir()):
                self._files.manager  # noqa: B018 (removes saves that were not completed)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, exception_type: type[BaseException] | None, *_: object) -> None:
        self._thread.shutdown()  # waits for a pending save
        with contextlib.suppress(Exception) if exception_type else self._as_checkpoint_error():
            self._files.close(failed=exception_type is not None)
            if not self._read_only:
                self.check()

    def steps(self) -> list[int]:
        """Returns the steps of all checkpoints in ascending order, damaged ones included."""
        return checkpoint_steps(self._workdir)

    def save(
        self,
        step: int,
        state: PyTree | Snapshot,
        before_save: Callable[[], None] = lambda: None,
        after_save: Callable[[], None] = lambda: None,
    ) -> None:
        """Starts to save a state, unless its step already has a checkpoint.

        Waits for a pending save first, so that at most one snapshot is held.

        Args:
          step: number of completed steps.
          state: tree of arrays, or a snapshot of it.
          before_save: called before the save begins, in the same thread.
          after_save: called after the save, also a failed one, in the thread that wrote it, except
            in a run of several processes.

        Raises:
          DivergedError: the state of the previous save held a NaN or an infinity and was not saved.
          CheckpointError: the previous save failed, for example because the disk is full.
          UserError: `before_save` or `after_save` of the previous save raised it.
        """
        snapshot = state if isinstance(state, Snapshot) else Snapshot(state)
        if jax.process_count() > 1:
            with raise_on_all_processes():
                before_save()
                self.check()
            self._save(step, snapshot)
            return

        def save() -> None:
            before_save()
            try:
                with _save_lock:
                    self._save(step, snapshot)
                    with self._as_checkpoint_error():
                        self._files.manager.wait_until_finished()
            finally:
                after_save()

        self._wait_for_thread()
        self._pending_save = self._thread.submit(save)

    def _save(self, step: int, snapshot: Snapshot) -> None:
        if step in self._files.manager.all_steps():
            return
        state = snapshot.fetch()
        for path, leaf in jax.tree_util.tree_leaves_with_path(state):
            if not np.all(np.isfinite(leaf)):
                raise DivergedError(f"{jax.tree_util.keystr(path)} is not finite at step {step}")
        with self._as_checkpoint_error():
            self._files.save(step, state)

    def _wait_for_thread(self) -> None:
        """Waits for the pending save and raises its error, once."""
        pending, self._pending_save = self._pending_save, None
        if pending is not None:
            pending.result()

    def check(self) -> None:
        """Raises the error of a save that has failed, as `save` does. Does not wait for a save."""
        if self._pending_save is not None and not self._pending_save.done():
            return
        self._wait_for_thread()
        with self._as_checkpoint_error():
            self._files.manager.check_for_errors()

    def wait(self) -> None:
        """Waits until all saves are on disk.

        Raises:
          UserError: a save failed; `save` lists the errors.
        """
        self._wait_for_thread()
        with self._as_checkpoint_error():
            self._files.manager.wait_until_finished()
        self.check()

    def restore(self, template: Template, log: Callable[[str], None]) -> Template | None:
        """Restores the newest valid checkpoint.

        Newer, damaged checkpoints are moved to `checkpoints_damaged/`, unless the directory is open
        read-only.

        Args:
          template: state with the expected shapes and dtypes (arrays or `jax.ShapeDtypeStruct`s).
          log: receives one line for each damaged checkpoint and each name that is not a step.

        Returns:
          The state with NumPy arrays as leaves, or None if there is no checkpoint.

        Raises:
          CheckpointError: there are checkpoints, but none can be read.
        """
        damaged: list[tuple[int, str]] = []
        for step in reversed(self.steps()):
            state, reason = self._try_read(step, template)
            # All processes must restore the same checkpoint.
            if max_over_processes(bool(reason)):
                damaged.append((step, reason or "another process cannot read it"))
                continue
            for damaged_step, reason in damaged:
                log(
                    f"checkpoint {damaged_step} is damaged ({reason}); "
                    f"falling back to checkpoint {step}"
                )
            self._move_damaged([str(step) for step, _ in damaged], log)
            return state
        if damaged:
            step, reason = damaged[0]
            raise CheckpointError(
                f"none of the {len(damaged)} checkpoints in {self.directory} can be read "
                f"(checkpoint {step}: {reason}); remove {self._workdir} to start over"
            )
        if unknown := unknown_entries(self._workdir):
            raise CheckpointError(
                f"{self.directory} has no checkpoint, but {first_few(unknown, 3)}; a checkpoint is "
                f"a directory named by its step, such as 70: rename it, or remove {self._workdir} "
                "to start over"
            )
        return None

    def read(self, step: int, template: Template) -> Template:
        """Reads the checkpoint of a step.

        Args:
          step: number of completed steps.
          template: state with the expected shapes and dtypes (arrays or `jax.ShapeDtypeStruct`s).

        Returns:
          The state with NumPy arrays as leaves.

        Raises:
          CheckpointError: there is no such checkpoint, or it is damaged.
        """
        if step not in self.steps():
            kept = ", ".join(f"{kept:,}" for kept in self.steps())
            raise CheckpointError(
                f"{self.directory} has no checkpoint of step {step:,}, only of {kept or 'no step'}"
            )
        state, reason = self._try_read(step, template)
        if max_over_processes(bool(reason)):
            raise CheckpointError(f"checkpoint {step} in {self.directory} is damaged ({reason})")
        return cast(Template, state)

    def is_valid(self, step: int, template: PyTree) -> bool:
        """Returns True if a checkpoint can be restored, with the arrays that were saved."""
        _, reason = self._try_read(step, template)
        return not max_over_processes(bool(reason))

    def _try_read(self, step: int, template: PyTree) -> tuple[PyTree, str]:
        """Returns the state of a checkpoint, and the reason if it cannot be read."""
        try:
            return self._files.read(step, template), ""
        except MemoryError:
            raise
        except (TypeError, AttributeError, LookupError):  # of Orbax, for incomplete JSON files
            return None, "its metadata cannot be read"
        except Exception as error:  # Orbax raises many types for damaged files
            return None, self._files.explain(error)

    def _move_damaged(self, names: Sequence[str], log: Callable[[str], None]) -> None:
        """Moves checkpoints to `checkpoints_damaged/`; reports and moves files named by a step.

        Does not move anything if the directory is open read-only.
        """
        if is_main_process():
            unknown = unknown_entries(self._workdir)
            for name in unknown:
                log(f"{self.directory / name} is not the checkpoint of a step and is not used")
            # A file would be in the way of the checkpoint of its step.
            for name in (*names, *filter(STEP.fullmatch, unknown)):
                if not self._read_only:
                    move_damaged(self._workdir, name)
        max_over_processes(0)  # the other processes wait for the main process
        if not self._read_only:
            self._files.manager.reload()

    @contextlib.contextmanager
    def _as_checkpoint_error(self) -> Iterator[None]:
        """Context in which an exception other than a UserError becomes a CheckpointError."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # Orbax raises many types
            raise self._save_error(error) from error

    def _save_error(self, error: Exception) -> CheckpointError:
        kept = "the earlier checkpoints are kept"
        with contextlib.suppress(CheckpointError):
            steps = self.steps()
            kept = f"checkpoint {steps[-1]} is kept" if steps else "there is no earlier checkpoint"
        reason = self._files.explain(error, 300)
        is_full = any(os.strerror(code) in reason for code in FULL_DISK_ERRORS)
        remedy = "free disk space" if is_full else "make this directory writable"
        return CheckpointError(
            f"could not save a checkpoint in {self.directory}: {reason}; {kept}; "
            f"{remedy} and rerun the same command"
        )
