"""Speed of streaming images from JPEG files, compared with decoding by itself.

python -m benchmarks.streaming --images=2000 --workers=2

Each round measures images per second of:

- bare: worker processes decode and crop the files in a loop and discard the pixels;
- stream: a consumer that does nothing takes batches on the device, as the training loop gets them;
- training: a small model is trained on the stream; the time it waits for images is shown too;
- steps: the same model's steps on one batch that is on the device, the upper bound for training;
- pillow: bare decoding with Pillow only, as without a C++ compiler;
- torch-decode-jpeg, torch-pillow (with --torch): batches from PyTorch's DataLoader.

All use the same files, crops and number of workers. Each measurement starts when the workers are
idle, so that none is slowed down by prefetching for another one. Images that were decoded before
the clock starts are taken first, so that they do not count.

A stream that is faster than bare decoding means that the measurement is wrong, and is an error. On
a busy machine, the usual reason is that other programs took the cores from one measurement more
than from another. Memory is that of this process and its workers after each round.
"""

from __future__ import annotations

import dataclasses
import functools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from benchmarks.bare_decoding import BareDecoding
from benchmarks.jpegs import make_folder
from benchmarks.process import memory_mib, wait_until_idle
from benchmarks.report import Spread, print_table, write_json
from flaxres import cli
from flaxres.data import StreamedDataset, open_dataset
from flaxres.data.decode_workers import num_workers
from flaxres.errors import ConfigError, UserError, one_line

if TYPE_CHECKING:
    from benchmarks.torch_loader import TorchLoader

DATA = flags.DEFINE_string(
    "data", None, "Directory to keep the generated JPEG files in (default: they are deleted)."
)
IMAGES = flags.DEFINE_integer("images", 2_000, "Number of training images.", lower_bound=100)
ROUNDS = flags.DEFINE_integer("rounds", 5, "Number of rounds.", lower_bound=1)
BATCHES = flags.DEFINE_integer("batches", 20, "Batches per measurement.", lower_bound=1)
BATCH = flags.DEFINE_integer("batch_size", 64, "Images per batch.", lower_bound=1)
WORKERS = flags.DEFINE_integer("workers", -1, "Number of decode workers; -1 for one per core.")
CROP = flags.DEFINE_enum(
    "crop",
    "random-resized",
    ["random-resized", "scale"],
    "Random crops, a value of augment.crop: 'random-resized' or 'scale'.",
)
SIZE = flags.DEFINE_integer("size", 224, "Height and width of a crop, in pixels.", lower_bound=8)
WIDTHS = flags.DEFINE_list(
    "widths", ["4", "8", "16", "32"], "Channels in each stage of the small ResNet-18."
)
MODEL = flags.DEFINE_bool("model", True, "Measure training of a model too.")
TORCH = flags.DEFINE_bool("torch", False, "Measure PyTorch's DataLoader too (torchvision).")
JSON = flags.DEFINE_string(
    "json", None, "File for the JSON result, e.g. streaming.json (default: print it)."
)
flags.DEFINE_alias("output", "json")  # former name

MAX_RATIO = 1.1  # of the speeds of stream and bare; above it, the measurement must be wrong


def make_config(data_dir: Path) -> ConfigDict:
    """Returns the config of a small ResNet-18 on the images in `data_dir`."""
    from flaxres.config import default_config, set_model

    config = set_model(default_config(), "resnet-18", stem="imagenet")
    config.model.widths = tuple(map(int, WIDTHS.value))
    config.dataset.name, config.dataset.data_dir = "folder", str(data_dir)
    config.dataset.image_size, config.dataset.mean_images = SIZE.value, 200
    config.dataset.workers = WORKERS.value
    config.augment.crop = CROP.value
    if CROP.value == "scale":  # He15's range for 224 pixels, in proportion
        config.augment.short_side_range = (SIZE.value * 256 // 224, SIZE.value * 480 // 224)
    config.batch_size = config.eval_batch_size = BATCH.value
    config.learning_rate, config.num_devices = 0.02, 1
    config.num_steps = config.eval_every = 10**9  # never
    config.boundaries = ()
    return config


class StreamedTraining:
    """Batches as the training loop gets them, and a model to train on them.

    Attributes:
      wait_percent: percentage of its time that the last `train` waited for images.
    """

    def __init__(self, config: ConfigDict, dataset: StreamedDataset):
        """Starts the decode workers; the first measurement of training compiles the step."""
        from flaxres.training.compiled_steps import CompiledSteps
        from flaxres.training.stream_pipeline import StreamPipeline

        self._config = config
        self._compiled_steps = CompiledSteps(config, dataset)
        self._state = self._compiled_steps.initial_state()
        self._pipeline = StreamPipeline(config, self._compiled_steps, dataset)
        self._pipeline.start(0, 1)
        self._max_prefetched = self._pipeline.max_ahead + 2
        self._step = 0
        self._first_batch = self._pipeline.next(0, 1)
        self.wait_percent = 0.0

    @functools.cached_property
    def _train_step(self) -> Callable[..., Any]:
        return self._compiled_steps.compile_train_steps(self._state, self._first_batch[0], 1)

    def _next(self) -> tuple[Any, ...]:
        self._step += 1
        return self._pipeline.next(self._step, 1)

    def deliver(self, batches: int) -> float:
        """Returns the images per second that a consumer that does nothing receives."""
        import jax

        for _ in range(self._max_prefetched):
            self._next()
        start = time.perf_counter()
        for _ in range(batches):
            jax.block_until_ready(self._next()[0].images)
        return batches * self._config.batch_size / (time.perf_counter() - start)

    def train(self, batches: int) -> float:
        """Trains on `batches` batches, returns the images per second and sets `wait_percent`."""
        import jax

        metrics, start, train_step = None, 0.0, self._train_step
        for number in range(self._max_prefetched + batches):
            if number == self._max_prefetched:
                jax.block_until_ready(metrics)
                self._pipeline.record()
                start = time.perf_counter()
            if metrics is not None and not self._pipeline.is_ready():
                jax.block_until_ready(metrics)
            self._state, metrics = train_step(self._state, *self._next())
        jax.block_until_ready(metrics)
        seconds = time.perf_counter() - start
        self.wait_percent = self._pipeline.record()["data_wait_percent"]
        return batches * self._config.batch_size / seconds

    def train_on_one_batch(self, batches: int) -> float:
        """Returns the images per second of as many steps on one batch on the device."""
        import jax

        train_step, start = self._train_step, time.perf_counter()
        for _ in range(batches):
            self._state, metrics = train_step(self._state, *self._first_batch)
        jax.block_until_ready(metrics)
        return batches * self._config.batch_size / (time.perf_counter() - start)

    def close(self) -> None:
        """Ends the decode workers."""
        self._pipeline.close()


def open_torch_loaders(folder: Path, workers: int) -> dict[str, TorchLoader]:
    """Starts the loaders of PyTorch, by the name of their measurement; none without --torch.

    Their workers are forked, so this comes before JAX has started threads.

    Raises:
      ConfigError: the crops are not random resized crops, which alone PyTorch has.
      UserError: torchvision cannot be imported.
    """
    if not TORCH.value:
        return {}
    if CROP.value != "random-resized":
        raise ConfigError("--torch needs --crop=random-resized; torchvision has no other crops")
    try:
        from benchmarks.torch_loader import DECODERS, TorchLoader
    except (ImportError, RuntimeError) as error:
        raise UserError(
            f"torchvision cannot be imported ({one_line(error)}); install that of this PyTorch"
        ) from None
    return {
        f"torch-{name}": TorchLoader(folder / "train", name, SIZE.value, BATCH.value, workers)
        for name in DECODERS
    }


def check_ratio(ratio: Spread) -> None:
    """Checks that the stream was not faster than bare decoding, which is impossible.

    Raises:
      UserError: it was faster, by more than the noise of a busy machine.
    """
    if ratio.median > MAX_RATIO:
        raise UserError(
            f"the stream was {ratio} times as fast as bare decoding with as many workers, which is "
            "impossible. Either other programs used the cores meanwhile, or images were counted "
            "that had been decoded before the clock started. Measure on an idle machine, with more "
            "--batches."
        )


def main() -> None:
    """Runs the rounds, prints a table and writes the results."""
    if not Path("/proc/self/statm").exists():
        raise ConfigError("memory is read from /proc, which this system does not have; use Linux")
    with tempfile.TemporaryDirectory() as temporary:
        folder = make_folder(Path(DATA.value or temporary), IMAGES.value, 100)
        file_sizes = [file.stat().st_size for file in folder.glob("train/*/*.jpg")]
        config = make_config(folder)
        dataset = open_dataset(config)
        if not isinstance(dataset, StreamedDataset):
            raise ConfigError("this benchmark needs a streamed data set (dataset.placement)")
        torch_loaders = open_torch_loaders(folder, num_workers(config.dataset.workers))
        decoder = dataset.decoder()
        bare, streamed = BareDecoding(config, decoder), StreamedTraining(config, dataset)
        pillow = BareDecoding(config, dataclasses.replace(decoder, jpeg_library=None))
        measurements = {
            "bare": bare.images_per_second,
            "pillow": pillow.images_per_second,
            "stream": streamed.deliver,
        }
        if MODEL.value:
            measurements["training"] = streamed.train
            measurements["steps"] = streamed.train_on_one_batch
        measurements |= {name: loader.deliver for name, loader in torch_loaders.items()}
        rounds: list[dict[str, float]] = []
        memories, wait_percents = [], []
        try:
            for number in range(ROUNDS.value):
                first = number % len(measurements)
                names = [*measurements][first:] + [*measurements][:first]
                rounds.append({})
                for name in names:
                    wait_until_idle()
                    rounds[-1][name] = measurements[name](BATCHES.value)
                wait_percents.append(streamed.wait_percent)
                memories.append(memory_mib())
        finally:
            for process_owner in (streamed, bare, pillow, *torch_loaders.values()):
                process_owner.close()
    speeds = {name: Spread.from_values([speed[name] for speed in rounds]) for name in measurements}
    ratio = Spread.from_values([speed["stream"] / speed["bare"] for speed in rounds])
    workers, wait_percent = num_workers(config.dataset.workers), Spread.from_values(wait_percents)
    print_table(
        f"{ROUNDS.value} rounds of {BATCHES.value} batches of {BATCH.value}, {workers} workers, "
        f"{len(file_sizes):,} files of {np.mean(file_sizes) / 1024:.0f} KiB: medians (quartiles)",
        ("", "images/s"),
        [(name, str(spread)) for name, spread in speeds.items()],
    )
    print(f"Stream / bare: {ratio}.")
    if MODEL.value:
        print(f"Training waited for images {wait_percent}% of its time.")
    print(
        f"Memory: {memories[0]:,.0f} MiB after the first round, {memories[-1]:,.0f} MiB after the "
        f"last, {min(memories):,.0f} to {max(memories):,.0f} MiB over all rounds."
    )
    result = {"workers": workers, "images_per_second": speeds, "stream_over_bare": ratio}
    result["bare_over_pillow"] = Spread.from_values([r["bare"] / r["pillow"] for r in rounds])
    print(f"Bare / pillow: {result['bare_over_pillow']}.")
    if torch_loaders:
        result["stream_over_torch"] = Spread.from_values(
            [r["stream"] / max(r[name] for name in torch_loaders) for r in rounds]
        )
        print(f"Stream / the faster loader of PyTorch: {result['stream_over_torch']}.")
    result |= {"data_wait_percent": wait_percent, "memory_mib": memories}
    write_json(JSON.value, result)
    check_ratio(ratio)


if __name__ == "__main__":
    cli.run(main)
