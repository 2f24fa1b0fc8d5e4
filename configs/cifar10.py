"""CIFAR-10 as in He15 (arXiv 1512.03385), section 4.2: 64,000 steps of 128 images.

python -m flaxres.main --config=configs/cifar10.py:resnet-56 --workdir=runs/resnet-56

Nets: plain-20, plain-32, ..., resnet-20, ..., resnet-110, resnet-1202, resnet-56-B, resnet-56-C.
Meant for an accelerator, where its time has not been measured yet; a CPU would take a day and more
a net. Expect test errors near those of the paper's table 6: ResNet-20 8.75%,
ResNet-32 7.51%, ResNet-44 7.17%, ResNet-56 6.97%, ResNet-110 6.43%; and plain nets that get worse
with depth on the training set too.
"""

from flaxres.config import default_config, set_model


def get_config(net: str = "resnet-20"):
    """The paper's experiment with the net that `net` names."""
    config = default_config()  # its defaults are the paper's
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
    return set_model(config, net)
