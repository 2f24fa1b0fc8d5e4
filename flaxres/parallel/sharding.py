"""Sharded train and evaluation steps over devices, compiled by jit over a mesh or by pmap.

Batches are sharded over the devices of a run; everything else is replicated on every device. The
step functions are written for one device and name the axis `AXIS` in their collectives.
`config.parallelism` selects the compiler.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int32, Shaped

from flaxres import cpu
from flaxres.cpu.processor import available_cores, processor_model
from flaxres.errors import ConfigError, counted
from flaxres.parallel import pmap
from flaxres.platforms import tracing_for

PyTree = Any

AXIS = "data"
BATCH_SHARDED = PartitionSpec(None, AXIS)  # for arrays of shape (batches, batch_size, ...)
REPLICATED = PartitionSpec()

# (state, arrays, rows) -> tree.
# rows: int32 (batches, batch_size), indices of the images in `arrays`.
StepFunction = Callable[[PyTree, PyTree, Any], PyTree]


@dataclasses.dataclass(frozen=True)
class CompiledStep:
    """A compiled step function, called as `step(state, arrays, rows)`.

    Attributes:
      call: launches the step; `rows` are the batches of all processes as a NumPy array.
      executable: JAX's compiled function.
    """

    call: StepFunction
    executable: jax.stages.Compiled

    def __call__(self, state: PyTree, arrays: PyTree, rows: Any) -> PyTree:
        """Launches the step; the result may be pending."""
        return self.call(state, arrays, rows)

    def cost(self) -> dict[str, float]:
        """Returns XLA's cost analysis, such as 'flops' and 'bytes accessed'; {} if it has none."""
        return dict(self.executable.cost_analysis() or {})

    def temporary_bytes(self) -> int:
        """Returns the bytes of the arrays that exist only during a call; 0 if XLA cannot tell."""
        memory = self.executable.memory_analysis()
        return 0 if memory is None else memory.temp_size_in_bytes


def device_name() -> str:
    """Returns the kind of the accelerator, or the processor model and its available cores."""
    kind = jax.devices()[0].device_kind
    if kind != "cpu":
        return kind
    num_cores = len(available_cores())
    return f"{processor_model()}, {counted(num_cores, 'core')}"


def select_devices(num_devices: int) -> list[jax.Device]:
    """Returns the first devices of each process of the run.

    Args:
      num_devices: number of devices in each process; 0 for all of them.

    Raises:
      ConfigError: this process has fewer devices.
    """
    local_devices = jax.local_devices()
    num_local, platform = len(local_devices), local_devices[0].platform.upper()
    if num_devices > num_local:
        raise ConfigError(
            f"num_devices must be at most {num_local} (this process has "
            f"{counted(num_local, f'{platform} device')}), got {num_devices}"
        )
    by_process: dict[int, list[jax.Device]] = {}
    for device in jax.devices():
        by_process.setdefault(device.process_index, []).append(device)
    return [
        device
        for process_devices in by_process.values()
        for device in process_devices[: num_devices or len(process_devices)]
    ]


class Devices:
    """The devices that train one model, across all processes.

    The devices may come from a topology description (`jax.experimental.topologies`) instead of this
    machine; `lower`, `compile` and the methods that return shape structs accept them.

    Attributes:
      num_devices: number of devices in all processes.
      platform: platform of the devices, such as 'cpu', 'gpu' or 'tpu'.
      process_shard: (index, count) of the slice of each batch that this process loads.
      synchronous: if True, each call blocks until its result is ready.
    """

    def __init__(self, devices: Sequence[jax.Device], parallelism: str = "jit"):
        """Builds a mesh of devices.

        Args:
          devices: devices, grouped by process, with the same number in each process.
          parallelism: 'jit' or 'pmap'.
        """
        self._devices = list(devices)
        self.num_devices = len(self._devices)
        self.platform = self._devices[0].platform
        processes = list(dict.fromkeys(device.process_index for device in devices))
        self.process_shard = processes.index(jax.process_index()), len(processes)
        self._pmap = parallelism == "pmap"
        self._mesh = Mesh(np.array(self._devices), (AXIS,))
        self._replicated = NamedSharding(self._mesh, REPLICATED)
        self._batch_sharded = NamedSharding(self._mesh, BATCH_SHARDED)
        # With few threads, executions that wait for one another on a CPU can deadlock.
        self.synchronous = self.num_devices > 1 and self.platform == "cpu"

    def check_batch_size(self, batch_size: int) -> None:
        """Checks that the batch size is a multiple of the number of devices.

        Raises:
          ConfigError: it is not.
        """
        if batch_size % self.num_devices:
            raise ConfigError(
                f"batch_size must be a multiple of the {self.num_devices} devices, got "
                f"{batch_size:,}; change batch_size or set num_devices"
            )

    @property
    def can_lower_shapes(self) -> bool:
        """True if `lower` accepts shape structs; pmap over several processes needs arrays."""
        return not self._pmap or self.process_shard[1] == 1

    def replicate(self, tree: PyTree) -> PyTree:
        """Replicates a tree of arrays on every device.

        Args:
          tree: arrays, equal in all processes.
        """
        host = jax.tree.map(np.asarray, jax.device_get(tree))
        return jax.tree.map(
            lambda leaf: jax.make_array_from_process_local_data(self._replicated, leaf, leaf.shape),
            host,
        )

    def replicated_structs(self, tree: PyTree) -> PyTree:
        """Returns shape structs of the result of `replicate`.

        Args:
          tree: arrays or shape structs.
        """
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self._replicated),
            tree,
        )

    def put_batches(
        self, array: Shaped[np.ndarray, "batches process_batch ..."]
    ) -> Shaped[Array, "batches ..."]:
        """Shards batches over the devices.

        Args:
          array: this process's slice of the batches; must not be modified afterwards.

        Returns:
          The batches of all processes, as a function lowered with `sharded=True` expects them.
        """
        shape = self._global_shape(array.shape)
        local_shape = (len(array), shape[1] // self.process_shard[1], *shape[2:])
        return jax.make_array_from_process_local_data(
            self._batch_sharded, array.reshape(local_shape), shape
        )

    def batches_struct(
        self, shape: tuple[int, ...], dtype: np.dtype | type[np.generic]
    ) -> jax.ShapeDtypeStruct:
        """Returns the shape struct of the result of `put_batches`.

        Args:
          shape: (batches, process_batch, ...), shape of the array in this process.
          dtype: dtype of the array.
        """
        return jax.ShapeDtypeStruct(self._global_shape(shape), dtype, sharding=self._batch_sharded)

    def _global_shape(self, local_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the shape of all processes' batches; pmap needs an axis for the devices."""
        batches, process_batch, *rest = local_shape
        batch_size = process_batch * self.process_shard[1]
        if self._pmap:
            return (batches, self.num_devices, batch_size // self.num_devices, *rest)
        return (batches, batch_size, *rest)

    def lower(
        self,
        function: StepFunction,
        state: PyTree,
        arrays: PyTree,
        rows: Int32[np.ndarray, "*replicas batches batch_size"],
        donate: bool = False,
        sharded: PyTree = False,
    ) -> jax.stages.Lowered:
        """Traces and lowers `function(state, arrays, rows)` for all devices.

        Args:
          function: step function for one device, whose result is equal on all devices.
          state: train state, or shape structs of it.
          arrays: arrays, or shape structs of them.
          rows: batches of all processes; only their shape matters.
          donate: if True, the result may reuse the buffers of the state.
          sharded: tree with the structure of `arrays`, or one value for all of them. True marks
            arrays that are sharded over the devices (`put_batches`); the others are replicated.
        """
        donated = (0,) if donate else ()
        mapped: Any
        if self._pmap:
            mapped = pmap.pmap(function, AXIS, self._devices, donated, sharded)
        else:
            array_specs = jax.tree.map(
                lambda is_sharded: BATCH_SHARDED if is_sharded else REPLICATED, sharded
            )
            # check_vma=False keeps gradients per device, as with pmap.
            shard = jax.shard_map(
                function,
                mesh=self._mesh,
                in_specs=(REPLICATED, array_specs, BATCH_SHARDED),
                out_specs=REPLICATED,
                check_vma=False,
            )
            mapped = jax.jit(shard, donate_argnums=donated)
        device_rows: Any
        if self.can_lower_shapes:
            device_rows = jax.ShapeDtypeStruct(
                self._rows_shape(rows.shape), rows.dtype, sharding=self._batch_sharded
            )
        else:
            device_rows = self._put_rows(rows)
        with tracing_for(self.platform):
            return mapped.lower(state, arrays, device_rows)

    def compile(self, lowered: jax.stages.Lowered) -> CompiledStep:
        """Compiles the result of `lower`.

        Returns:
          The compiled function. Its `rows` are the batches of all processes as a NumPy array; each
          process puts only its own shard on its devices.
        """
        compiled = lowered.compile()
        cpu.release_free_memory()  # memory freed by the compiler

        def call(
            state: PyTree, arrays: PyTree, rows: Int32[np.ndarray, "*replicas batches batch_size"]
        ) -> PyTree:
            result = compiled(state, arrays, self._put_rows(rows))
            return jax.block_until_ready(result) if self.synchronous else result

        return CompiledStep(call, compiled)

    def _put_rows(
        self, rows: Int32[np.ndarray, "*replicas batches batch_size"]
    ) -> Int32[Array, " ..."]:
        """Puts this process's shard of the rows on its devices."""
        rows = rows.reshape(self._rows_shape(rows.shape))
        return jax.make_array_from_callback(rows.shape, self._batch_sharded, rows.__getitem__)

    def _rows_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the shape of rows on the devices; pmap needs an axis for the devices."""
        if self._pmap:
            return (shape[0], self.num_devices, math.prod(shape[1:]) // self.num_devices)
        return shape
