"""Every net trains on the digits, under jit and pmap: small ones, and with -m nets the papers'."""

import numpy as np
import pytest

from configs import digits
from flaxres.config import set_model
from flaxres.training.train import train_and_evaluate

# Families in a size that compiles in seconds: net, stem, pixels, other fields of the model.
SMALL = [
    ("resnet-8-dropout", "cifar", 8, {"widths": (4, 8, 8)}),
    ("preact-11-bottleneck", "cifar", 8, {"widths": (4, 8, 8)}),
    ("resnext-11-2x4d", "cifar", 8, {"widths": (4, 8, 8)}),
    ("resnet-18", "imagenet", 32, {"widths": (4, 4, 8, 8), "zero_init": True}),
    ("densenet-bc-16-4", "cifar", 8, {}),
    ("vgg-11", "imagenet", 32, {"widths": (4, 4, 8, 8, 8), "hidden": (16,)}),
    ("lenet-5", "cifar", 8, {}),
    ("stargan-1", "cifar", 8, {"widths": (4, 8, 8), "norm": "instance-running"}),
]
PAPERS = [
    *((net, "cifar", 8, {}) for net in ("plain-110", "resnet-110", "resnet-20-C")),
    *((net, "cifar", 8, {}) for net in ("resnet-110-scale", "resnet-110-shortcut-gate")),
    *((net, "cifar", 8, {}) for net in ("preact-110", "preact-164", "resnext-29-8x64d")),
    ("resnet-1202", "cifar", 8, {"scan": True, "remat": True}),
    ("preact-1001", "cifar", 8, {"scan": True, "remat": True}),
    *((net, "cifar", 8, {}) for net in ("densenet-40-12", "densenet-bc-100-12", "stargan-6")),
    *((net, "cifar", 32, {}) for net in ("vgg-13", "vgg-13-skip", "lenet-5")),
    *((net, "imagenet", 32, {}) for net in ("plain-18", "plain-34", "resnet-18", "resnet-34-A")),
    *((net, "imagenet", 32, {}) for net in ("resnet-50", "resnet-101", "resnet-152")),
    *((net, "imagenet", 32, {}) for net in ("resnext-50-32x4d", "densenet-121", "vgg-13")),
]


def train(workdir, net, stem, pixels, fields, batch_size):
    """An epoch under each compiler; returns the last records."""
    records = []
    for parallelism in ("jit", "pmap"):
        config = set_model(digits.get_config(), net, stem)
        config.model.update(fields)
        config.dataset.image_size = pixels
        config.parallelism, config.num_devices = parallelism, 2
        config.batch_size = batch_size
        config.num_steps = 1_437 // batch_size
        config.learning_rate, config.boundaries = 0.01, ()
        config.warmup.enabled = False
        records.append(train_and_evaluate(config, workdir / parallelism))
    return records


@pytest.mark.parametrize(("net", "stem", "pixels", "fields"), SMALL)
def test_an_epoch_of_a_small_one(tmp_path, net, stem, pixels, fields):
    one, other = train(tmp_path, net, stem, pixels, fields, 180)
    assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-3)
    assert one["test_loss"] == pytest.approx(other["test_loss"], rel=1e-2)
    assert np.isfinite(one["test_loss"])


@pytest.mark.nets
@pytest.mark.parametrize(("net", "stem", "pixels", "fields"), PAPERS)
def test_an_epoch_of_the_papers(tmp_path, net, stem, pixels, fields):
    for record in train(tmp_path, net, stem, pixels, fields, 128):
        assert np.isfinite([record["train_loss"], record["test_loss"]]).all()
