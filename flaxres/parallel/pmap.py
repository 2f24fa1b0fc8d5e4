"""Wrapper of `jax.pmap`, which JAX keeps for older code only.

To drop pmap, remove this file, its uses in `flaxres/parallel/sharding.py`, and 'pmap' from
`PARALLELISMS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax

PyTree = Any


def pmap(
    function: Callable[..., Any],
    axis: str,
    devices: Sequence[jax.Device],
    donated: tuple[int, ...],
    sharded: PyTree = False,
) -> Any:
    """Maps `function(state, arrays, rows)` over devices.

    Args:
      function: returns a tree that is equal on all devices. The mapped function returns it once,
        without a device axis.
      axis: name of the device axis for collectives in `function`.
      devices: devices of all processes.
      donated: indices of the arguments whose buffers the result may reuse.
      sharded: tree with the structure of `arrays`, or one value for all of them. True marks arrays
        that are sharded over the devices as `rows` is; the others are replicated.

    Returns:
      The mapped function, with a method `lower` like functions of `jax.jit`. Its `rows` have the
      shape (batches, devices, device_batch).
    """
    axes = jax.tree.map(lambda is_sharded: 1 if is_sharded else None, sharded)
    return jax.pmap(
        function,
        axis_name=axis,
        in_axes=(None, axes, 1),
        out_axes=None,
        devices=devices,
        donate_argnums=donated,
    )
