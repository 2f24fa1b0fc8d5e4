"""Dispatches to the devices: their number of steps, and the logs and checkpoints due after them."""

from __future__ import annotations

import math

from ml_collections import ConfigDict

from flaxres import cpu
from flaxres.memory_estimate import image_size, min_activation_bytes

# Default upper limit of `steps_per_dispatch` on accelerators: enough to hide the dispatch overhead.
MAX_STEPS_PER_DISPATCH = 100

# Dispatches whose streamed images wait on the devices.
PREFETCHED_DISPATCHES = 2
# On a CPU, waking up after every short step slows training down, so several dispatches are launched
# ahead. A stop request waits for all of them.
MAX_AHEAD = 4
# The images of a stream on a device belong to these dispatches: prefetched ones, one that waits for
# a place among them, one that runs, and those launched ahead.
MAX_DISPATCHES_ON_DEVICE = PREFETCHED_DISPATCHES + 2 + MAX_AHEAD

# On a CPU, the launch of a step takes about 1 ms, a tenth of the time of a step whose first layer
# has fewer bytes of outputs. Such steps are launched while the previous one runs.
SMALL_STEP_BYTES = 2 * 2**20


def choose_execution(config: ConfigDict) -> None:
    """Makes training steps on a CPU asynchronous if they are small. JAX must not have started yet.

    Args:
      config: a checked config. Steps count as large if it does not tell the size of the images.
    """
    batch_bytes = config.num_replicas * config.batch_size * min_activation_bytes(config)
    cpu.execute_asynchronously(image_size(config) > 0 and batch_bytes < SMALL_STEP_BYTES)


def steps_per_dispatch(config: ConfigDict, platform: str, streamed_bytes: int = 0) -> int:
    """Returns the number of steps in one dispatch.

    It divides the periods of logs, evaluations and checkpoints, so that they fall between
    dispatches. On a CPU the default is 1, because XLA runs convolutions inside loops many times
    slower there. Elsewhere the default for a stream keeps the images on a device below
    `dataset.stream_gib`.

    Args:
      config: config of the run.
      platform: platform of the devices, such as 'cpu', 'gpu' or 'tpu'.
      streamed_bytes: bytes of the images of one step on one device, if they are streamed.
    """
    default = 1 if platform == "cpu" else MAX_STEPS_PER_DISPATCH
    if streamed_bytes:
        dispatch_bytes = config.dataset.stream_gib * 2**30 / MAX_DISPATCHES_ON_DEVICE
        default = max(1, min(default, int(dispatch_bytes / streamed_bytes)))
    max_steps = config.steps_per_dispatch or default
    periods = (config.log_every, config.eval_every, config.checkpoint_every)
    # A `log_layers_every` of 0 means never; gcd(n, 0) is n.
    common = math.gcd(*periods, config.log_layers_every)
    small = [n for n in range(1, math.isqrt(common) + 1) if common % n == 0]
    divisors = (*small, *(common // n for n in small))
    return max(n for n in divisors if n <= max_steps)


def next_dispatch_size(step: int, max_steps: int, num_steps: int) -> int:
    """Returns the number of steps in the dispatch after `step`.

    The dispatch ends at the next multiple of `max_steps`, or at the last step of the run.

    Args:
      step: number of steps done.
      max_steps: maximum number of steps in a dispatch.
      num_steps: number of steps of the run.
    """
    return min(max_steps - step % max_steps, num_steps - step)


def due(config: ConfigDict, step: int) -> tuple[bool, bool, bool]:
    """Returns what is due after `step` steps: (log, evaluate, save). The last step has all."""
    is_last = step == config.num_steps
    periods = (config.log_every, config.eval_every, config.checkpoint_every)
    log, evaluate, save = (is_last or step % period == 0 for period in periods)
    return log, evaluate, save


def is_layer_log_due(config: ConfigDict, step: int) -> bool:
    """Returns True if layer statistics are due after `step` steps."""
    period = config.log_layers_every
    return period > 0 and (step % period == 0 or step == config.num_steps)
