"""The paper's recipe in PyTorch, to compare its errors with those of flaxres on the same data.

python -m benchmarks.torch_train --config=configs/cifar10.py:resnet-20 --workdir=DIR

With DIR = WORKDIR/pytorch/resnet-20/seed-0, where WORKDIR is that of `experiments.reproduction`,
the run appears in the same tables as the runs of flaxres.

The data set, the order of the images and the config are those of `flaxres.main`. The model, its
initialization, augmentation, train step and evaluation are PyTorch's (`benchmarks.torch_peer`).
Rerun the same command to resume from the last checkpoint.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from absl import flags
from ml_collections import ConfigDict
from torch import nn

from benchmarks.torch_peer import PeerResNet, random_crop_flip
from flaxres import cli
from flaxres.config import check_config, flatten, model_name
from flaxres.data import Dataset, Split, load_dataset
from flaxres.data.sampler import EpochSampler
from flaxres.errors import ConfigError
from flaxres.files import expand_home
from flaxres.memory_estimate import check_memory
from flaxres.run.metric_writers import JsonLinesWriter
from flaxres.run.terminal_writer import TerminalWriter
from flaxres.run.workdir import open_workdir
from flaxres.training.dispatches import due
from flaxres.training.step_timer import StepTimer

WORKDIR = flags.DEFINE_string(
    "workdir", None, "Run directory, such as runs/reproduction/pytorch/resnet-20/seed-0."
)
CHECKPOINT_FILE = "checkpoint.pt"
cli.define_config("configs/cifar10.py:resnet-20")


def _check_recipe(config: ConfigDict) -> None:
    """Checks that all fields with a fixed value here have that of He15, section 4.2.

    Raises:
      ConfigError: with the first field that has another value.
    """
    supported: dict[str, Any] = {
        "schedule": "piecewise-constant",
        "linear_warmup_steps": 0,
        "optimizer": "sgd",
        "clip_norm": 0,
        "layer_decay": 1,
        "nesterov": False,
        "label_smoothing": 0,
        "augment.crop": "pad",
        "augment.color": 0,
        "init_from": None,
        "transfer.frozen": [],
        "transfer.backbone_learning_rate_scale": 1,
    }
    values = flatten(config)
    for field, value in supported.items():
        if values[field] != value:
            raise ConfigError(
                f"the PyTorch implementation supports only {field} {value!r}, got {values[field]!r}"
            )


class Run:
    """A model with its optimizer and data, on the device.

    Attributes:
      config: config of the run.
      model: the model, in channels_last memory format.
      step: number of steps done.
      sums: summed loss, and numbers of misclassified and all images, since the last logged step.
    """

    def __init__(self, config: ConfigDict, dataset: Dataset, device: torch.device):
        """Initializes the weights with the seed of the config.

        Raises:
          ConfigError: a field has a value that the PyTorch implementation does not support.
        """
        options = config.model
        has_recipe_model = options.shortcut in ("A", "none") and options.norm == "batch"
        if not has_recipe_model or config.warmup.enabled:
            raise ConfigError(
                "the PyTorch implementation supports only shortcut option A, batch norm and no "
                "warm-up"
            )
        _check_recipe(config)
        self.config, self._device, self.step = config, device, 0
        self.sums = torch.zeros(3, device=device)
        torch.manual_seed(config.seed)
        channels = dataset.image_shape[2]
        self.model = PeerResNet(
            options.depth, options.name == "plain", channels, tuple(options.widths)
        )
        for module in self.model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
            if isinstance(module, nn.BatchNorm2d):
                module.eps, module.momentum = options.norm_epsilon, 1 - options.norm_momentum
        self.model.to(device, memory_format=torch.channels_last)
        kernels = [p for p in self.model.parameters() if p.ndim > 1]
        others = [p for p in self.model.parameters() if p.ndim == 1]
        decay = config.weight_decay if config.weight_decay_on == "all" else 0.0
        self._optimizer = torch.optim.SGD(
            [{"params": kernels}, {"params": others, "weight_decay": decay}],
            config.learning_rate,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
        )
        self._mean = torch.from_numpy(dataset.mean_image()).to(device)
        self._train, self._test = (self._put(split) for split in (dataset.train, dataset.test))
        self._sampler = EpochSampler(len(dataset.train), config.batch_size, config.seed)
        self._autocast = config.dtype == "bfloat16"

    def _put(self, split: Split) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = (
            torch.from_numpy(array).to(self._device)
            for array in (split.images, split.labels.astype(np.int64))
        )
        return images, labels

    def _forward(
        self, images: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Computes the mean loss and the number of misclassified images."""
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._autocast):
            logits = self.model(images.permute(0, 3, 1, 2))
        wrong = (logits.argmax(1) != labels).sum()
        return F.cross_entropy(logits.float(), labels), wrong

    def learning_rate(self) -> float:
        """Returns the learning rate of the next step."""
        drops = sum(self.step >= boundary for boundary in self.config.boundaries)
        learning_rate: float = self.config.learning_rate * self.config.decay_factor**drops
        return learning_rate

    def advance(self) -> None:
        """Runs a step, whose loss and errors are added to `sums`."""
        rows = torch.from_numpy(self._sampler.indices(self.step)[0]).long().to(self._device)
        torch.manual_seed(self.config.seed * self.config.num_steps + self.step)
        images = self._train[0][rows].float() / 255 - self._mean
        images = random_crop_flip(images, self.config.augment.pad, self.config.augment.flip)
        self.model.train()
        loss, wrong = self._forward(images, self._train[1][rows])
        for group in self._optimizer.param_groups:
            group["lr"] = self.learning_rate()
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        self.step += 1
        count = torch.tensor(float(len(rows)), device=self._device)
        self.sums += torch.stack([loss.detach() * count, wrong.float(), count])

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Returns loss and error in percent on the test split, with running statistics."""
        self.model.eval()
        sums = torch.zeros(2, device=self._device)
        for images, labels in zip(
            *(array.split(self.config.eval_batch_size) for array in self._test), strict=True
        ):
            loss, wrong = self._forward(images.float() / 255 - self._mean, labels)
            sums += torch.stack([loss * len(labels), wrong.float()])
        loss, wrong = (sums / len(self._test[1])).tolist()
        return {"test_loss": loss, "test_error": 100 * wrong}

    def save(self, path: Path) -> None:
        """Writes a checkpoint."""
        state = {"step": self.step, "net": self.model.state_dict(), "sums": self.sums}
        temporary = path.with_suffix(".tmp")
        torch.save(state | {"optimizer": self._optimizer.state_dict()}, temporary)
        os.replace(temporary, path)

    def restore(self, path: Path) -> int:
        """Restores a checkpoint, if there is one, and returns the number of steps done."""
        if path.exists():
            state = torch.load(path, map_location=self._device, weights_only=True)
            self.step, self.sums = state["step"], state["sums"]
            self.model.load_state_dict(state["net"])
            self._optimizer.load_state_dict(state["optimizer"])
        return self.step


def train(config: ConfigDict, workdir: Path) -> None:
    """Trains a run to its last step; resumes from the checkpoint in `workdir` if there is one.

    Raises:
      UserError: the config is invalid, data is missing, or `workdir` belongs to another run.
    """
    check_config(config)
    check_memory(config)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    run = Run(config, load_dataset(config.dataset), device)
    info = {
        "params": sum(p.numel() for p in run.model.parameters()),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
    }
    title, path = f"{model_name(config.model)} (PyTorch)", workdir / CHECKPOINT_FILE
    with (
        open_workdir(workdir, config, info, step=lambda: run.restore(path)),
        TerminalWriter(title, config.num_steps) as terminal,
    ):
        metrics, timer = JsonLinesWriter(workdir, run.step), StepTimer(run.step)
        terminal.restart_clock(run.step)
        while run.step < config.num_steps:
            learning_rate = run.learning_rate()
            run.advance()
            log, evaluate, save = due(config, run.step)
            if log or evaluate:
                loss, wrong, _ = (run.sums / run.sums[2]).tolist()
                record = {
                    "step": run.step,
                    "train_loss": loss,
                    "train_error": 100 * wrong,
                    "learning_rate": learning_rate,
                    "images_per_second": timer.steps_per_second(run.step) * config.batch_size,
                }
                record |= run.evaluate() if evaluate else {}
                metrics.write(record)
                terminal.write(record)
                run.sums = torch.zeros(3, device=device)
                timer.restart(run.step)
            if save:
                metrics.sync()
                run.save(path)
        metrics.close()


def main() -> None:
    """Trains the run that the flags describe.

    Raises:
      ConfigError: --workdir is missing.
    """
    config = cli.get_config()
    if WORKDIR.value is None:
        raise ConfigError(
            "--workdir is missing; set it to e.g. runs/reproduction/pytorch/resnet-20/seed-0"
        )
    torch.backends.cudnn.benchmark = True
    print(json.dumps({"torch": torch.__version__, "threads": torch.get_num_threads()}))
    train(config, expand_home(WORKDIR.value, "--workdir"))


if __name__ == "__main__":
    cli.run(main, trains=False)
