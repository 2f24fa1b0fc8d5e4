"""Lower bound on the memory of a run, checked against the machine and its devices.

A run that needs more is refused at once, with the field to lower, instead of ending after minutes
with an out-of-memory error. Only what every implementation has to store is counted, so a run that
would fit is never refused.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from flaxres.data.anonymous_memory import meminfo_bytes
from flaxres.data.digits import DIGITS_SHAPE
from flaxres.data.options import crops_on_host
from flaxres.errors import ConfigError
from flaxres.models.sizes import first_activations, min_params

FLOAT32_BYTES = 4
# Arrays of the parameters' size in the state of an optimizer: the momentum, or Adam's means.
OPTIMIZER_ARRAYS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("sgd", "lars"), ("momentum",)),
    **dict.fromkeys(("adamw", "lamb"), ("mean gradients", "mean squared gradients")),
}
# Private memory of a decode worker; a real worker uses several times as much.
WORKER_BYTES = 4 * 2**20
# Typical values of the fields that determine memory. An error names the field that exceeds its
# typical value most.
TYPICAL_VALUES: Mapping[str, float] = {
    "batch_size": 256,
    "steps_per_dispatch": 10,
    "num_replicas": 4,
    "dataset.image_size": 224,
    "model.depth": 200,
    "model.widths": 512,
    "model.hidden": 4096,
    "model.growth_rate": 48,
    "model.groups": 32,
    "model.group_width": 64,
    "dataset.prefetch": 16,
}


class Memory(NamedTuple):
    """Memory of the machine or of its local devices.

    Attributes:
      size: total size in bytes.
      num_devices: number of devices that have this memory together.
      is_host: True for the memory of the machine, including its swap space.
    """

    size: int
    num_devices: int = 1
    is_host: bool = False

    def __str__(self) -> str:
        """Returns a clause for an error message, such as 'the device has 80 GiB'."""
        if self.is_host:
            return f"this machine has {_gib(self.size)} GiB, swap included"
        owner = "device has" if self.num_devices == 1 else f"{self.num_devices} devices have"
        return f"the {owner} {_gib(self.size)} GiB"


def check_memory(config: ConfigDict, train: bool = True) -> None:
    """Checks that a run can fit into the memory of this machine and its devices.

    Call it where the run is executed, after the processes of the run are connected.

    Args:
      config: a config that `flaxres.config.check_config` has checked.
      train: True for training, False if only the model is used.

    Raises:
      ConfigError: the run needs more memory than is available.
    """
    host = Memory(host_memory(), is_host=True)
    device, num_devices = device_memory()
    params = min_params(config.model, image_size(config))
    copies = _param_copies(config, train)
    _require_memory(
        config,
        config.num_replicas * params * len(copies) * FLOAT32_BYTES,
        device,
        copies[0] if len(copies) == 1 else f"{', '.join(copies[:-1])} and {copies[-1]}",
        ("num_replicas", *(field for field in TYPICAL_VALUES if field.startswith("model."))),
    )
    if not train:
        return
    local_batch = -(-config.batch_size // jax.process_count())
    bytes_per_image = min_activation_bytes(config)
    images_at_a_time = local_batch // config.accumulation_steps
    batch = "batch" if config.accumulation_steps == 1 else "micro-batch"
    _require_memory(
        config,
        images_at_a_time * bytes_per_image,
        device._replace(size=device.size * num_devices, num_devices=num_devices),
        f"the first layer's outputs for one {batch}",
        ("batch_size", "dataset.image_size", "model.widths", "model.growth_rate"),
    )
    if config.dataset.placement == "stream" or crops_on_host(config):
        num_images = min(config.dataset.prefetch, config.num_steps) * local_batch
        decoded = num_images * max(1, image_size(config)) ** 2
        _require_memory(
            config, decoded, host, "decoded batches", ("dataset.prefetch", "batch_size")
        )
        workers = min(config.dataset.workers, num_images) * WORKER_BYTES
        _require_memory(config, workers, host, "decode worker processes", ("dataset.workers",))


def _param_copies(config: ConfigDict, train: bool) -> list[str]:
    """Returns the names of the arrays of the parameters' size that a run stores at a time."""
    if not train:
        return ["parameters"]
    optional = {
        "average": config.ema_decay > 0,
        "summed gradients": config.accumulation_steps > 1,
        "perturbed parameters": config.sam_radius > 0,
    }
    stored = [name for name, is_stored in optional.items() if is_stored]
    return ["parameters", *OPTIMIZER_ARRAYS[config.optimizer], *stored]


def check_dispatch_memory(config: ConfigDict, dispatch_bytes: int) -> None:
    """Checks that a device can hold the indices and streamed images of two dispatches.

    While the steps of one dispatch run, those of the next are put on the devices.

    Args:
      config: config of the run.
      dispatch_bytes: bytes of the indices and streamed images of one dispatch on one device.

    Raises:
      ConfigError: they need more memory than a device has.
    """
    fields = ("steps_per_dispatch", "batch_size", "dataset.image_size")
    device, _ = device_memory()
    _require_memory(config, 2 * dispatch_bytes, device, "the inputs of two dispatches", fields)


def check_crop_memory(config: ConfigDict, size: int, requested_by: str) -> None:
    """Checks that a device can hold the first layer's outputs for one test-time crop.

    Args:
      config: config of the model.
      size: smaller side of the crop, in pixels.
      requested_by: the option that sets the size, for the message.

    Raises:
      ConfigError: the outputs need more memory than a device has.
    """
    needed, (device, _) = _activation_bytes(config, size), device_memory()
    if needed > device.size:
        raise ConfigError(
            f"{requested_by} needs at least {_gib(needed)} GiB of memory for one image, and "
            f"{device}; choose a smaller size"
        )


def image_size(config: ConfigDict) -> int:
    """Returns the side length of the input images, in pixels; 0 if it is not set."""
    if config.dataset.image_size == 0 and config.dataset.name == "digits":
        return DIGITS_SHAPE[0]
    return config.dataset.image_size


def min_activation_bytes(config: ConfigDict) -> int:
    """Returns a lower bound on the bytes of the first layer's outputs for one image."""
    return _activation_bytes(config, max(1, image_size(config)))


def _activation_bytes(config: ConfigDict, size: int) -> int:
    itemsize = 2 if config.dtype == "bfloat16" else FLOAT32_BYTES
    return itemsize * first_activations(config.model, size)


def host_memory() -> int:
    """Returns the bytes of this machine's memory, including its swap space."""
    size = meminfo_bytes("MemTotal", "SwapTotal")
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if size is None else size


def device_memory() -> tuple[Memory, int]:
    """Returns the memory of one local device, and the number of local devices.

    The virtual devices of a CPU share the memory of the machine and count as one.
    """
    devices = jax.local_devices()
    limits = [(device.memory_stats() or {}).get("bytes_limit") for device in devices]
    known = [limit for limit in limits if limit]
    if devices[0].platform == "cpu" or not known:
        return Memory(host_memory(), is_host=True), 1
    return Memory(max(known)), len(known)


def _require_memory(
    config: ConfigDict, needed: int, available: Memory, purpose: str, fields: tuple[str, ...]
) -> None:
    """Raises a ConfigError with the field to lower if `needed` bytes exceed `available`."""
    if needed <= available.size:
        return
    largest = {field: _largest(config, field) for field in fields}
    field = max(fields, key=lambda field: largest[field] / TYPICAL_VALUES.get(field, 1))
    is_tuple = isinstance(_value(config, field), tuple | list)
    given = f"{'; its largest value is' if is_tuple else ', which is'} {largest[field]:,}"
    raise ConfigError(
        f"the run needs at least {_gib(needed)} GiB of memory for {purpose}, and "
        f"{available}; lower {field}{given}"
    )


def _largest(config: ConfigDict, field: str) -> int:
    """Returns the value of a field, or the largest element of a tuple; 0 for an empty tuple."""
    value = _value(config, field)
    return max(value, default=0) if isinstance(value, tuple | list) else value


def _value(config: ConfigDict, field: str) -> Any:
    group, _, name = field.rpartition(".")
    return (config[group] if group else config)[name]


def _gib(size: int) -> str:
    return f"{size / 2**30:,.0f}" if size >= 2**30 else f"{size / 2**30:.3f}"
