"""CIFAR-10 with a schedule short enough for an evening on a CPU: 2,000 steps of 128 images.

python -m flaxres.main --config=configs/cifar10_short.py:resnet-20 --workdir=runs/short/resnet-20

Everything but the schedule is that of `configs/cifar10.py`; the learning rate drops at one half and
three quarters, as there. The errors are far above the paper's: 2,000 steps are 5 epochs, not 164.
Nets of 20 layers take some four minutes on two CPU cores, nets of 56 some twelve.
"""

from configs import cifar10


def get_config(net: str = "resnet-20"):
    """The shortened experiment with the net that `net` names."""
    config = cifar10.get_config(net)
    config.name = "cifar10_short"
    config.num_steps = 2_000
    config.boundaries = (1_000, 1_500)
    config.log_every = 20
    config.eval_every = 200
    config.checkpoint_every = 100
    return config
