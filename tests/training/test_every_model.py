"""Every model trains on the digits, on two devices.

Small models run by default. The models of the papers, in full size, run with `-m nets`.
"""

import numpy as np
import pytest

from flaxres.config import set_model
from flaxres.configs import digits
from flaxres.training.train import train_and_evaluate

# Each family in a size that compiles in seconds: model, stem, image size, fields of the model.
SMALL = [
    ("preact-11-bottleneck", "cifar", 8, {"widths": (4, 8, 8)}),
    ("resnext-11-2x4d", "cifar", 8, {"widths": (4, 8, 8)}),
    ("resnet-18", "imagenet", 32, {"widths": (4, 4, 8, 8), "zero_init": True}),
    ("resnetrs-18", "imagenet", 32, {"widths": (4, 4, 8, 8), "drop_path": 0.5}),
    ("densenet-bc-16-4", "cifar", 8, {}),
    ("vgg-11", "imagenet", 32, {"widths": (4, 4, 8, 8, 8), "hidden": (16,)}),
    ("lenet-5", "cifar", 8, {}),
    ("dirac-8", "cifar", 8, {"widths": (4, 8, 8), "norm": "none"}),
    ("repvgg-8", "cifar", 8, {"widths": (4, 8, 8)}),
    ("plain-8", "cifar", 8, {"init": "dirac", "norm": "none", "activation": "tailored-relu"}),
    ("fixup-11-bottleneck", "cifar", 8, {"widths": (4, 8, 8)}),
    ("skipinit-8", "cifar", 8, {"widths": (4, 8, 8)}),
    ("convnext-13", "cifar", 8, {"widths": (4, 8, 8), "drop_path": 0.1}),
    ("resnet-8-concat", "cifar", 8, {"widths": (4, 8, 8)}),
]
# No model knows how its step is mapped; random numbers and running statistics could depend on it.
SMALL_UNDER_BOTH = [
    ("resnet-8-dropout", "cifar", 8, {"widths": (4, 8, 8)}),
    ("wrn-10-1", "cifar", 8, {"widths": (4, 8, 8), "block_dropout": 0.3}),
    ("stargan-1", "cifar", 8, {"widths": (4, 8, 8), "norm": "instance-running"}),
    (
        "sepreact-8",
        "cifar",
        8,
        {"widths": (4, 8, 8), "drop_path": 0.5, "drop_path_scope": "image"},
    ),
]
PAPERS = [
    *((model, "cifar", 8, {}) for model in ("plain-110", "resnet-110", "resnet-20-C")),
    *((model, "cifar", 8, {}) for model in ("resnet-110-scale", "resnet-110-shortcut-gate")),
    *((model, "cifar", 8, {}) for model in ("fixup-110", "rezero-110", "convnext-31")),
    *((model, "cifar", 8, {}) for model in ("preact-110", "preact-164", "resnext-29-8x64d")),
    *((model, "cifar", 8, {}) for model in ("wrn-16-4", "wrn-28-10", "resnet-18", "resnet-34")),
    ("resnet-1202", "cifar", 8, {"scan": True, "remat": True}),
    ("preact-1001", "cifar", 8, {"scan": True, "remat": True}),
    *((model, "cifar", 8, {}) for model in ("densenet-40-12", "densenet-bc-100-12", "stargan-6")),
    *((model, "cifar", 32, {}) for model in ("vgg-13", "vgg-13-skip", "lenet-5")),
    *(
        (model, "imagenet", 32, {})
        for model in ("plain-18", "plain-34", "resnet-18", "resnet-34-A")
    ),
    *((model, "imagenet", 32, {}) for model in ("resnet-50", "resnet-101", "resnet-152")),
    *((model, "imagenet", 32, {}) for model in ("resnext-50-32x4d", "densenet-121", "vgg-13")),
    *((model, "cifar", 8, {}) for model in ("dirac-56", "repvgg-56")),
    *((model, "imagenet", 32, {}) for model in ("dirac-34", "repvgg-a0")),
    *((model, "imagenet", 32, {}) for model in ("seresnet-50", "resnetd-50", "resnetrs-50")),
]


def train(workdir, model, stem, image_size, fields, batch_size, mappings=("jit", "pmap")):
    """Trains one epoch with each mapping over devices; returns the last records."""
    records = []
    for parallelism in mappings:
        config = set_model(digits.get_config(), model, stem)
        config.model.update(fields)
        config.dataset.image_size = image_size
        config.parallelism, config.num_devices = parallelism, 2
        config.batch_size = batch_size
        config.num_steps = 1_437 // batch_size
        config.learning_rate, config.boundaries = 0.01, ()
        config.warmup.enabled = False
        records.append(train_and_evaluate(config, workdir / parallelism))
    return records


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize(("model", "stem", "image_size", "fields"), SMALL)
def test_small_models_train(tmp_path, model, stem, image_size, fields):
    (record,) = train(tmp_path, model, stem, image_size, fields, 180, ("jit",))
    assert np.isfinite([record["train_loss"], record["test_loss"]]).all()


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize(("model", "stem", "image_size", "fields"), SMALL_UNDER_BOTH)
def test_small_models_train_alike_under_jit_and_pmap(tmp_path, model, stem, image_size, fields):
    jit_record, pmap_record = train(tmp_path, model, stem, image_size, fields, 180)
    assert jit_record["train_loss"] == pytest.approx(pmap_record["train_loss"], rel=1e-3)
    assert jit_record["test_loss"] == pytest.approx(pmap_record["test_loss"], rel=1e-2)
    assert np.isfinite(jit_record["test_loss"])


@pytest.mark.nets
@pytest.mark.parametrize(("model", "stem", "image_size", "fields"), PAPERS)
def test_models_of_the_papers_train(tmp_path, model, stem, image_size, fields):
    for record in train(tmp_path, model, stem, image_size, fields, 128):
        assert np.isfinite([record["train_loss"], record["test_loss"]]).all()
