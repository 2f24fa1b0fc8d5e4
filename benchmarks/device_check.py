"""Check that float32 train steps on a GPU or TPU equal those of the CPU.

python -m benchmarks.device_check --config=configs/cifar10.py:resnet-20 --json=device_check.json

Runs the train step of `flaxres.main`, including sampling and augmentation, on random images: one
step, then two more in one dispatch. A second process runs the same on the CPU, step by step and
without the kernels of `flaxres.cpu`. Convolutions and products of matrices have their highest
precision, so that both differ by rounding only. Exits with 1 if losses, parameters or running
statistics differ by more than the tolerances.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags

from benchmarks.report import print_table, write_json
from flaxres import cli
from flaxres.cpu.settings import KERNELS_SWITCH
from flaxres.errors import UserError
from flaxres.run.preemption import PARENT_VARIABLE

if TYPE_CHECKING:
    from ml_collections import ConfigDict

JSON = flags.DEFINE_string(
    "json", None, "File for the JSON result, e.g. check.json (default: print it)."
)
REFERENCE = flags.DEFINE_string(
    "reference", None, "Internal: run on the CPU and write the results to this file."
)

IMAGE_SHAPE, NUM_CLASSES = (32, 32, 3), 10
CHECKED_STEPS = (1, 3)
# At the paper's learning rate of 0.1, rounding errors grow tenfold within three steps.
LEARNING_RATE = 0.01
# Largest relative differences after a number of steps. Parameters are compared by their updates:
# the norm of the difference, divided by that of the sum of all updates. On a CPU, two float32
# programs of ResNet-20 differed by 2e-3 in parameters and 4e-8 in statistics after one step, and
# float32 from convolutions whose inputs are rounded to TF32 by 2e-2 and 2e-5.
TOLERANCES = {
    1: {"loss": 1e-6, "parameters": 8e-3, "statistics": 2e-6},
    3: {"loss": 1e-5, "parameters": 8e-3, "statistics": 1e-5},
}

Results = dict[str, np.ndarray]


def run_steps(config: ConfigDict) -> Results:
    """Runs the steps on the default device, on a CPU one by one.

    Returns:
      'initial', the parameters before the first step as one float32 vector, and 'loss_N',
      'parameters_N' and 'statistics_N' after N steps.
    """
    import jax

    from flaxres.experiments.sweeps.throughput import random_dataset
    from flaxres.training.compiled_steps import CompiledSteps

    dataset = random_dataset(IMAGE_SHAPE, NUM_CLASSES, 4 * config.batch_size)
    compiled_steps = CompiledSteps(config, dataset)
    state, arrays = compiled_steps.initial_state(), compiled_steps.put(dataset.train)
    results, step = {"initial": flatten(state.params)}, 0
    with jax.default_matmul_precision("highest"):
        for end in CHECKED_STEPS:
            while step < end:
                size = 1 if jax.default_backend() == "cpu" else end - step
                train_steps = compiled_steps.compile_train_steps(state, arrays, size)
                state, metrics = train_steps(state, arrays, compiled_steps.indices(step, size))
                step += size
            loss = jax.device_get(metrics.sums).averages("train")["train_loss"]
            results[f"loss_{step}"] = np.float32(loss)
            results[f"parameters_{step}"] = flatten(state.params)
            results[f"statistics_{step}"] = flatten(state.batch_stats)
    return results


def flatten(tree: Any) -> np.ndarray:
    """Returns the arrays of a tree as one vector on the host."""
    import jax

    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(jax.device_get(tree))])


def compare(results: Results, reference: Results) -> dict[int, dict[str, float]]:
    """Returns the relative differences by number of steps and by name, as in `TOLERANCES`."""
    differences = {}
    for step in TOLERANCES:
        loss, parameters, statistics = (
            (np.float64(results[name]), np.float64(reference[name]))
            for name in (f"loss_{step}", f"parameters_{step}", f"statistics_{step}")
        )
        update = parameters[1] - reference["initial"]
        differences[step] = {
            "loss": float(abs(loss[0] - loss[1]) / abs(loss[1])),
            "parameters": relative_norm(parameters[0] - parameters[1], update),
            "statistics": relative_norm(statistics[0] - statistics[1], statistics[1]),
        }
    return differences


def relative_norm(difference: np.ndarray, reference: np.ndarray) -> float:
    """Returns the Euclidean norm of a vector divided by that of another one."""
    return float(np.linalg.norm(difference) / np.linalg.norm(reference))


def check_config(config: ConfigDict) -> ConfigDict:
    """Returns the config with float32, one device and the learning rate of the check."""
    config = config.copy_and_resolve_references()
    config.dtype, config.num_devices, config.num_replicas = "float32", 1, 1
    config.learning_rate, config.warmup.enabled = LEARNING_RATE, False
    return config


def run_reference(path: Path) -> subprocess.Popen[str]:
    """Starts the process that runs the steps on the CPU and writes them to a file.

    It ends with this process.
    """
    variables = {"JAX_PLATFORMS": "cpu", KERNELS_SWITCH: "0", PARENT_VARIABLE: str(os.getpid())}
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.device_check", *sys.argv[1:], f"--reference={path}"],
        env={**os.environ, **variables},
        stdout=subprocess.DEVNULL,
    )


def main() -> None:
    """Runs the steps on the device and on the CPU, prints a table and writes the results.

    Raises:
      UserError: the results differ, or the CPU could not compute them.
    """
    config = check_config(cli.get_config())
    if REFERENCE.value:
        np.savez(REFERENCE.value, **run_steps(config))
        return
    import jax

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "reference.npz")
        process = run_reference(path)
        try:
            results = run_steps(config)
        except BaseException:
            process.terminate()
            raise
        finally:
            code = process.wait()
        if code:
            raise UserError(f"the steps on the CPU ended with exit code {code} (see above)")
        reference = dict(np.load(path))
    device = jax.devices()[0].device_kind
    differences = compare(results, reference)
    rows, too_large = [], []
    for step, values in differences.items():
        for name, value in values.items():
            tolerance = TOLERANCES[step][name]
            rows.append([f"{name} after {step}", f"{value:.1e}", f"{tolerance:.0e}"])
            if not value <= tolerance:  # NaN is too large
                too_large.append(f"{name} after {step} by {value:.1e}")
    title = f"{config.model.name}-{config.model.depth} in float32: {device} compared with the CPU"
    print_table(title, ("", "difference", "tolerance"), rows)
    result = {
        "device": device,
        "platform": jax.default_backend(),
        "model": f"{config.model.name}-{config.model.depth}",
        "batch_size": config.batch_size,
        "equal": not too_large,
        "differences": differences,
        "tolerances": TOLERANCES,
    }
    write_json(JSON.value, result)
    if too_large:
        raise UserError(f"{device} differs from the CPU: {', '.join(too_large)}")


if __name__ == "__main__":
    cli.define_config("configs/cifar10.py:resnet-20")
    cli.run(main)
