"""CIFAR-10 as in He15 (arXiv 1512.03385), section 4.2: 64,000 steps of 128 images.

python -m flaxres.main --config=configs/cifar10.py:resnet-56 --workdir=runs/resnet-56

Models: plain-20, plain-32, ..., resnet-20, ..., resnet-110, resnet-1202, resnet-56-B, resnet-56-C.
Expect test errors near those of the paper's table 6: ResNet-20 8.75 %, ResNet-32 7.51 %,
ResNet-44 7.17 %, ResNet-56 6.97 %, ResNet-110 6.43 %. Plain models get worse with depth, on the
training set too. On two Zen 5 cores, ResNet-20 takes 73 minutes and ResNet-56 3.6 hours (estimated
from the time of a step at commit 516c4b1); on an accelerator the time has not been measured yet.
"""

from ml_collections import ConfigDict

from flaxres.config import default_config, set_model


def get_config(model: str = "resnet-20") -> ConfigDict:
    """Returns the paper's experiment for a model name such as 'resnet-56'."""
    config = default_config()  # the paper's values, repeated here to be seen in one place
    config.name = "cifar10"
    config.batch_size = 128
    config.num_steps = 64_000
    config.learning_rate = 0.1
    config.boundaries = (32_000, 48_000)
    config.momentum = 0.9
    config.weight_decay = 1e-4
    config.dataset.name = "cifar10"
    config.augment.pad = 4
    config.augment.flip = True
    return set_model(config, model)
