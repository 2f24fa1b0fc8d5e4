"""Fine-tuning against training from scratch: cats and dogs after the other classes of CIFAR-10.

python -m flaxres.main --config=configs/cifar10_short.py:resnet-20 --workdir=runs/cats_dogs/eight \
    --config.num_steps=1000 --config.boundaries="(500,750)" \
    --config.dataset.classes="('airplane','automobile','bird','deer','frog','horse','ship','truck')"
python -m experiments.sweep --sweep=configs/sweeps/transfer.py --workdir=runs/transfer

The first command trains what the second begins with: ResNet-20 on the eight classes. What is frozen
rises from nothing to all but the head, as in Yosinski et al. 2014 (arXiv 1411.1792), section 4.
"""

from experiments.sweeps import grid

START = "runs/cats_dogs/eight"
NET = "resnet-20"
FROZEN = {
    "all-layers": (),
    "frozen-stage1": ("conv", "norm", "stage1"),
    "frozen-stage2": ("conv", "norm", "stage1", "stage2"),
    "frozen-body": ("backbone",),
}
SLOW = 0.1  # times the rate, in the body
SEEDS = range(3)


def get_sweep(config: str = "configs/cifar10_cats_dogs.py"):
    """Two nets from scratch, and one that goes on from the eight classes in several ways."""
    start = {"init_from": START, "transfer.new_head": True}
    variants = {"lenet-5": ("lenet-5", {}), "scratch": (NET, {})}
    for name, frozen in FROZEN.items():
        variants[name] = (NET, start | {"transfer.frozen": frozen})
    variants["slow-body"] = (NET, start | {"transfer.backbone_learning_rate_scale": SLOW})
    return grid(config, variants, SEEDS)
