"""ImageNet as in He15 (arXiv 1512.03385), section 3.4, with the nets of section 4.1 and later ones.

python -m flaxres.main --config=configs/imagenet.py:resnet-50 --mode=summary

Nets: resnet-18, -34, -50, -101, -152, plain-18, plain-34, resnext-50-32x4d, densenet-121, vgg-13,
vgg-13-skip, and resnet-34-A, -C for the other shortcuts. A set that is held in memory, such as
`--config.dataset.name=imagenette`, can be trained on; all of ImageNet cannot be held.
"""

from flaxres.config import default_config, set_net


def get_config(net: str = "resnet-50"):
    """The experiment with the net that `net` names."""
    config = default_config()
    config.name = "imagenet"
    config.batch_size = 256
    config.num_steps = 600_000
    config.learning_rate = 0.1
    # The paper divides the rate by 10 "when the error plateaus" and does not say when that was.
    config.boundaries = (150_000, 300_000, 450_000)
    config.momentum = 0.9
    config.weight_decay = 1e-4
    config.eval_every = 5_000
    config.dataset.name = "imagenet2012"
    config.dataset.test_split = "validation"
    config.dataset.image_size = 224
    config.augment.pad = 0
    config.augment.flip = True
    return set_net(config, net, stem="imagenet")
