"""Checkpoints of the training state: asynchronous, verified, falling back to the one before."""

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
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from flaxres.errors import CheckpointError, DivergedError, UserError, one_line
from flaxres.parallel.multihost import is_main_process, max_over_processes, raise_on_all_processes

PyTree = Any
CHECKPOINTS_DIRECTORY = "checkpoints"  # directories named by their step, in Orbax's format
DAMAGED_DIRECTORY = "checkpoints_damaged"  # where those that cannot be read are moved


class Snapshot:
    """A copy of a state on its device, of which the next step may donate the buffers.

    The copy is only launched: it is made when the device has computed the state. It takes the
    device's memory once more until it has been fetched.
    """

    def __init__(self, state: PyTree):
        """Copies `state`, a tree of arrays that are equal on all devices, on one of them."""
        self._state = _copy(jax.tree.map(_on_one_device, state))

    def fetch(self) -> PyTree:
        """The state as numpy arrays; waits until it is computed."""
        return jax.device_get(self._state)


@jax.jit
def _copy(tree: PyTree) -> PyTree:
    return jax.tree.map(jnp.copy, tree)


def _on_one_device(leaf: Any) -> Any:
    if isinstance(leaf, jax.Array) and len(leaf.sharding.device_set) > 1:
        return leaf.addressable_data(0)
    return leaf


def _step_aside() -> None:
    """Has this thread, and those that it starts, take turns on a CPU after those of the steps.

    Only a little: it would else be kept from going on in the middle of Python code, which the main
    thread then waits for. Systems other than Linux know no priority of a thread.
    """
    if sys.platform == "linux":
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + 5)


class Checkpoints:
    """The checkpoints of one working directory.

    A save copies the state on its device and leaves all else to a background thread: the fetch to
    the host, the check for NaNs, a digest, which shows damage that the file format itself does not
    notice, and the files. So a step may donate the state's buffers at once, and checkpoints do not
    depend on how many devices wrote them. What fails there is raised by the next call of `check`,
    `save` or `wait`. Several processes, which wait for one another during a save, keep to their
    main threads, where only the files are written in the background.
    """

    def __init__(self, workdir: Path, keep: int | None = None):
        """Opens `workdir`; keeps the `keep` newest checkpoints (None: all, for reading only)."""
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
        self._thread = ThreadPoolExecutor(1, "checkpoint", initializer=_step_aside)
        self._saving: Future[None] | None = None
        self._read_failed = False

    def __enter__(self) -> Checkpoints:
        self._unraisablehook = sys.unraisablehook
        sys.unraisablehook = self._without_noise
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        try:
            self._thread.shutdown()  # waits for a save that is still going on
            with contextlib.suppress(Exception) if kind else self._failing():
                self._manager.close()
                self.check()
        finally:
            if kind is not None or self._read_failed:
                time.sleep(0.5)  # for reads and writes that a failure left under way
            sys.unraisablehook = self._unraisablehook

    def _without_noise(self, unraisable: sys.UnraisableHookArgs) -> None:
        """Keeps one failed array from printing a traceback for each other one under way.

        Orbax closes its event loop when it cannot read or write an array, and tensorstore's threads
        then fail to report the rest to it. They say nothing that the first error does not.
        """
        if str(unraisable.exc_value) != "Event loop is closed":
            self._unraisablehook(unraisable)

    def steps(self) -> list[int]:
        """Steps of all complete checkpoints, rising."""
        if not self.directory.is_dir():
            return []
        self._manager.reload()
        return sorted(self._manager.all_steps())

    def save(
        self, step: int, state: PyTree | Snapshot, before_save: Callable[[], None] = lambda: None
    ) -> None:
        """Starts to save `state` as the checkpoint of `step`, unless there is one.

        A save that is still under way is waited for: no more than one snapshot is ever kept.

        Args:
          step: steps done.
          state: arrays, or the snapshot of them that was taken when they were there.
          before_save: called before the save begins, in the same thread.

        Raises:
          DivergedError: the state of the save before held a NaN or an infinity; nothing was saved.
          CheckpointError: the save before failed, for example on a full disk.
          UserError: whatever its `first` raised.
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
            with self._failing():
                self._manager.wait_until_finished()

        self._wait_for_thread()
        self._saving = self._thread.submit(save)

    def _save(self, step: int, snapshot: Snapshot) -> None:
        if step in self._manager.all_steps():
            return
        host = snapshot.fetch()
        for path, leaf in jax.tree_util.tree_leaves_with_path(host):
            if not np.all(np.isfinite(leaf)):
                raise DivergedError(f"{jax.tree_util.keystr(path)} is not finite at step {step}")
        arguments = ocp.args.Composite(
            state=ocp.args.StandardSave(host), digest=ocp.args.JsonSave({"sha256": digest(host)})
        )
        with self._failing():
            self._manager.save(step, args=arguments)

    def _wait_for_thread(self) -> None:
        """Raises what went wrong in it, once."""
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.result()

    def check(self) -> None:
        """Raises what went wrong with a save that was started, see `save`; waits for none."""
        if self._saving is not None and not self._saving.done():
            return
        self._wait_for_thread()
        with self._failing():
            self._manager.check_for_errors()

    def wait(self) -> None:
        """Returns when all saves are on disk.

        Raises:
          UserError: one of them failed, see `save`.
        """
        self._wait_for_thread()
        with self._failing():
            self._manager.wait_until_finished()
        self.check()

    def restore(self, like: PyTree, log: Callable[[str], None]) -> PyTree | None:
        """Reads the newest checkpoint that is whole.

        Damaged ones that are newer are moved to `checkpoints_damaged/`, unless opened for reading.

        Args:
          like: a state of the shapes and dtypes to expect (arrays or `jax.ShapeDtypeStruct`s).
          say: told in one line about each damaged checkpoint.

        Returns:
          The state with numpy arrays as leaves, or None if there is no checkpoint.

        Raises:
          CheckpointError: there are checkpoints, but none can be read.
        """
        like = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like)
        damaged = []
        for step in reversed(self.steps()):
            reason = ""
            try:
                state = self._read(step, like)
            except MemoryError:
                raise
            except Exception as error:  # Orbax raises many kinds for damaged files
                self._read_failed = True
                reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            if max_over_processes(bool(reason)):  # all processes go back, or none
                damaged.append((step, reason or "another process cannot read it"))
                continue
            for bad, reason in damaged:
                log(f"checkpoint {bad} is damaged ({reason}); going back to checkpoint {step}")
                self._set_aside(bad)
            return state
        if damaged:
            step, reason = damaged[0]
            raise CheckpointError(
                f"none of the {len(damaged)} checkpoints in {self.directory} can be read "
                f"(checkpoint {step}: {reason}); remove {self._workdir} to begin again"
            )
        return None

    def _read(self, step: int, like: PyTree) -> PyTree:
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(like), digest=ocp.args.JsonRestore()
            ),
        )
        if digest(restored.state) != restored.digest["sha256"]:
            raise ValueError("its arrays do not match the digest saved with them")
        return restored.state

    def _set_aside(self, step: int) -> None:
        if self._read_only:
            return
        if is_main_process():
            directory = self._workdir / DAMAGED_DIRECTORY
            directory.mkdir(exist_ok=True)
            # Those of an earlier accident stay as they are.
            target = directory / f"{step}-{len(list(directory.iterdir()))}"
            shutil.move(self.directory / str(step), target)
        max_over_processes(0)  # the others wait until it is away
        self._manager.reload()

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        """Context in which what goes wrong is a CheckpointError, if it is no UserError already."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # Orbax raises many kinds
            raise self._save_error(error) from error

    def _save_error(self, error: Exception) -> CheckpointError:
        steps = self.steps()
        kept = f"checkpoint {steps[-1]} is kept" if steps else "there is no earlier checkpoint"
        system = re.search(
            r"os_error_code='(\d+)'", str(error)
        )  # tensorstore's, after a lot of detail
        reason = os.strerror(int(system[1])) if system else one_line(error, 300)
        return CheckpointError(
            f"could not save a checkpoint in {self.directory}: {reason}; {kept}; "
            "make room and run the same command again"
        )


def digest(tree: PyTree) -> str:
    """SHA-256 of the paths, dtypes, shapes and values of a tree of numpy arrays."""
    sha = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        leaf = np.ascontiguousarray(leaf)
        sha.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode())
        sha.update(leaf.tobytes())
    return sha.hexdigest()
