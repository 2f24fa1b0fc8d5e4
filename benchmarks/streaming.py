"""How fast images are streamed from JPEG files, against decoding alone.

python -m benchmarks.streaming --images=2000 --workers=2

In rounds that take each way in turn, in images per second:

- bare: so many processes decode and crop the files, in a loop, and throw the pixels away;
- stream: a consumer that does nothing takes batches on the device, as the loop of a run gets them;
- training: a small net is trained on them, and so many of its seconds are waiting for images;
- steps: the same net's steps on images that are on the device: the most that training could reach.

All have the same files, crops and number of workers. Each way begins when no worker has anything to
do, so that none is slowed by the refill after another; and what was decoded ahead is taken before
the clock starts, so that none is credited with it. A stream that is faster than bare decoding would
be a mistake of the measurement, and is an error: on a busy machine it is mostly other programs that
take the cores from one way more than from another. Memory is that of this process and its workers,
after each round.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from benchmarks.jpegs import make_folder
from benchmarks.report import Spread, show, write
from flaxres import cli
from flaxres.data import StreamedDataset, open_dataset
from flaxres.data.decode_workers import Decoder, num_workers
from flaxres.data.shared_memory import DecodedImages
from flaxres.errors import ConfigError

DATA = flags.DEFINE_string(
    "data", None, "Where the JPEGs are made, and kept; nowhere if not given."
)
IMAGES = flags.DEFINE_integer("images", 2_000, "Training images.", lower_bound=100)
ROUNDS = flags.DEFINE_integer("rounds", 5, "Rounds that take each way in turn.", lower_bound=1)
BATCHES = flags.DEFINE_integer("batches", 20, "Batches of each way in a round.", lower_bound=1)
BATCH = flags.DEFINE_integer("batch_size", 64, "Images of a batch.", lower_bound=1)
WORKERS = flags.DEFINE_integer("workers", -1, "Processes that decode; -1: one on each core.")
CROP = flags.DEFINE_enum("crop", "area", ["area", "scale"], "Random crops: see augment.crop.")
SIZE = flags.DEFINE_integer("size", 224, "Pixels of a crop on each side.", lower_bound=8)
WIDTHS = flags.DEFINE_list("widths", ["4", "8", "16", "32"], "Of the small ResNet-18's stages.")
OUTPUT = flags.DEFINE_string("output", None, "File for the JSON as well.")

MOST_RATIO = 1.1  # of stream to bare, above which the measurement must be wrong

_decoder: Decoder | None = None  # of a process that decodes


def make_config(data_dir: Path) -> ConfigDict:
    """A small ResNet-18 on the images of `data_dir`."""
    from flaxres.config import default_config, set_model

    config = set_model(default_config(), "resnet-18", stem="imagenet")
    config.model.widths = tuple(map(int, WIDTHS.value))
    config.dataset.name, config.dataset.data_dir = "folder", str(data_dir)
    config.dataset.image_size, config.dataset.mean_images = SIZE.value, 200
    config.dataset.workers = WORKERS.value
    config.augment.crop = CROP.value
    if CROP.value == "scale":  # of He15 for 224 pixels, in proportion
        config.augment.short_side_range = (SIZE.value * 256 // 224, SIZE.value * 480 // 224)
    config.batch_size = config.eval_batch_size = BATCH.value
    config.learning_rate, config.num_devices = 0.02, 1
    config.num_steps = config.eval_every = 10**9  # never
    config.boundaries = ()
    return config


def begin(decoder: Decoder) -> None:
    """Prepares a process of `Bare`."""
    global _decoder
    _decoder = decoder


def decode(parts: list) -> int:
    """Decodes parts, each over the one before, and returns how many images they had."""
    out = DecodedImages.empty(0, _decoder.image_shape)
    for part in parts:
        if len(out.labels) != len(part):
            out = DecodedImages.empty(len(part), _decoder.image_shape)
        _decoder(part, out)
    return sum(map(len, parts))


class Bare:
    """Processes that decode parts of batches and keep nothing."""

    def __init__(self, config: ConfigDict, dataset: StreamedDataset):
        """Starts them, and has each decode once."""
        from flaxres.data.stream_schedule import StreamSchedule

        self._workers = max(1, num_workers(config.dataset.workers))
        self._schedule = StreamSchedule(config.batch_size, 10**9, 10**9, {"test": 1}, 1)
        context = multiprocessing.get_context("spawn")
        self._pool = context.MomentAccumulator(self._workers, begin, (dataset.decoder(),))
        self._step = 0
        self.run(self._workers)

    def run(self, batches: int) -> float:
        """Images per second over so many batches."""
        steps = range(self._step, self._step + batches)
        parts = [part for step in steps for part in self._schedule.step_tasks(step)]
        self._step += batches
        shares = [parts[i :: self._workers] for i in range(self._workers)]
        began = time.perf_counter()
        count = sum(self._pool.map(decode, shares, chunksize=1))
        return count / (time.perf_counter() - began)

    def close(self) -> None:
        """Ends the processes."""
        self._pool.terminate()
        self._pool.join()


class Streamed:
    """Batches as the loop gets them, and a net that may be trained on them."""

    def __init__(self, config: ConfigDict, dataset: StreamedDataset):
        """Compiles a step, and starts the workers."""
        from flaxres.training.compiled_steps import CompiledSteps
        from flaxres.training.stream_pipeline import StreamPipeline

        self._config = config
        self._compiled_steps = CompiledSteps(config, dataset)
        self._state = self._compiled_steps.initial_state()
        self._pipeline = StreamPipeline(config, self._compiled_steps, dataset)
        self._pipeline.start(0, 1)
        self._ahead = self._pipeline.max_ahead + 2
        self._at = 0
        self._last = self._pipeline.next(0, 1)
        self._steps = self._compiled_steps.compile_train_steps(self._state, self._last[0], 1)
        self.waited = 0.0

    def _next(self) -> tuple:
        self._at += 1
        return self._pipeline.next(self._at, 1)

    def deliver(self, batches: int) -> float:
        """Images per second to a consumer that does nothing."""
        import jax

        for _ in range(self._ahead):
            self._next()
        began = time.perf_counter()
        for _ in range(batches):
            jax.block_until_ready(self._next()[0].images)
        return batches * self._config.batch_size / (time.perf_counter() - began)

    def train(self, batches: int) -> float:
        """Images per second of training; sets `waited`, percent of the time."""
        import jax

        metrics = None
        for count in range(self._ahead + batches):
            if count == self._ahead:
                jax.block_until_ready(metrics)
                self._pipeline.record()
                began = time.perf_counter()
            if metrics is not None and not self._pipeline.is_ready():
                jax.block_until_ready(metrics)
            self._state, metrics = self._steps(self._state, *self._next())
        jax.block_until_ready(metrics)
        seconds = time.perf_counter() - began
        self.waited = self._pipeline.record()["data_wait_percent"]
        return batches * self._config.batch_size / seconds

    def steps(self, batches: int) -> float:
        """Images per second of the same steps on one batch that is there."""
        import jax

        began = time.perf_counter()
        for _ in range(batches):
            self._state, metrics = self._steps(self._state, *self._last)
        jax.block_until_ready(metrics)
        return batches * self._config.batch_size / (time.perf_counter() - began)

    def close(self) -> None:
        """Ends the workers."""
        self._pipeline.close()


def memory() -> float:
    """MiB that this process and its children have in memory, what they share counted in each."""
    pids = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
    page = os.sysconf("SC_PAGE_SIZE")
    return (
        sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids) * page / 2**20
    )


def settle(timeout: float = 60) -> None:
    """Returns when the child processes have nothing to do.

    Raises:
      RuntimeError: they still have after `timeout` seconds.
    """

    def used() -> float:
        fields = [
            Path(f"/proc/{child.pid}/stat").read_text().rsplit(")", 1)[1].split()
            for child in multiprocessing.active_children()
        ]
        return sum(int(own[11]) + int(own[12]) for own in fields) / os.sysconf("SC_CLK_TCK")

    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        before = used()
        time.sleep(1)
        if used() - before <= 0.03:
            return
    raise RuntimeError(f"workers are still busy after {timeout:.0f} s")


def check_ratio(ratio: Spread) -> None:
    """Checks that a stream was not faster than bare decoding, which it cannot be.

    Raises:
      RuntimeError: it was, by more than the noise of a busy machine.
    """
    if ratio.median > MOST_RATIO:
        raise RuntimeError(
            f"the stream was {ratio} times as fast as bare decoding by as many workers, which it "
            "cannot be: other programs had the cores meanwhile, or images that were decoded before "
            "the clock started have been counted; measure on an idle machine, with more --batches"
        )


def main() -> None:
    """Runs the rounds and prints a table and one JSON object."""
    if not Path("/proc/self/statm").exists():
        raise ConfigError("memory is read from /proc, which this system does not have")
    with tempfile.TemporaryDirectory() as temporary:
        folder = make_folder(Path(DATA.value or temporary), IMAGES.value, 100)
        files = [file.stat().st_size for file in folder.glob("train/*/*.jpg")]
        config = make_config(folder)
        dataset = open_dataset(config)
        bare, streamed = Bare(config, dataset), Streamed(config, dataset)
        ways = {
            "bare": bare.run,
            "stream": streamed.deliver,
            "training": streamed.train,
            "steps": streamed.steps,
        }
        rounds, memories, waits = [], [], []
        try:
            for number in range(ROUNDS.value):
                turn = number % len(ways)
                order = [*ways][turn:] + [*ways][:turn]
                rounds.append({})
                for way in order:
                    settle()
                    rounds[-1][way] = ways[way](BATCHES.value)
                waits.append(streamed.waited)
                memories.append(memory())
        finally:
            streamed.close()
            bare.close()
    speeds = {way: Spread.of([one[way] for one in rounds]) for way in ways}
    ratio = Spread.of([one["stream"] / one["bare"] for one in rounds])
    workers = num_workers(config.dataset.workers)
    show(
        f"{ROUNDS.value} rounds of {BATCHES.value} batches of {BATCH.value}, {workers} workers, "
        f"{len(files):,} files of {np.mean(files) / 1024:.0f} KiB: medians (quartiles)",
        ("", "images per second"),
        [(way, str(spread)) for way, spread in speeds.items()],
    )
    print(f"stream / bare: {ratio}; training waited {Spread.of(waits)}% of its time for images")
    print(
        f"memory: {memories[0]:,.0f} MiB after the first round, {memories[-1]:,.0f} MiB after the "
        f"last, {min(memories):,.0f} to {max(memories):,.0f} after any"
    )
    result = {"workers": workers, "images_per_second": speeds, "stream_over_bare": ratio}
    result |= {"data_wait_percent": Spread.of(waits), "memory_mib": memories}
    write(OUTPUT.value, result)
    check_ratio(ratio)


if __name__ == "__main__":
    cli.run(main)
