"""How a step runs on many devices: each batch is split over them, all else is on each of them.

The steps are written for one device and name the axis `AXIS` where devices exchange values.
`parallelism` chooses what compiles them: jit over a mesh, or pmap (`flaxres.parallel.pmap`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from flaxres.cpu.processor import available_cores, processor_model
from flaxres.errors import ConfigError
from flaxres.parallel import pmap

PyTree = Any
AXIS = "data"
ROWS = PartitionSpec(None, AXIS)  # (batches, batch_size): each device has its part of every batch
EVERYWHERE = PartitionSpec()

# On a CPU, XLA takes the memory of a call when it is launched, not when it begins. A call that
# needs more than so many bytes waits for the one before; and one that needs very many a part of its
# time more, as memory is given back just after the results are there.
LARGE = 64 * 2**20
VERY_LARGE = 512 * 2**20
SETTLE = 0.01

# (state, arrays, rows) -> tree, where rows is int32 (batches, batch_size).
StepFunction = Callable[[PyTree, PyTree, Any], PyTree]


def device_name() -> str:
    """The accelerator's kind, or the processor's model and the cores that it may use."""
    kind = jax.devices()[0].device_kind
    if kind != "cpu":
        return kind
    return f"{processor_model()}, {len(available_cores())} cores"


class Devices:
    """The devices of a run, those of other processes included.

    Attributes:
      num_devices: how many there are.
      process_shard: the part of each batch that is this process's, (number, of how many).
      synchronous: each call waits for its result, so nothing is launched ahead.
    """

    def __init__(self, config: ConfigDict):
        """Takes the first `config.num_devices` devices of each process; all of them if it is 0.

        Raises:
          ConfigError: there are fewer, or they cannot share a batch evenly.
        """
        here, wanted = jax.local_device_count(), config.num_devices
        if wanted > here:
            raise ConfigError(
                f"num_devices must be at most {here}, the {jax.default_backend()} devices "
                f"that JAX sees here, got {wanted}"
            )
        taken: dict[int, list[jax.Device]] = {}
        for device in jax.devices():
            taken.setdefault(device.process_index, []).append(device)
        self._devices = [d for own in taken.values() for d in own[: wanted or len(own)]]
        self.num_devices = len(self._devices)
        self.process_shard = list(taken).index(jax.process_index()), len(taken)
        if config.batch_size % self.num_devices:
            raise ConfigError(
                f"batch_size must be a multiple of {self.num_devices}, the devices that share a batch, "
                f"got {config.batch_size:,}; or choose num_devices"
            )
        self._pmap = config.parallelism == "pmap"
        self._mesh = Mesh(np.array(self._devices), (AXIS,))
        # Of the calls that need much memory: when the newest was launched, and one of its results.
        self._newest: tuple[float, jax.Array] | None = None
        # With few threads, executions that wait for one another on a CPU can lock each other out.
        self.synchronous = self.num_devices > 1 and self._devices[0].platform == "cpu"

    def replicate(self, tree: PyTree) -> PyTree:
        """Puts a tree of arrays, equal in all processes, on every device."""
        sharding = NamedSharding(self._mesh, EVERYWHERE)
        host = jax.tree.map(np.asarray, jax.device_get(tree))
        return jax.tree.map(
            lambda leaf: jax.make_array_from_process_local_data(sharding, leaf, leaf.shape), host
        )

    def put_batches(self, array: np.ndarray) -> jax.Array:
        """Puts batches on the devices, each device's part on it alone.

        Args:
          array: (batches, this process's images of each, ...); not to be changed afterwards.

        Returns:
          What a function takes that is compiled with `split` for it.
        """
        shape = self._batches_shape(array)
        own = (len(array), shape[1] // self.process_shard[1], *shape[2:])
        sharding = NamedSharding(self._mesh, ROWS)
        return jax.make_array_from_process_local_data(sharding, array.reshape(own), shape)

    def batches_shape_struct(self, shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
        """Shape and place of what `put_batches` makes of such an array, to compile for."""
        example = jax.ShapeDtypeStruct(shape, dtype)
        sharding = NamedSharding(self._mesh, ROWS)
        return jax.ShapeDtypeStruct(self._batches_shape(example), dtype, sharding=sharding)

    def _batches_shape(self, own: np.ndarray | jax.ShapeDtypeStruct) -> tuple[int, ...]:
        """Of the batches of all processes, where `own` are those of this one."""
        batches, images, *rest = own.shape
        images *= self.process_shard[1]
        return (
            batches,
            *((self.num_devices, images // self.num_devices) if self._pmap else (images,)),
            *rest,
        )

    def compile(
        self,
        function: StepFunction,
        *examples: PyTree,
        donate: bool = False,
        sharded: PyTree = False,
    ) -> StepFunction:
        """Compiles `function(state, arrays, rows)` for all devices.

        Args:
          function: returns a tree that is equal on all devices.
          examples: state, arrays and rows to compile it for; rows is a host array.
          donate: let the result take the memory of the state.
          sharded: which of `arrays` are split over the devices (`put_batches`), and not on each of
            them: a tree of the same form, or one for all.

        Returns:
          A function that takes `rows`, the whole batches, as a host array; each process puts only
          its own part on its devices.
        """
        donated = (0,) if donate else ()
        if self._pmap:
            mapped = pmap.pmap(function, AXIS, self._devices, donated, sharded)
        else:
            of_arrays = jax.tree.map(lambda own: ROWS if own else EVERYWHERE, sharded)
            specs = (EVERYWHERE, of_arrays, ROWS)
            # Without the check of varying values, gradients are per device here as under pmap.
            shard = jax.shard_map(
                function, mesh=self._mesh, in_specs=specs, out_specs=EVERYWHERE, check_vma=False
            )
            mapped = jax.jit(shard, donate_argnums=donated)
        state, arrays, rows = examples
        compiled = mapped.lower(state, arrays, self._split(rows)).compile()

        memory = compiled.memory_analysis() if self._devices[0].platform == "cpu" else None
        large = memory is not None and memory.temp_size_in_bytes > LARGE
        settle = SETTLE if large and memory.temp_size_in_bytes > VERY_LARGE else 0.0

        def call(state: PyTree, arrays: PyTree, rows: np.ndarray) -> PyTree:
            rows = self._split(rows)
            if large and self._newest is not None:
                launched, metric = self._newest
                jax.block_until_ready(metric)
                time.sleep(min(settle * (time.perf_counter() - launched), 1))
            result = compiled(state, arrays, rows)
            if large:
                # The last of the results is a metric, which no later call is given to overwrite.
                self._newest = time.perf_counter(), jax.tree.leaves(result)[-1]
            return jax.block_until_ready(result) if self.synchronous else result

        return call

    def _split(self, rows: np.ndarray) -> jax.Array:
        """Puts this process's part of the rows on its devices."""
        if self._pmap:  # it wants an axis of devices
            rows = rows.reshape(len(rows), self.num_devices, -1)
        sharding = NamedSharding(self._mesh, ROWS)
        return jax.make_array_from_callback(rows.shape, sharding, rows.__getitem__)
