"""Speed of the train step, compared with PyTorch.

python -m benchmarks.train_step --models=resnet-20,resnet-56 --dtypes=float32,bfloat16

Each implementation runs whole train steps, including the data path, on random images in a process
of its own. Every round measures all of them, so that other load on the machine affects all alike.
PyTorch runs in every mode that its users would try (`benchmarks.implementations`). The ratios are
flaxres in float32 to PyTorch's fastest float32 mode, the same in bfloat16, and the fastest of
flaxres to the fastest of PyTorch. From the same weights and images, all must have the same losses.
PyTorch must be installed (`pip install -r requirements-benchmarks.txt`), or --torch_python must
name an interpreter that has it.

The shares of matmul and copy compare a step with the speed of a large matrix product and a large
copy, measured in the same rounds. They count the fewest operations and bytes of a step: three times
the multiply-adds of the forward pass, and ten passes over the outputs of the convolutions.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from benchmarks import implementations as compared
from benchmarks.comparison import compare_speed, memory_ratios, print_ratios, used_bytes
from benchmarks.implementations import (
    BATCH_SIZE,
    CHANNELS,
    CHECK,
    COLD,
    IMAGE_SIZE,
    JSON,
    MODELS,
    ROUNDS,
    Implementation,
    check_flags,
    compare_losses,
    start_all,
)
from benchmarks.report import Spread, print_table, write_json
from flaxres import cli

flags.adopt_module_key_flags(compared)  # --help lists them

# Passes over the output of each convolution, forward and backward, with batch norm and ReLU.
PASSES = 10
# Rows of the matrices and bytes of the copied array. The CPU's take about a tenth of a second.
CPU_CEILING, ACCELERATOR_CEILING = (2_048, 2**28), (8_192, 2**32)


def compare(model: str) -> dict[str, Any]:
    """Runs the rounds for one model, prints a table and returns the results."""
    implementations, left_out = start_all(model, "training")
    ready = implementations[0].worker.ready
    for implementation in implementations:  # first, so that nothing else counts as memory
        implementation.measure()
        implementation.seconds.clear()
    memory = {i.name: i.worker.ask(memory={}) for i in implementations}
    differences = compare_losses(implementations, left_out) if CHECK.value else {}
    dtypes = list(dict.fromkeys(i.dtype for i in implementations))
    measured: dict[str, list[dict[str, float]]] = {dtype: [] for dtype in dtypes}
    for number in range(ROUNDS.value):
        for implementation in implementations:
            implementation.measure()
        for dtype in dtypes:
            measured[dtype] += measure_ceilings(implementations, dtype)
        speeds = ", ".join(f"{i.name} {1 / i.seconds[-1]:.3g}" for i in implementations)
        print(
            f"Round {number + 1} of {ROUNDS.value}, steps/s: {speeds}", file=sys.stderr, flush=True
        )
    ceilings = {
        dtype: {name: max(c[name] for c in values) for name in ("flops", "bytes")}
        for dtype, values in measured.items()
    }
    layers = implementations[0].worker.ask(layers={})
    results = {
        i.name: summarize(i, memory[i.name], ceilings[i.dtype], layers) for i in implementations
    }
    times, memory_shares = compare_speed(implementations), memory_ratios(implementations, memory)
    for implementation in implementations:
        implementation.worker.close()
    print_results(model, ready["device"], results)
    print_ratios("Step time", times, memory_shares, differences)
    return {
        "net": model,
        "device": ready["device"],
        "batch_size": BATCH_SIZE.value,
        "image": [IMAGE_SIZE.value, IMAGE_SIZE.value, CHANNELS.value],
        "ceilings": ceilings,
        "implementations": results,
        "left_out": left_out,
        "step_time_over_torch": times,
        "memory_over_torch_eager": memory_shares,
        "first_loss_differences": differences,
    }


def measure_ceilings(
    implementations: Sequence[Implementation], dtype: str
) -> list[dict[str, float]]:
    """Measures a matrix product and a copy in flaxres and in one mode of PyTorch."""
    group = [i for i in implementations if i.dtype == dtype][:2]
    is_cpu = group[0].worker.ready["platform"] == "cpu"
    size, copied = CPU_CEILING if is_cpu else ACCELERATOR_CEILING
    return [i.worker.ask(ceiling={"dtype": dtype, "size": size, "copied": copied}) for i in group]


def summarize(
    implementation: Implementation,
    memory: Mapping[str, int],
    ceiling: Mapping[str, float],
    layers: Mapping[str, int],
) -> dict[str, Any]:
    """Returns the results of one implementation.

    Args:
      implementation: the implementation, with the times of all rounds.
      memory: peak 'host' and 'device' memory in bytes.
      ceiling: 'flops' and 'bytes' per second of a matrix product and a copy.
      layers: 'macs' and 'conv_outputs' of an image.
    """
    worker, step_seconds = implementation.worker, implementation.seconds
    step = Spread.from_values(step_seconds)
    operations = 3 * 2 * layers["macs"] * BATCH_SIZE.value
    bytes_per_value = 2 if implementation.dtype == "bfloat16" else 4
    moved_bytes = PASSES * layers["conv_outputs"] * BATCH_SIZE.value * bytes_per_value
    return {
        "framework": implementation.framework,
        "dtype": implementation.dtype,
        "mode": implementation.mode,
        "step_seconds": step,
        "steps_per_second": Spread.from_values([1 / s for s in step_seconds]),
        "images_per_second": Spread.from_values([BATCH_SIZE.value / s for s in step_seconds]),
        "share_of_matmul": operations / ceiling["flops"] / step.median,
        "share_of_copy": moved_bytes / ceiling["bytes"] / step.median,
        "memory_bytes": memory,
        "first_step_seconds": worker.ready["first_step"],
        "first_step_cold_seconds": implementation.cold_start,
        "compile_seconds": worker.ready["compile"],
        "version": worker.ready["version"],
    }


def print_results(model: str, device: str, results: Mapping[str, Mapping[str, Any]]) -> None:
    """Prints the table of one model.

    Args:
      model: model name.
      device: name of the device.
      results: by name of the implementation, what `summarize` returns.
    """
    title = (
        f"{model}, batch size {BATCH_SIZE.value}, "
        f"{IMAGE_SIZE.value}x{IMAGE_SIZE.value}x{CHANNELS.value}, {device}"
    )
    rows = []
    for name, values in results.items():
        cold = values["first_step_cold_seconds"]
        rows.append(
            [
                f"{name} ({values['version'].split()[1]})",
                values["steps_per_second"],
                values["images_per_second"],
                f"{100 * values['share_of_matmul']:.0f}%",
                f"{100 * values['share_of_copy']:.0f}%",
                f"{used_bytes(values['memory_bytes']) / 2**20:,.0f}",
                f"{values['first_step_seconds']:.1f}" + ("" if cold is None else f" / {cold:.1f}"),
                f"{values['compile_seconds']:.1f}",
            ]
        )
    first_step = "first step s" + (" / cold" if COLD.value else "")
    columns = ("", "steps/s", "images/s", "of matmul", "of copy", "MiB", first_step, "compile s")
    print_table(title, columns, rows)


def main() -> None:
    """Compares all models, prints tables and writes the results."""
    check_flags()
    write_json(JSON.value, [compare(model) for model in MODELS.value])


if __name__ == "__main__":
    cli.run(main, trains=False)
