"""Program that the doctor runs in a process of its own: python -m flaxres.doctor.probe.

It starts JAX as training does and writes one JSON object per stage to standard output: 'import',
'devices', 'kernels' and 'training'. A stage that fails has the field 'error' and is the last one.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flaxres import cpu
from flaxres.doctor.findings import gib, without_home
from flaxres.errors import UserError, one_line
from flaxres.prepared_data import default_data_dir, list_prepared

STEPS = 2


def import_libraries() -> dict[str, Any]:
    """Imports JAX and reports the settings of the process, the memory and the prepared data."""
    from flaxres.cpu.settings import CONVOLUTION_FLAG
    from flaxres.data import anonymous_memory, digits

    data_dir = default_data_dir()
    return {
        "expects_cpu": cpu.runs_on_cpu(),
        "has_xla_flags": CONVOLUTION_FLAG in os.environ.get("XLA_FLAGS", ""),
        "has_tunables": "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""),
        "memory_limit": anonymous_memory.memory_limit(),
        "memory": anonymous_memory.meminfo_bytes("MemTotal"),
        "available_memory": anonymous_memory.available_memory(),
        "data_dir": without_home(data_dir),
        "prepared": list_prepared(data_dir),
        "digits": len(digits.load_digits().train),
        "tensorflow": importlib.util.find_spec("tensorflow") is not None,
    }


def find_devices() -> dict[str, Any]:
    """Starts JAX's backend and reports its devices."""
    import jax

    devices = jax.local_devices()
    limits = [(device.memory_stats() or {}).get("bytes_limit") for device in devices]
    return {
        "platform": devices[0].platform,
        "kind": devices[0].device_kind,
        "count": len(devices),
        "memory": gib(limits[0]) if limits[0] else None,
    }


def check_kernels() -> dict[str, Any]:
    """Builds and loads the CPU kernels and the decoder for crops of JPEG files."""
    from flaxres.data import jpeg

    return _check_convolution() | {"compiled_decoder": jpeg.find_library() is not None}


def _check_convolution() -> dict[str, Any]:
    """Compares a convolution of the CPU kernels with NumPy."""
    import jax
    import numpy as np

    from flaxres.cpu import library
    from flaxres.cpu.convolutions import NHWC, conv_general_dilated

    if jax.local_devices()[0].platform != "cpu":
        return {"skipped": "they are for CPUs only"}
    if os.environ.get("FLAXRES_CPU_KERNELS") == "0":
        return {"skipped": "FLAXRES_CPU_KERNELS=0 disables them"}
    kernels = library.library("float32")
    if kernels is None:
        return {"problem": "they cannot be built; `python -m flaxres.cpu` prints the reason"}
    random = np.random.default_rng(0)
    images = random.normal(size=(2, 8, 8, 16)).astype(np.float32)
    filters = random.normal(size=(3, 3, 16, 16)).astype(np.float32)
    outputs = jax.jit(
        lambda x, k: conv_general_dilated(x, k, (1, 1), ((1, 1), (1, 1)), dimension_numbers=NHWC)
    )(images, filters)
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    expected = sum(
        padded[:, row : row + 8, column : column + 8] @ filters[row, column]
        for row in range(3)
        for column in range(3)
    )
    if not np.allclose(outputs, expected, rtol=1e-3, atol=1e-3):
        return {"problem": "their results are wrong on this processor; set FLAXRES_CPU_KERNELS=0"}
    return {"lanes": kernels.lanes}


def train() -> dict[str, Any]:
    """Trains ResNet-8 on the digits for some steps, with an evaluation and a checkpoint."""
    from flaxres.configs import digits
    from flaxres.training.train import train_and_evaluate

    config = digits.get_config("resnet-8")
    config.num_steps = config.log_every = config.eval_every = config.checkpoint_every = STEPS
    config.boundaries = ()
    with tempfile.TemporaryDirectory(prefix="flaxres-doctor-") as directory:
        record = train_and_evaluate(config, Path(directory, "run"))
    if not math.isfinite(record["train_loss"]):
        raise UserError("the training loss is not finite")
    return {"steps": STEPS}


STAGES: tuple[tuple[str, Callable[[], dict[str, Any]]], ...] = (
    ("import", import_libraries),
    ("devices", find_devices),
    ("kernels", check_kernels),
    ("training", train),
)


def _describe(error: Exception) -> str:
    """Returns one line on why a stage failed."""
    if isinstance(error, UserError):
        return str(error)
    from flaxres.cli import platform_problem

    return platform_problem(error) or f"{type(error).__name__}: {one_line(error)}"


def main() -> None:
    """Runs the stages until one of them fails."""
    cpu.tune()
    results = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # libraries may print
    for name, stage in STAGES:
        start = time.monotonic()
        try:
            result = stage()
        except Exception as error:
            result = {"error": without_home(_describe(error))}
        result |= {"stage": name, "seconds": time.monotonic() - start}
        print(json.dumps(result), file=results, flush=True)
        if "error" in result:
            sys.exit(1)
        if name == "import":
            cpu.execute_asynchronously(False)
            from flaxres.cpu import compilation_cache

            compilation_cache.enable_compilation_cache()


if __name__ == "__main__":
    main()
