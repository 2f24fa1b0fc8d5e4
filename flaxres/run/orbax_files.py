"""Checkpoints in Orbax's format: one directory for each step, with a digest of the arrays.

Orbax is imported only when a checkpoint is read or saved, because the import takes as long as ten
train steps of a small model.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from flaxres.errors import one_line
from flaxres.run.checkpoint_files import (
    CHECKPOINTS_DIRECTORY,
    DESCRIPTOR_PATHS,
    has_descriptor_paths,
)
from flaxres.run.orbax_logs import closed_event_loops_ignored, logs_disabled

if TYPE_CHECKING:
    import orbax.checkpoint as ocp

PyTree = Any


class OrbaxFiles:
    """Orbax's manager of the checkpoints of a workdir, created when it is first used."""

    def __init__(self, workdir: Path, keep: int | None):
        """Prepares to read, and with `keep` to write checkpoints.

        Args:
          workdir: directory of the run.
          keep: number of newest checkpoints to keep. With None, the directory is opened read-only.
        """
        self._workdir = workdir.absolute()
        self._keep = keep
        self._stack = contextlib.ExitStack()
        self._read_failed = False

    @functools.cached_property
    def manager(self) -> ocp.CheckpointManager:
        """Orbax's manager; its creation removes saves that were not completed."""
        import orbax.checkpoint as ocp

        options = ocp.CheckpointManagerOptions(
            max_to_keep=self._keep,
            read_only=self._keep is None,
            create=False,
            cleanup_tmp_directories=self._keep is not None,
        )
        self._stack.enter_context(closed_event_loops_ignored)
        with logs_disabled():
            return ocp.CheckpointManager(self._path / CHECKPOINTS_DIRECTORY, options=options)

    @functools.cached_property
    def _path(self) -> Path:
        """A path of the workdir for Orbax, which also stays valid if the workdir is renamed."""
        if not has_descriptor_paths():
            return self._workdir
        descriptor = os.open(self._workdir, os.O_RDONLY | os.O_DIRECTORY)
        self._stack.callback(os.close, descriptor)
        return Path(DESCRIPTOR_PATHS) / str(descriptor)

    def save(self, step: int, state: PyTree) -> None:
        """Starts to write a checkpoint. Orbax raises many types of errors.

        Raises:
          ValueError: there is a checkpoint of a later step, so Orbax would not keep this one.
        """
        import orbax.checkpoint as ocp

        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state), digest=ocp.args.JsonSave({"sha256": digest(state)})
        )
        with logs_disabled():
            is_saved = self.manager.save(step, args=items)
        if not is_saved:
            raise ValueError("there is a checkpoint of a later step")

    def read(self, step: int, template: PyTree) -> PyTree:
        """Reads a checkpoint, and checks it with its digest. Orbax raises many types of errors.

        Args:
          step: its step.
          template: state with the expected shapes and dtypes (arrays or `jax.ShapeDtypeStruct`s).

        Raises:
          ValueError: the arrays are not those that were saved, or those of another step.
        """
        import orbax.checkpoint as ocp

        zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), template)
        try:
            items = ocp.args.Composite(
                state=ocp.args.StandardRestore(zeros), digest=ocp.args.JsonRestore()
            )
            with logs_disabled():
                restored = self.manager.restore(step, args=items)
            if digest(restored.state) != restored.digest["sha256"]:
                raise ValueError("its arrays do not match the digest saved with them")
            saved_step = getattr(restored.state, "step", step)
            if np.max(saved_step) != step:
                raise ValueError(f"it holds the state of step {np.max(saved_step)}")
        except Exception:
            self._read_failed = True
            raise
        return restored.state

    def explain(self, error: Exception, max_length: int = 200) -> str:
        """Returns one line that says why a file of a checkpoint could not be read or written."""
        # TensorStore puts the system's error code after many details.
        if code := re.search(r"os_error_code='(\d+)'", str(error)):
            return os.strerror(int(code[1]))
        if isinstance(error, OSError) and error.strerror:
            return error.strerror
        text = one_line(error, None).replace(str(self._path), str(self._workdir))
        return text if len(text) <= max_length else text[:max_length] + "..."

    def close(self, failed: bool) -> None:
        """Waits until all is written and releases the manager.

        Args:
          failed: True if a save failed, so that its writes may still be in progress.
        """
        try:
            if "manager" in vars(self):
                with logs_disabled():
                    self.manager.close()
        finally:
            if failed or self._read_failed:
                time.sleep(0.5)  # a failure leaves reads and writes in progress
            self._stack.close()


def digest(tree: PyTree) -> str:
    """Returns the SHA-256 of the paths, dtypes, shapes and values of a tree of NumPy arrays."""
    sha = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        leaf = np.ascontiguousarray(leaf)
        sha.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode())
        sha.update(leaf.tobytes())
    return sha.hexdigest()
