"""All that is known here of `jax.pmap`, which JAX keeps for older code only.

To drop it: remove this file, its uses in `flaxres/parallel/sharding.py`, and 'pmap' from `PARALLELISMS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax


def pmap(
    function: Callable,
    axis: str,
    devices: Sequence[jax.Device],
    donated: tuple[int, ...],
    sharded: Any = False,
) -> Callable:
    """Maps `function(state, arrays, rows)` over devices that name themselves `axis`.

    Args:
      function: its result is equal on all devices; it comes back once, without an axis of devices.
      axis: the name by which collectives in `function` mean all devices.
      devices: those of all processes.
      donated: numbers of the arguments whose memory the result may take.
      sharded: which of `arrays` are split over the devices as `rows` are; a tree, or one for all.

    Returns:
      A function with `lower`, whose `rows` are (batches, devices, images of each).
    """
    axes = jax.tree.map(lambda own: 1 if own else None, sharded)
    return jax.pmap(
        function,
        axis_name=axis,
        in_axes=(None, axes, 1),
        out_axes=None,
        devices=devices,
        donate_argnums=donated,
    )
