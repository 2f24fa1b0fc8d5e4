"""Benchmark worker that runs train steps or evaluations of the PyTorch implementation.

python -m benchmarks.torch_worker '{"depth": 20, ...}'
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import torch

from benchmarks.process import best_seconds, peak_memory, serve, timed_steps
from benchmarks.torch_evaluation import Evaluation
from benchmarks.torch_peer import Mode, make_peer
from benchmarks.torch_training import Training, is_bfloat16


def synchronize() -> None:
    """Waits until the device is idle."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def measure_ceiling(dtype: str, size: int, copied: int) -> dict[str, float]:
    """Measures the speed of a large matrix product and of a large copy.

    Args:
      dtype: dtype of the matrices.
      size: number of rows and columns of the matrices.
      copied: size of the copied array, in bytes.

    Returns:
      'flops', in FLOP/s, and 'bytes', read and written per second.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    a = torch.randn(size, size, device=device).to(getattr(torch, dtype))
    x = torch.zeros(copied // 4, device=device)
    y = torch.empty_like(x)

    def multiply() -> None:
        a @ a
        synchronize()

    def copy() -> None:
        y.copy_(x)
        synchronize()

    return {
        "flops": 2 * size**3 / best_seconds(multiply),
        "bytes": 2 * copied / best_seconds(copy),
    }


def checked_losses(
    task: Training | Evaluation, path: str, steps: int, learning_rate: float
) -> dict[str, list[float] | bool]:
    """Computes the losses of the first steps, or that of an evaluation.

    Args:
      task: the train step or the evaluation.
      path: file with the weights and the batch, written by `benchmarks.flaxres_worker`.
      steps: number of steps.
      learning_rate: learning rate of all steps.

    Returns:
      'losses', and 'bfloat16', which is True if the logits were computed in bfloat16.
    """
    arrays = dict(np.load(path))
    device = next(task.model.parameters()).device
    images = torch.from_numpy(arrays.pop("images")).to(device)
    labels = torch.from_numpy(arrays.pop("labels")).to(device).long()
    if isinstance(task, Evaluation):
        losses, logits = task.checked_losses(arrays, images, labels)
    else:
        losses, logits = task.checked_losses(arrays, images, labels, steps, learning_rate)
    return {"losses": losses, "bfloat16": is_bfloat16(logits)}


def main() -> None:
    """Runs the first step, then answers requests."""
    if len(sys.argv) != 2 or not sys.argv[1].startswith("{"):
        print(
            "error: only benchmarks can run this program, such as benchmarks.train_step",
            file=sys.stderr,
        )
        sys.exit(2)
    options = json.loads(sys.argv[1])
    if options["dtype"] == "float32":
        torch.set_float32_matmul_precision("high")  # the default of XLA
    torch.backends.cudnn.benchmark = True
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    shape, widths = options["image"], tuple(options["widths"])
    model = make_peer(options["family"], options["depth"], shape[2], widths).to(device)
    images = torch.randint(0, 256, (options["images"], *shape), dtype=torch.uint8, device=device)
    mode, batch_size = Mode.parse(options["mode"], options["dtype"]), options["batch_size"]
    start = time.perf_counter()
    task: Training | Evaluation
    if options.get("task") == "evaluation":
        task = Evaluation(model, mode, batch_size, images)
    else:
        task = Training(model, mode, batch_size, images, options["augment"])
    task.advance()
    task.wait()
    compile_seconds = time.perf_counter() - start
    serve(
        {
            "steps": lambda seconds: timed_steps(task.advance, task.wait, seconds),
            "ceiling": measure_ceiling,
            "check": lambda **request: checked_losses(task, **request),
            "memory": lambda: {
                "host": peak_memory(),
                "device": torch.cuda.max_memory_allocated() if device.type == "cuda" else 0,
            },
        },
        version=f"torch {torch.__version__}",
        compile=compile_seconds,
    )


if __name__ == "__main__":
    main()
