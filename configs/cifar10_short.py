"""CIFAR-10 with a schedule for an evening on a CPU: 2,000 steps of 128 images.

python -m flaxres.main --config=configs/cifar10_short.py:resnet-20 --workdir=runs/short/resnet-20

Models: those of `configs/cifar10.py`, from which only the schedule differs; the learning rate still
decays at 1/2 and 3/4 of the steps. Errors are far above the paper's, because 2,000 steps are 5
epochs instead of 164. Models of 20 layers take about 4 minutes and models of 56 layers about 12
minutes on two CPU cores.
"""

from ml_collections import ConfigDict

from flaxres.configs import cifar10


def get_config(model: str = "resnet-20") -> ConfigDict:
    """Returns the shortened experiment for a model name such as 'resnet-20'."""
    config = cifar10.get_config(model)
    config.name = "cifar10_short"
    config.num_steps = 2_000
    config.boundaries = (1_000, 1_500)
    config.log_every = 20
    config.eval_every = 200
    config.checkpoint_every = 100
    return config
