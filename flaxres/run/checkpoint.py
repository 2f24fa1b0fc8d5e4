"""Asynchronous, verified checkpoints of the train state.

`Checkpoints` saves and restores the states of one workdir. If the newest checkpoint is damaged, it
restores the one before.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from flaxres.errors import CheckpointError, DivergedError, UserError, one_line
from flaxres.parallel.multihost import is_main_process, max_over_processes, raise_on_all_processes

PyTree = Any
Template = TypeVar("Template")

CHECKPOINTS_DIRECTORY = "checkpoints"  # one subdirectory per step, in Orbax's format
DAMAGED_DIRECTORY = "checkpoints_damaged"  # receives checkpoints that cannot be read


class Snapshot:
    """A copy of a state on its device, so that the next step may donate the state's buffers.

    The copy is only launched here; it runs once the device has computed the state. It occupies
    device memory until the snapshot is released.
    """

    def __init__(self, state: PyTree):
        """Copies a state on one device.

        Args:
          state: tree of arrays that are equal on all devices.
        """
        self._state = _copy(jax.tree.map(_on_one_device, state))

    def fetch(self) -> PyTree:
        """Returns the state as NumPy arrays. Waits until it has been computed."""
        return jax.device_get(self._state)


@jax.jit
def _copy(tree: PyTree) -> PyTree:
    return jax.tree.map(jnp.copy, tree)


def _on_one_device(leaf: Any) -> Any:
    if isinstance(leaf, jax.Array) and len(leaf.sharding.device_set) > 1:
        return leaf.addressable_data(0)
    return leaf


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
        """
        self.directory = workdir.absolute() / CHECKPOINTS_DIRECTORY
        self._workdir = workdir
        self._read_only = keep is None
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            read_only=keep is None,
            create=keep is not None,
            cleanup_tmp_directories=keep is not None,
        )
        self._manager = ocp.CheckpointManager(self.directory, options=options)
        self._thread = ThreadPoolExecutor(1, "checkpoint", initializer=_lower_thread_priority)
        self._pending_save: Future[None] | None = None
        self._read_failed = False

    def __enter__(self) -> Checkpoints:
        self._unraisablehook = sys.unraisablehook
        sys.unraisablehook = self._ignore_closed_event_loop
        return self

    def __exit__(self, exception_type: type[BaseException] | None, *_: object) -> None:
        try:
            self._thread.shutdown()  # waits for a pending save
            with contextlib.suppress(Exception) if exception_type else self._as_checkpoint_error():
                self._manager.close()
                self.check()
        finally:
            if exception_type is not None or self._read_failed:
                time.sleep(0.5)  # a failure leaves reads and writes in progress
            sys.unraisablehook = self._unraisablehook

    def _ignore_closed_event_loop(self, unraisable: sys.UnraisableHookArgs) -> None:
        """Suppresses the tracebacks of array reads and writes that end after a failed one.

        Orbax closes its event loop when it cannot read or write an array. TensorStore's threads
        then fail to report the remaining arrays to it, which adds nothing to the first error.
        """
        if str(unraisable.exc_value) != "Event loop is closed":
            self._unraisablehook(unraisable)

    def steps(self) -> list[int]:
        """Returns the steps of all complete checkpoints in ascending order."""
        if not self.directory.is_dir():
            return []
        self._manager.reload()
        return sorted(self._manager.all_steps())

    def save(
        self, step: int, state: PyTree | Snapshot, before_save: Callable[[], None] = lambda: None
    ) -> None:
        """Starts to save a state, unless its step already has a checkpoint.

        Waits for a pending save first, so that at most one snapshot is held.

        Args:
          step: number of completed steps.
          state: tree of arrays, or a snapshot of it.
          before_save: called before the save begins, in the same thread.

        Raises:
          DivergedError: the state of the previous save held a NaN or an infinity and was not saved.
          CheckpointError: the previous save failed, for example because the disk is full.
          UserError: `before_save` of the previous save raised it.
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
            self._save(step, snapshot)
            with self._as_checkpoint_error():
                self._manager.wait_until_finished()

        self._wait_for_thread()
        self._pending_save = self._thread.submit(save)

    def _save(self, step: int, snapshot: Snapshot) -> None:
        if step in self._manager.all_steps():
            return
        state = snapshot.fetch()
        for path, leaf in jax.tree_util.tree_leaves_with_path(state):
            if not np.all(np.isfinite(leaf)):
                raise DivergedError(f"{jax.tree_util.keystr(path)} is not finite at step {step}")
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state), digest=ocp.args.JsonSave({"sha256": digest(state)})
        )
        with self._as_checkpoint_error():
            self._manager.save(step, args=items)

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
            self._manager.check_for_errors()

    def wait(self) -> None:
        """Waits until all saves are on disk.

        Raises:
          UserError: a save failed; `save` lists the errors.
        """
        self._wait_for_thread()
        with self._as_checkpoint_error():
            self._manager.wait_until_finished()
        self.check()

    def restore(self, template: Template, log: Callable[[str], None]) -> Template | None:
        """Restores the newest valid checkpoint.

        Newer, damaged checkpoints are moved to `checkpoints_damaged/`, unless the directory is open
        read-only.

        Args:
          template: state with the expected shapes and dtypes (arrays or `jax.ShapeDtypeStruct`s).
          log: receives one line for each damaged checkpoint.

        Returns:
          The state with NumPy arrays as leaves, or None if there is no checkpoint.

        Raises:
          CheckpointError: there are checkpoints, but none can be read.
        """
        zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), template)
        damaged = []
        for step in reversed(self.steps()):
            reason = ""
            try:
                state = self._read(step, zeros)
            except MemoryError:
                raise
            except Exception as error:  # Orbax raises many types for damaged files
                self._read_failed = True
                reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            # All processes must restore the same checkpoint.
            if max_over_processes(bool(reason)):
                damaged.append((step, reason or "another process cannot read it"))
                continue
            for damaged_step, reason in damaged:
                log(
                    f"checkpoint {damaged_step} is damaged ({reason}); "
                    f"falling back to checkpoint {step}"
                )
                self._move_damaged(damaged_step)
            return state
        if damaged:
            step, reason = damaged[0]
            raise CheckpointError(
                f"none of the {len(damaged)} checkpoints in {self.directory} can be read "
                f"(checkpoint {step}: {reason}); remove {self._workdir} to start over"
            )
        return None

    def _read(self, step: int, template: PyTree) -> PyTree:
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(template), digest=ocp.args.JsonRestore()
            ),
        )
        if digest(restored.state) != restored.digest["sha256"]:
            raise ValueError("its arrays do not match the digest saved with them")
        return restored.state

    def _move_damaged(self, step: int) -> None:
        if self._read_only:
            return
        if is_main_process():
            directory = self._workdir / DAMAGED_DIRECTORY
            directory.mkdir(exist_ok=True)
            # The number keeps checkpoints of the same step that were moved earlier.
            target = directory / f"{step}-{len(list(directory.iterdir()))}"
            shutil.move(self.directory / str(step), target)
        max_over_processes(0)  # the other processes wait for the move
        self._manager.reload()

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
        steps = self.steps()
        kept = f"checkpoint {steps[-1]} is kept" if steps else "there is no earlier checkpoint"
        # TensorStore puts the system's error code after many details.
        code = re.search(r"os_error_code='(\d+)'", str(error))
        reason = os.strerror(int(code[1])) if code else one_line(error, 300)
        return CheckpointError(
            f"could not save a checkpoint in {self.directory}: {reason}; {kept}; "
            "free disk space and rerun the same command"
        )


def digest(tree: PyTree) -> str:
    """Returns the SHA-256 of the paths, dtypes, shapes and values of a tree of NumPy arrays."""
    sha = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        leaf = np.ascontiguousarray(leaf)
        sha.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode())
        sha.update(leaf.tobytes())
    return sha.hexdigest()
