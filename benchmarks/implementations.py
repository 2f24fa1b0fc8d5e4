"""flaxres and PyTorch as worker processes, measured in interleaved rounds.

`start_all` starts both frameworks in every dtype of --dtypes. PyTorch runs in every mode that its
users would try; all modes have channels last and the data on the device:

- eager: on a CPU only, because a CUDA graph is faster on a GPU,
- compiled: by torch.compile,
- graph-eager and graph-compiled: the whole step as a CUDA graph.

In bfloat16 PyTorch uses autocast, with float32 parameters. With the prefix 'cast-' the parameters
are bfloat16 too. For evaluation these modes are included. For training they are measured only if
--modes names them: updates of less than 1/256 of a bfloat16 parameter are lost.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from absl import flags

from benchmarks.process import Worker
from benchmarks.torch_cache import torch_environment
from benchmarks.torch_command import check_torch, torch_command
from flaxres import cli
from flaxres.cpu import runs_on_cpu
from flaxres.cpu.settings import MALLOC_TUNABLES
from flaxres.errors import ConfigError, UserError

DTYPE_NAMES = ("float32", "bfloat16")
MODELS = flags.DEFINE_list(
    "models",
    ["resnet-20", "resnet-56", "plain-56"],
    "Model names, such as plain-20, resnet-20, resnet-18 or wrn-16-4.",
)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Images per step.", lower_bound=1)
IMAGE_SIZE = flags.DEFINE_integer(
    "image_size", 32, "Height and width of the images, in pixels.", lower_bound=1
)
CHANNELS = flags.DEFINE_integer(
    "channels", 3, "Channels of the images; the digits have 1.", lower_bound=1
)
AUGMENT = flags.DEFINE_bool("augment", True, "Use random crops and flips.")
DTYPES = flags.DEFINE_list(
    "dtypes", list(DTYPE_NAMES), "Compute dtypes to measure, such as float32,bfloat16."
)
flags.DEFINE_alias("dtype", "dtypes")
AGAINST = flags.DEFINE_enum(
    "against", "torch", ["torch", "none"], "Framework to compare with: 'torch' or 'none'."
)
MODES = flags.DEFINE_list(
    "modes", None, "Modes of PyTorch, such as eager,compiled (default: all that the device has)."
)
TORCH_PYTHON = flags.DEFINE_string(
    "torch_python", sys.executable, "Python interpreter that has PyTorch (default: this one)."
)
ROUNDS = flags.DEFINE_integer(
    "rounds", 7, "Number of rounds; each measures every process.", lower_bound=1
)
SECONDS = flags.DEFINE_float(
    "seconds", 3.0, "Seconds of steps per round and process.", lower_bound=0
)
CHECK = flags.DEFINE_bool("check", True, "Compare the losses of the first steps.")
COLD = flags.DEFINE_bool("cold", True, "Also time a start with empty compilation caches.")
JSON = flags.DEFINE_string(
    "json", None, "File for the JSON result, e.g. result.json (default: print it)."
)

Task = Literal["training", "evaluation"]
# Images of a data set whose batches are drawn at random, and least number of images to evaluate.
TRAINING_IMAGES, EVALUATION_IMAGES = 5_000, 1_000
# Relative tolerance of the first loss, and of the losses after updates: rounding errors grow in
# deep plain networks.
TOLERANCES = {"float32": (1e-3, 3e-2), "bfloat16": (3e-2, 1e-1)}


@dataclasses.dataclass
class Implementation:
    """One of the implementations to compare.

    Attributes:
      framework: 'flaxres' or 'torch'.
      dtype: compute dtype.
      mode: mode of PyTorch; empty for flaxres.
      worker: the process that runs it.
      cold_start: seconds to the first step with empty caches; None if not measured.
      seconds: seconds per step in training and per image in evaluation, one entry for each round.
    """

    framework: str
    dtype: str
    mode: str
    worker: Worker
    cold_start: float | None = None
    seconds: list[float] = dataclasses.field(default_factory=list)

    @property
    def name(self) -> str:
        """Framework, dtype and mode, such as 'torch float32 eager'."""
        return " ".join(filter(None, (self.framework, self.dtype, self.mode)))

    def measure(self) -> None:
        """Runs steps for --seconds and appends to `seconds`."""
        timed = self.worker.ask(steps={"seconds": SECONDS.value})
        self.seconds.append(timed["seconds"] / timed["steps"])


def check_flags() -> None:
    """Checks --models and --dtypes.

    Raises:
      ConfigError: a model or a dtype is unknown, or there is no dtype.
    """
    cli.check_models(MODELS.value)
    if not DTYPES.value or not set(DTYPES.value) <= set(DTYPE_NAMES):
        given = ",".join(DTYPES.value)
        raise ConfigError(f"--dtypes must list some of {', '.join(DTYPE_NAMES)}, got {given!r}")


def flaxres_command(model: str, dtype: str, task: Task = "training", **fields: Any) -> list[str]:
    """Returns the command of the flaxres worker.

    Args:
      model: model name.
      dtype: compute dtype, unless `fields` have another one.
      task: what the worker runs.
      fields: further config fields.
    """
    image = f"{IMAGE_SIZE.value},{IMAGE_SIZE.value},{CHANNELS.value}"
    fields = {"batch_size": BATCH_SIZE.value, "dtype": dtype} | fields
    if task == "evaluation":
        fields["eval_batch_size"] = fields["batch_size"]
    if not AUGMENT.value:
        fields |= {"augment.pad": 0, "augment.flip": False}
    return [
        *(sys.executable, "-m", "benchmarks.flaxres_worker", f"--task={task}"),
        f"--config=configs/cifar10.py:{model}",
        *(f"--config.{field}={value}" for field, value in fields.items()),
        *(f"--image={image}", f"--images={_num_images(task, fields['batch_size'])}"),
    ]


def _num_images(task: Task, batch_size: int) -> int:
    if task == "training":
        return max(TRAINING_IMAGES, batch_size)
    return batch_size * max(1, EVALUATION_IMAGES // batch_size)  # whole batches


def _default_modes(dtype: str, task: Task) -> list[str]:
    modes = ["eager", "compiled"] if runs_on_cpu() else ["compiled", "graph-eager"]
    if not runs_on_cpu() and task == "training":
        modes.append("graph-compiled")
    if task == "evaluation" and dtype == "bfloat16":
        modes += [f"cast-{mode}" for mode in modes]
    return modes


def start(
    framework: str, dtype: str, mode: str, command: Sequence[str], environment: Mapping[str, str]
) -> Implementation:
    """Starts a worker and prints its time; with --cold, first times one that has empty caches.

    Raises:
      RuntimeError: the worker fails; has the last line of its output.
    """
    try:
        cold_start = None
        if COLD.value:
            with tempfile.TemporaryDirectory() as empty:
                caches = {"FLAXRES_CACHE": empty, "TORCHINDUCTOR_CACHE_DIR": empty}
                worker = Worker(command, {**environment, **caches})
                worker.close()
                cold_start = worker.ready["first_step"]
        started = Implementation(framework, dtype, mode, Worker(command, environment), cold_start)
    except OSError as error:
        raise RuntimeError(str(error)) from None
    seconds = started.worker.ready["first_step"]
    print(f"Started {started.name} in {seconds:.1f} s", file=sys.stderr, flush=True)
    return started


def start_all(model: str, task: Task) -> tuple[list[Implementation], dict[str, str]]:
    """Starts flaxres and PyTorch in each dtype and mode; modes of PyTorch that fail are left out.

    Returns:
      The implementations, of which those of a dtype are together, flaxres first; and by name of an
      implementation that is left out, the error.

    Raises:
      ConfigError: PyTorch is not installed.
      UserError: flaxres fails, or PyTorch fails in all modes.
    """
    if AGAINST.value == "torch":
        check_torch(TORCH_PYTHON.value)
    environment = torch_environment()
    if runs_on_cpu() and sys.platform == "linux":
        environment["GLIBC_TUNABLES"] = MALLOC_TUNABLES  # as flaxres sets them for itself
    implementations, left_out = [], {}
    for dtype in DTYPES.value:
        try:
            command = flaxres_command(model, dtype, task)
            implementations.append(start("flaxres", dtype, "", command, {}))
        except RuntimeError as error:
            raise UserError(f"flaxres {dtype}: {error}") from None
        if AGAINST.value == "none":
            continue
        for mode in MODES.value or _default_modes(dtype, task):
            try:
                command = torch_command(
                    TORCH_PYTHON.value,
                    model,
                    task=task,
                    mode=mode,
                    batch_size=BATCH_SIZE.value,
                    image=[IMAGE_SIZE.value, IMAGE_SIZE.value, CHANNELS.value],
                    images=_num_images(task, BATCH_SIZE.value),
                    dtype=dtype,
                    augment=AUGMENT.value,
                )
                implementations.append(start("torch", dtype, mode, command, environment))
            except RuntimeError as error:
                leave_out(left_out, f"torch {dtype} {mode}", str(error))
    if AGAINST.value == "torch" and all(i.framework == "flaxres" for i in implementations):
        raise UserError(
            f"PyTorch failed in every mode (see above) with {TORCH_PYTHON.value}; name another "
            "interpreter with --torch_python"
        )
    return implementations, left_out


def leave_out(left_out: dict[str, str], name: str, error: str) -> None:
    """Prints that an implementation is left out, and adds it with its error to `left_out`."""
    print(f"Left out {name}: {error}", file=sys.stderr, flush=True)
    left_out[name] = error


def compare_losses(
    implementations: list[Implementation], left_out: dict[str, str]
) -> dict[str, float]:
    """Checks that in each dtype all implementations have the losses of flaxres, in that dtype.

    Implementations that do not are closed, removed and left out.

    Args:
      implementations: result of `start_all`; implementations that fail are removed.
      left_out: receives the errors, by name of the implementation.

    Returns:
      By dtype, the largest relative difference between the first losses of flaxres and PyTorch.

    Raises:
      UserError: no implementation of PyTorch has the losses of flaxres.
    """
    differences: dict[str, float] = {}
    failed: list[str] = []
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "weights.npz")
        for implementation in list(implementations):
            name, dtype = implementation.name, implementation.dtype
            if implementation.framework == "flaxres":
                ours = implementation.worker.ask(check={"path": path})
                continue
            rate = ours["learning_rate"]
            request = {"path": path, "steps": len(ours["losses"]), "learning_rate": rate}
            try:
                peer = implementation.worker.ask(check=request)
                error = find_difference(dtype, ours["losses"], peer)
            except RuntimeError as failure:
                error = str(failure)
            if error:
                failed.append(name)
                leave_out(left_out, name, error)
                implementations.remove(implementation)
                implementation.worker.close()
                continue
            first = abs(peer["losses"][0] - ours["losses"][0]) / abs(ours["losses"][0])
            differences[dtype] = max(differences.get(dtype, 0.0), first)
    if failed and not differences:
        raise UserError(f"no mode of PyTorch passed the check; {failed[0]}: {left_out[failed[0]]}")
    return differences


def find_difference(dtype: str, ours: Sequence[float], peer: Mapping[str, Any]) -> str:
    """Returns how PyTorch's check differs from the losses of flaxres; '' if it does not.

    Args:
      dtype: compute dtype that both should have.
      ours: losses of flaxres.
      peer: 'losses' of PyTorch, and 'bfloat16', True if it computed the logits in bfloat16.
    """
    losses = peer["losses"]
    relative = np.abs(np.subtract(losses, ours)) / np.abs(ours)
    first, later = TOLERANCES[dtype]
    if not (relative[0] < first and np.all(relative < later)):
        return f"losses differ: {losses}, of flaxres {list(ours)}"
    if dtype == "float32" and peer["bfloat16"]:
        return "it computes in bfloat16 instead of float32"
    return ""
