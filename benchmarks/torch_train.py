"""The paper's recipe in PyTorch: what the errors of flaxres are compared with, on the same data.

python -m benchmarks.torch_train --config=configs/cifar10.py:resnet-20 --workdir=DIR

where DIR is pytorch/resnet-20/seed-0 in the workdir of `experiments.reproduction`, which then puts
the run beside its own.

Reads the data set, its order and the config of `flaxres.main`; net, initialisation, augmentation,
steps and evaluation are PyTorch's (`benchmarks.torch_peer`). The same command goes on from the last
checkpoint.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from absl import flags
from ml_collections import ConfigDict
from torch import nn

from benchmarks.torch_peer import BaseModel, random_crop_flip
from flaxres import cli
from flaxres.config import check_config, flatten, model_name
from flaxres.data import Dataset, Split, load_dataset
from flaxres.data.sampler import EpochSampler
from flaxres.errors import ConfigError
from flaxres.run.metric_writers import JsonLinesWriter, TerminalWriter
from flaxres.run.workdir import open_workdir
from flaxres.training.loop import StepTimer, due

WORKDIR = flags.DEFINE_string("workdir", None, "Where the run goes.")
CHECKPOINT_FILE = "checkpoint.pt"
cli.define_config("configs/cifar10.py:resnet-20")


def _check_recipe(config: ConfigDict) -> None:
    """Checks that the recipe is that of He15, section 4.2, but for its numbers.

    Raises:
      ConfigError: the first field that the peer does not have.
    """
    known = {
        **{"schedule": "drops", "linear_warmup_steps": 0, "nesterov": False, "label_smoothing": 0},
        **{"augment.crop": "pad", "augment.color": 0, "init_from": None},
        **{"transfer.frozen": [], "transfer.backbone_learning_rate_scale": 1},
    }
    for field, value in known.items():
        if (given := flatten(config)[field]) != value:
            raise ConfigError(f"the PyTorch peer has {field} {value!r} only, got {given!r}")


class Run:
    """A net with its optimizer and the data, on the device.

    Attributes:
      net: in channels_last.
      step: steps done.
    """

    def __init__(self, config: ConfigDict, dataset: Dataset, device: torch.device):
        """Draws the weights with the config's seed.

        Raises:
          ConfigError: a field that the peer does not have.
        """
        model = config.model
        if model.shortcut not in ("A", "none") or model.norm != "batch" or config.warmup.enabled:
            raise ConfigError("the PyTorch peer has option A, batch norm and no warm-up only")
        _check_recipe(config)
        self.config, self._device, self.step = config, device, 0
        torch.manual_seed(config.seed)
        channels = dataset.image_shape[2]
        self.net = BaseModel(model.depth, model.name == "plain", channels, tuple(model.widths))
        for module in self.net.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
            if isinstance(module, nn.BatchNorm2d):
                module.eps, module.momentum = model.norm_epsilon, 1 - model.norm_momentum
        self.net.to(device, memory_format=torch.channels_last)
        kernels = [p for p in self.net.parameters() if p.ndim > 1]
        others = [p for p in self.net.parameters() if p.ndim == 1]
        decay = config.weight_decay if config.weight_decay_on == "all" else 0.0
        self._optimizer = torch.optim.SGD(
            [{"params": kernels}, {"params": others, "weight_decay": decay}],
            config.learning_rate,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
        )
        self._mean = torch.from_numpy(dataset.mean_image()).to(device)
        self._train, self._test = (self._put(split) for split in (dataset.train, dataset.test))
        self._order = EpochSampler(len(dataset.train), config.batch_size, config.seed)
        self._autocast = config.dtype == "bfloat16"

    def _put(self, split: Split) -> tuple[torch.Tensor, torch.Tensor]:
        arrays = (split.images, split.labels.astype(np.int64))
        return tuple(torch.from_numpy(array).to(self._device) for array in arrays)

    def _forward(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Loss, and number of wrong images."""
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._autocast):
            logits = self.net(images.permute(0, 3, 1, 2))
        wrong = (logits.argmax(1) != labels).sum()
        return F.cross_entropy(logits.float(), labels), wrong

    def rate(self) -> float:
        """The learning rate of the next step."""
        drops = sum(self.step >= boundary for boundary in self.config.boundaries)
        return self.config.learning_rate * self.config.decay_factor**drops

    def advance(self) -> torch.Tensor:
        """Makes a step; returns the sum of its losses, the wrong images, and all images."""
        rows = torch.from_numpy(self._order.indices(self.step)[0]).long().to(self._device)
        torch.manual_seed(self.config.seed * self.config.num_steps + self.step)
        images = self._train[0][rows].float() / 255 - self._mean
        images = random_crop_flip(images, self.config.augment.pad, self.config.augment.flip)
        self.net.train()
        loss, wrong = self._forward(images, self._train[1][rows])
        for group in self._optimizer.param_groups:
            group["lr"] = self.rate()
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        self.step += 1
        count = torch.tensor(float(len(rows)), device=self._device)
        return torch.stack([loss.detach() * count, wrong.float(), count])

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Loss and error (percent) on the test split, with running statistics."""
        self.net.eval()
        sums = torch.zeros(2, device=self._device)
        for images, labels in zip(
            *(array.split(self.config.eval_batch_size) for array in self._test), strict=True
        ):
            loss, wrong = self._forward(images.float() / 255 - self._mean, labels)
            sums += torch.stack([loss * len(labels), wrong.float()])
        loss, wrong = (sums / len(self._test[1])).tolist()
        return {"test_loss": loss, "test_error": 100 * wrong}

    def save(self, path: Path, sums: torch.Tensor) -> None:
        """Writes all that a restart needs."""
        state = {"step": self.step, "net": self.net.state_dict(), "sums": sums}
        temporary = path.with_suffix(".tmp")
        torch.save(state | {"optimizer": self._optimizer.state_dict()}, temporary)
        os.replace(temporary, path)

    def load(self, path: Path) -> torch.Tensor:
        """Reads it back."""
        state = torch.load(path, map_location=self._device, weights_only=True)
        self.step = state["step"]
        self.net.load_state_dict(state["net"])
        self._optimizer.load_state_dict(state["optimizer"])
        return state["sums"]


def train(config: ConfigDict, workdir: Path) -> None:
    """Trains the run of `config` to its last step, going on from what is there.

    Raises:
      UserError: a bad config, missing data, or a workdir of another run.
    """
    check_config(config)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    run = Run(config, load_dataset(config.dataset), device)
    info = {
        "params": sum(p.numel() for p in run.net.parameters()),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
    }
    name, path = f"{model_name(config.model)} (PyTorch)", workdir / CHECKPOINT_FILE
    with (
        open_workdir(workdir, config, info),
        TerminalWriter(name, config.num_steps) as terminal,
    ):
        sums = run.load(path) if path.exists() else torch.zeros(3, device=device)
        metrics, clock = JsonLinesWriter(workdir, run.step), StepTimer(run.step)
        terminal.restart_clock(run.step)
        while run.step < config.num_steps:
            rate = run.rate()
            sums += run.advance()
            log, evaluate, save = due(config, run.step)
            if log or evaluate:
                loss, wrong, _ = (sums / sums[2]).tolist()
                record = {
                    "step": run.step,
                    "train_loss": loss,
                    "train_error": 100 * wrong,
                    "learning_rate": rate,
                    "images_per_second": clock.steps_per_second(run.step) * config.batch_size,
                }
                record |= run.evaluate() if evaluate else {}
                metrics.write(record)
                terminal.write(record)
                sums = torch.zeros(3, device=device)
                clock.restart(run.step)
            if save:
                metrics.sync()
                run.save(path, sums)
        metrics.close()


def main() -> None:
    """Trains the run that the flags describe."""
    config = cli.get_config()
    if WORKDIR.value is None:
        raise ConfigError("--workdir is missing; give it e.g. DIR/pytorch/resnet-20/seed-0")
    torch.backends.cudnn.benchmark = True
    print(json.dumps({"torch": torch.__version__, "threads": torch.get_num_threads()}))
    train(config, Path(WORKDIR.value).expanduser())


if __name__ == "__main__":
    cli.run(main, trains=False)
