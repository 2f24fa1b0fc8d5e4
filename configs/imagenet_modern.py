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

Procedures A2 and A3 of Wightman et al. 2021 (arXiv 2110.00476), table 2, follow the model:

python -m flaxres.main --config=configs/imagenet_modern.py:resnet-50:a3 --workdir=runs/imagenet/a3

They train ResNet-50 for 300 and 100 epochs to top-1 errors of 20.2 % and 21.9 %. Three details
differ here: A2 has no repeated augmentation; A3 is evaluated at its training resolution of 160
pixels instead of 224; PCA color augmentation is off, as in the paper, but images are not divided by
the standard deviation of each channel, which the first batch norm makes irrelevant. Gradients are
clipped to norm 1 as by default in LAMB of timm, with which the paper trained.
"""

from ml_collections import ConfigDict

from flaxres.configs import imagenet
from flaxres.errors import ConfigError

EPOCH = 5_000  # steps; 1,281,167 images in batches of 256 are 5,004.6 steps
PROCEDURE_EPOCH = 626  # steps; 625.6 in batches of 2,048


def get_config(model: str = "resnet-50") -> ConfigDict:
    """Returns the experiment for a model name such as 'resnet-50' or 'resnet-50:a3'.

    Raises:
      ConfigError: there is no model or no procedure of this name.
    """
    model, _, procedure = model.partition(":")
    if procedure not in ("", "a2", "a3"):
        raise ConfigError(f"the procedure after the model must be a2 or a3, got {procedure!r}")
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
    # Branches of Fixup, SkipInit and ReZero are zero at first anyway.
    starts_at_zero = config.model.name == "fixup" or config.model.branch_scale != "none"
    if config.model.shortcut != "none" and not starts_at_zero:
        config.model.zero_init = True
    return _strike_back(config, procedure) if procedure else config


def _strike_back(config: ConfigDict, procedure: str) -> ConfigDict:
    """Changes the experiment into procedure 'a2' or 'a3' of Wightman et al. 2021, table 2."""
    config.name = f"imagenet_{procedure}"
    config.batch_size = 2_048
    config.num_steps = {"a2": 300, "a3": 100}[procedure] * PROCEDURE_EPOCH
    config.linear_warmup_steps = 5 * PROCEDURE_EPOCH
    config.optimizer = "lamb"
    config.learning_rate = {"a2": 5e-3, "a3": 8e-3}[procedure]
    config.nesterov = False
    config.adam.epsilon = 1e-6  # timm's default, as the following
    config.clip_norm = 1.0
    config.weight_decay = 0.02
    config.label_smoothing = 0.0
    config.loss = "binary-cross-entropy"
    config.loss_threshold = 0.2
    config.augment.color = 0.0
    config.augment.policy = "randaugment"  # timm's rand-m7-mstd0.5 and rand-m6-mstd0.5
    config.augment.policy_magnitude = 3 * {"a2": 7.0, "a3": 6.0}[procedure]
    config.augment.policy_magnitude_std = 3 * 0.5
    config.augment.policy_probability = 0.5
    config.augment.mixup = 0.1
    config.augment.cutmix = 1.0
    if procedure == "a3":
        config.dataset.image_size = 160
    elif config.model.shortcut != "none":
        config.model.drop_path, config.model.drop_path_scope = 0.05, "image"
    config.dataset.eval_short_side = round(config.dataset.image_size / 0.95)
    return config
