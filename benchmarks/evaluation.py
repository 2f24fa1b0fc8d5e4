"""Speed of evaluation, compared with PyTorch.

python -m benchmarks.evaluation --models=resnet-20,resnet-56 --dtypes=float32,bfloat16

Each implementation evaluates random images in a process of its own: normalized images, logits with
running statistics, loss and error. flaxres runs the evaluation of `flaxres.main`, PyTorch runs
under `torch.inference_mode` in every mode that its users would try (`benchmarks.implementations`).
Every round measures all implementations. The ratios are images per second of flaxres to those of
PyTorch's fastest mode. From the same weights, statistics and images, all must have the same loss.
"""

from __future__ import annotations

from typing import Any

from absl import flags

from benchmarks import implementations as compared
from benchmarks.comparison import compare_speed, print_ratios
from benchmarks.implementations import (
    BATCH_SIZE,
    CHANNELS,
    CHECK,
    IMAGE_SIZE,
    JSON,
    MODELS,
    ROUNDS,
    check_flags,
    compare_losses,
    start_all,
)
from benchmarks.report import Spread, print_table, write_json
from flaxres import cli

flags.adopt_module_key_flags(compared)  # --help lists them
flags.set_default(BATCH_SIZE, 500)  # the default of the config field eval_batch_size


def compare(model: str) -> dict[str, Any]:
    """Runs the rounds for one model, prints a table and returns the results."""
    implementations, left_out = start_all(model, "evaluation")
    differences = compare_losses(implementations, left_out) if CHECK.value else {}
    for _ in range(ROUNDS.value):
        for implementation in implementations:
            implementation.measure()
    device = implementations[0].worker.ready["device"]
    results = {
        i.name: {
            "framework": i.framework,
            "dtype": i.dtype,
            "mode": i.mode,
            "images_per_second": Spread.from_values([1 / s for s in i.seconds]),
            "version": i.worker.ready["version"],
        }
        for i in implementations
    }
    speedups = compare_speed(implementations, speedup=True)
    for implementation in implementations:
        implementation.worker.close()
    size = IMAGE_SIZE.value
    print_table(
        f"evaluation of {model}, batch size {BATCH_SIZE.value}, {size}x{size}x{CHANNELS.value}, "
        f"{device}",
        ("", "images/s"),
        [
            (f"{name} ({values['version'].split()[1]})", values["images_per_second"])
            for name, values in results.items()
        ],
    )
    print_ratios("Images/s", speedups, {}, differences)
    return {
        "net": model,
        "device": device,
        "batch_size": BATCH_SIZE.value,
        "image": [size, size, CHANNELS.value],
        "implementations": results,
        "left_out": left_out,
        "images_per_second_over_torch": speedups,
        "loss_differences": differences,
    }


def main() -> None:
    """Compares all models, prints tables and writes the results."""
    check_flags()
    write_json(JSON.value, [compare(model) for model in MODELS.value])


if __name__ == "__main__":
    cli.run(main, trains=False)
