"""ImageNet with today's recipe: 90 epochs, random resized crops, cosine schedule, label smoothing.

python -m flaxres.main --config=configs/imagenet_modern.py:resnet-50 --workdir=runs/imagenet/modern

Models: those of `configs/imagenet.py`. The differences from that file are from Goyal et al. 2017
(arXiv 1706.02677), section 5.1, and He et al. 2019 (arXiv 1812.01187), sections 2.1, 3 and 5. In
residual models each residual branch is initialized to zero, and bottlenecks have their stride in
the 3x3 convolution.

Meant for an accelerator. Neither paper uses this exact combination. The closest result is ResNet-50
in Goyal et al., table 1: 23.60 +- 0.12 % top-1 error on the center crop, with batches of 256, a
piecewise-constant schedule and no label smoothing. Time and error have not been measured with this
code.
"""

from ml_collections import ConfigDict

from flaxres.configs import imagenet

EPOCH = 5_000  # steps; 1,281,167 images in batches of 256 are 5,004.6 steps


def get_config(model: str = "resnet-50") -> ConfigDict:
    """Returns the experiment for a model name such as 'resnet-50'."""
    config = imagenet.get_config(model)
    config.name = "imagenet_modern"
    config.dtype = "bfloat16"  # He et al., section 3.2, use float16
    config.num_steps = 90 * EPOCH
    config.learning_rate = 0.1  # for batches of 256; Goyal et al. scale it with the batch size
    config.schedule = "cosine"
    config.boundaries = ()
    config.linear_warmup_steps = 5 * EPOCH
    config.nesterov = True
    config.label_smoothing = 0.1
    config.weight_decay_on = "kernels"  # no batch norm in both papers, no biases in He et al.
    config.dataset.mean = "channel"
    config.augment.crop = "random-resized"
    config.augment.area_range = (0.08, 1.0)
    config.augment.aspect_ratio_range = (3 / 4, 4 / 3)
    config.augment.color = 0.1
    if config.model.block == "bottleneck" and config.model.name != "densenet":
        config.model.stride_on = "3x3"
    if config.model.shortcut != "none":
        config.model.zero_init = True
    return config
