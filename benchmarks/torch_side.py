"""A worker with the PyTorch peer: python -m benchmarks.torch_side '{"depth": 20, ...}'."""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import torch

from benchmarks.process import best_seconds, peak_memory, serve, timed_steps
from benchmarks.torch_peer import BaseModel, Training


def synchronise() -> None:
    """Waits for the device."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def ceiling(dtype: str, size: int, copied: int) -> dict[str, float]:
    """See `benchmarks.flaxres_side.ceiling`."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    a = torch.randn(size, size, device=device).to(getattr(torch, dtype))
    x = torch.zeros(copied // 4, device=device)
    y = torch.empty_like(x)

    def multiply() -> None:
        a @ a
        synchronise()

    def copy() -> None:
        y.copy_(x)
        synchronise()

    return {
        "flops": 2 * size**3 / best_seconds(multiply),
        "bytes": 2 * copied / best_seconds(copy),
    }


def checked_losses(
    training: Training, path: str, steps: int, rate: float
) -> dict[str, list[float]]:
    """Losses of the first steps from the weights, and on the batch, of `path`."""
    kept = dict(np.load(path))
    device = next(training.net.parameters()).device
    images = torch.from_numpy(kept.pop("images")).to(device).permute(0, 3, 1, 2).float() / 255
    labels = torch.from_numpy(kept.pop("labels")).to(device).long()
    training.restart(kept, rate)
    return {"losses": [float(training.train(images, labels)) for _ in range(steps)]}


def main() -> None:
    """Makes the first step, then serves."""
    options = json.loads(sys.argv[1])
    if options["dtype"] == "float32":
        torch.set_float32_matmul_precision("high")  # what XLA does by default
    torch.backends.cudnn.benchmark = True
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    shape = options["image"]
    net = BaseModel(options["depth"], options["plain"], shape[2], tuple(options["widths"])).to(
        device
    )
    images = torch.randint(0, 256, (options["images"], *shape), dtype=torch.uint8, device=device)
    begin = time.perf_counter()
    training = Training(net, options["mode"], options["batch_size"], images, options["augment"])
    if options["dtype"] == "float32":
        training._autocast = False
    training.advance()
    training.wait()
    compiled = time.perf_counter() - begin
    serve(
        {
            "steps": lambda seconds: timed_steps(training.advance, training.wait, seconds),
            "ceiling": ceiling,
            "check": lambda **request: checked_losses(training, **request),
            "memory": lambda: {
                "host": peak_memory(),
                "device": torch.cuda.max_memory_allocated() if device.type == "cuda" else 0,
            },
        },
        version=f"torch {torch.__version__}",
        compile=compiled,
    )


if __name__ == "__main__":
    main()
