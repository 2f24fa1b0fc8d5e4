"""CIFAR-10 with a later recipe: 200 epochs, Nesterov momentum, cosine schedule and Cutout.

python -m flaxres.main --config=configs/cifar10_modern.py:wrn-28-10 --workdir=runs/wrn-28-10

Models: wrn-28-10, wrn-16-4 and every other model for CIFAR. Batch size, learning rate, momentum and
weight decay are those of Zagoruyko and Komodakis 2016 (arXiv 1605.07146), section 3, with the
cosine of Loshchilov and Hutter 2017 (arXiv 1608.03983) instead of drops, and with the Cutout of
DeVries and Taylor 2017 (arXiv 1708.04552), section 4.1: squares of 16 pixels.

No paper uses this exact combination. With drops of the learning rate by a factor of 5 after 60, 120
and 160 epochs, test errors of WRN-28-10 are

    4.00 % without Cutout (Zagoruyko and Komodakis, table 5)
    3.87 +- 0.08 % without and 3.08 +- 0.16 % with Cutout and dropout 0.3 (DeVries and Taylor,
    table 1).

`--config.augment.cutout=0 --config.augment.cutmix=1 --config.augment.mixing_probability=0.5` uses
CutMix instead (Yun et al. 2019, arXiv 1905.04899), and `--config.ema_decay=0.999` evaluates an
average of the weights beside them. The papers also divide images by the standard deviation of each
channel; except for its epsilon, batch norm makes this irrelevant. Meant for an accelerator; time
and errors have not been measured with this code.
"""

from ml_collections import ConfigDict

from flaxres.configs import cifar10

EPOCHS = 200


def get_config(model: str = "wrn-28-10") -> ConfigDict:
    """Returns the experiment for a model name such as 'wrn-28-10'."""
    config = cifar10.get_config(model)
    config.name = "cifar10_modern"
    config.batch_size = 128
    config.num_steps = EPOCHS * 50_000 // 128
    config.learning_rate = 0.1
    config.schedule = "cosine"
    config.boundaries = ()
    config.momentum = 0.9
    config.nesterov = True
    config.weight_decay = 5e-4
    config.dataset.mean = "channel"
    config.augment.cutout = 16
    return config
