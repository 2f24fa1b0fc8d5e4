"""All benchmarks for a GPU in one run of at most ten minutes.

python -m benchmarks.gpu

Runs the parts of `make_parts` in order of importance. Each has a time limit. A part that fails or
is cut off does not end the others, and one that does not fit in the remaining time is skipped.
Rerun the command to run what is not done. The directory of --out (default: runs/gpu) holds:

- NAME.txt: the output of a part, written while it runs,
- NAME.json: its result,
- summary.json and summary.txt: the state of each part, written before and after it.

Exits with 1 if a part failed or was cut off. --rehearse runs all parts with small models, few
images and one short round, to try the command on another machine; its figures mean nothing.
"""

from __future__ import annotations

import dataclasses
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from benchmarks.part_runner import Part, run_parts
from flaxres import cli
from flaxres.cpu import runs_on_cpu

OUT = flags.DEFINE_string("out", "runs/gpu", "Directory for the results.")
MINUTES = flags.DEFINE_float(
    "minutes",
    9.5,
    "Time limit in minutes; the part that is then running is cut off.",
    lower_bound=1,  # a part needs 40 s or more
)
TORCH_PYTHON = flags.DEFINE_string(
    "torch_python", sys.executable, "Python interpreter that has PyTorch (default: this one)."
)
REHEARSE = flags.DEFINE_bool(
    "rehearse",
    False,
    "Run all parts with the smallest sizes, to try the command (about six minutes of CPU time).",
)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of the models and measurements.

    Attributes:
      models: names of the models, the shallow one first.
      batches: images per step, the default first.
      check_batch: images per step of `benchmarks.device_check`.
      modes: modes of PyTorch.
      rounds: number of rounds.
      seconds: seconds of steps in a round.
      images: flags for the number of images.
      steps: steps in a round of `benchmarks.parts`.
      depths: depths of `benchmarks.scaling`.
      replicas: seeds of `benchmarks.replicas`.
      min_seconds: `min_seconds` of all parts; None for those of `make_parts`.
    """

    models: tuple[str, str] = ("resnet-20", "resnet-56")
    batches: tuple[int, int] = (128, 1_024)
    check_batch: int = 128
    modes: str = "eager,compiled,graph-eager,graph-compiled"
    rounds: int = 3
    seconds: float = 2.0
    images: tuple[str, ...] = ()
    steps: int = 500
    depths: str = "20,56,110"
    replicas: int = 4
    min_seconds: float | None = None


REHEARSAL = Sizes(
    models=("resnet-8", "resnet-14"),
    batches=(8, 16),
    check_batch=32,  # rounding errors grow in smaller batches
    modes="eager,graph-eager",  # torch.compile takes minutes on a CPU
    rounds=1,
    seconds=0.05,
    images=("--images=64",),
    steps=2,
    depths="8,14",
    replicas=2,
    min_seconds=20.0,
)


def make_parts(out: Path, torch_python: str, sizes: Sizes) -> list[Part]:
    """Returns the parts, the most important first.

    Args:
      out: directory for the results.
      torch_python: Python interpreter that has PyTorch.
      sizes: sizes of the models and measurements.
    """
    rounds, seconds = f"--rounds={sizes.rounds}", f"--seconds={sizes.seconds}"
    shallow, deep = sizes.models
    small, large = sizes.batches
    configs = {model: f"--config=configs/cifar10.py:{model}" for model in sizes.models}
    half = "--config.dtype=bfloat16"
    batch = f"--config.batch_size={small}"

    def part(name: str, limit: float, minimum: float, module: str, *options: str) -> Part:
        json_file = f"--json={out / name}.json"
        command = (sys.executable, "-m", f"benchmarks.{module}", *options, json_file)
        return Part(name, command, limit, sizes.min_seconds or minimum)

    def step(model: str, dtype: str, size: int) -> Part:
        return part(
            *(f"step_{model}_{dtype}_{size}", 240, 60, "train_step", f"--models={model}"),
            *(f"--dtypes={dtype}", f"--batch_size={size}", f"--modes={sizes.modes}"),
            *(rounds, seconds, "--nocold", f"--torch_python={torch_python}"),
        )

    def kernels(name: str, model: str, *options: str) -> Part:
        profile = part(
            name, 120, 40, "kernels", configs[model], half, batch, *sizes.images, *options
        )
        return dataclasses.replace(profile, cpu_skip_reason="a profile needs a GPU or TPU")

    return [
        part(
            *("device_check", 150, 40, "device_check", configs[shallow]),
            f"--config.batch_size={sizes.check_batch}",
        ),
        *(step(model, "bfloat16", size) for size in (small, large) for model in sizes.models),
        *(step(model, "float32", size) for size in (small, large) for model in sizes.models),
        kernels("kernels_shallow", shallow),
        kernels("kernels_shallow_graphs", shallow, "--cuda_graphs"),
        kernels("kernels_deep", deep),
        part(
            *("parts", 120, 40, "parts", configs[shallow], half, batch, *sizes.images, rounds),
            f"--steps={sizes.steps}",
        ),
        part(
            *("depth", 180, 60, "scaling", "--over=depth", f"--values={sizes.depths}"),
            *(f"--models={shallow}", "--dtypes=bfloat16", f"--batch_size={small}", rounds, seconds),
        ),
        part(
            *("replicas", 180, 60, "replicas", configs[shallow], half, batch),
            *("--config.dataset.name=digits", f"--replicas={sizes.replicas}", rounds, seconds),
        ),
    ]


def main() -> None:
    """Runs the parts until the time limit.

    Raises:
      UserError: a part failed or was cut off.
    """
    deadline = time.monotonic() + 60 * MINUTES.value
    signal.signal(signal.SIGTERM, lambda signum, _: sys.exit(128 + signum))
    out = Path(OUT.value).absolute()
    parts: Sequence[Part] = make_parts(
        out, TORCH_PYTHON.value, REHEARSAL if REHEARSE.value else Sizes()
    )
    run_parts(parts, out, deadline, on_cpu=runs_on_cpu())


if __name__ == "__main__":
    cli.run(main, trains=False)
