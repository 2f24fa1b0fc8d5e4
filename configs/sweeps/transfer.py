"""Fine-tuning against training from scratch: cats and dogs after the other classes of CIFAR-10.

python -m flaxres.main --config=configs/cifar10_short.py:resnet-20 --workdir=runs/cats_dogs/eight \
    --config.num_steps=1000 --config.boundaries="(500,750)" \
    --config.dataset.classes="('airplane','automobile','bird','deer','frog','horse','ship','truck')"
flaxres sweep --sweep=configs/sweeps/transfer.py --workdir=runs/transfer

The first command trains ResNet-20 on the eight other classes; the sweep initializes from it. The
variants freeze more and more layers, from none to the whole backbone, as in Yosinski et al. 2014
(arXiv 1411.1792), section 4.
"""

from typing import Any

from flaxres.experiments.sweeps import grid

PRETRAINED = "runs/cats_dogs/eight"
MODEL = "resnet-20"
FROZEN = {
    "all-layers": (),
    "frozen-stage1": ("conv", "norm", "stage1"),
    "frozen-stage2": ("conv", "norm", "stage1", "stage2"),
    "frozen-body": ("backbone",),
}
BACKBONE_LEARNING_RATE_SCALE = 0.1
SEEDS = range(3)


def get_sweep(config: str = "configs/cifar10_cats_dogs.py") -> list[dict[str, Any]]:
    """Returns the runs of two models trained from scratch and of all fine-tuning variants."""
    pretrained = {"init_from": PRETRAINED, "transfer.new_head": True}
    variants: dict[str, tuple[str, dict[str, Any]]] = {
        "lenet-5": ("lenet-5", {}),
        "scratch": (MODEL, {}),
    }
    for name, frozen in FROZEN.items():
        variants[name] = (MODEL, pretrained | {"transfer.frozen": frozen})
    scale = {"transfer.backbone_learning_rate_scale": BACKBONE_LEARNING_RATE_SCALE}
    variants["slow-body"] = (MODEL, pretrained | scale)
    return grid(config, variants, SEEDS)
