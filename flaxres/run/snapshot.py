"""Copies of a train state on its device that a background thread fetches during training."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

PyTree = Any


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
