"""Lower bounds of the size of a model, from its fields only: nothing is traced or allocated."""

from __future__ import annotations

from ml_collections import ConfigDict

from flaxres.models import densenet, resnet, vgg
from flaxres.models.densenet import BOTTLENECK
from flaxres.models.layers import STEM_STRIDES
from flaxres.models.resnet import EXPANSION

RESNETS = ("plain", "resnet", "preact", "resnext")
# Families with a lower bound; nothing is known about families that a user's config file adds.
SIZED = (*RESNETS, "densenet", "vgg", "lenet", "stargan")


def min_params(model: ConfigDict, image_size: int) -> int:
    """Returns a lower bound of the number of parameters: the weights of most convolutions.

    Projections, norms and the classification head are not counted.

    Args:
      model: an experiment's checked `config.model`.
      image_size: height and width of the images, in pixels; 0 if they are not known.
    """
    if model.name == "densenet":
        return _densenet_params(model)
    if model.name == "vgg":
        return _vgg_params(model, image_size)
    if model.name == "lenet":
        size = (((max(image_size, 32) - 4) // 2) - 4) // 2  # two 5x5 convolutions and poolings
        first, second = model.widths
        return 25 * first * second + _dense_params(size**2 * second, model.hidden)
    if model.name == "stargan":
        first, second, third = model.widths
        return 16 * (first * second + second * third) + 18 * model.depth * third**2
    return _resnet_params(model) if model.name in RESNETS else 0


def first_activations(model: ConfigDict, image_size: int) -> int:
    """Returns the number of outputs of the first convolution for one image, at least.

    Args:
      model: an experiment's checked `config.model`.
      image_size: height and width of the images, in pixels.
    """
    if model.name not in SIZED:
        return 0
    if model.name == "densenet":
        filters = 16 if model.block == "basic" else 2 * model.growth_rate
    else:
        filters = model.widths[0]
    if model.name == "lenet":
        return filters * max(28, image_size - 4) ** 2
    # The stem for ImageNet has a convolution with stride 2 before its pooling.
    stride = 1 if STEM_STRIDES[model.stem] == 1 else 2
    return filters * (image_size // stride) ** 2


def _resnet_params(model: ConfigDict) -> int:
    stages = resnet.stages_of_depth(model.depth, model.block, model.stem)
    params, inputs = 0, model.widths[0]
    for stage, (count, width) in enumerate(zip(stages, model.widths, strict=True)):
        if model.block == "basic":
            params += 9 * inputs * width + 9 * width**2 * (2 * count - 1)
            inputs = width
            continue
        inner, outputs = model.groups * model.group_width * 2**stage or width, EXPANSION * width
        others = 9 * inner**2 // model.groups + inner * outputs
        params += inputs * inner + (count - 1) * outputs * inner + count * others
        inputs = outputs
    return params


def _densenet_params(model: ConfigDict) -> int:
    stages, k = densenet.stages_of_depth(model.depth, model.block, model.stem), model.growth_rate
    is_bottleneck = model.block == "bottleneck"
    channels, params = (2 * k if is_bottleneck else 16), 0
    for stage, count in enumerate(stages, start=1):
        inputs = count * channels + k * count * (count - 1) // 2  # of all layers of the block
        if is_bottleneck:
            params += inputs * BOTTLENECK * k + count * 9 * BOTTLENECK * k**2
        else:
            params += 9 * inputs * k
        channels += count * k
        if stage < len(stages):
            filters = int(model.compression * channels)
            params += channels * filters
            channels = filters
    return params


def _vgg_params(model: ConfigDict, image_size: int) -> int:
    params, inputs = 0, 1
    for count, width in zip(vgg.stages_of_depth(model.depth), model.widths, strict=True):
        params += 9 * inputs * width + 9 * width**2 * (count - 1)
        inputs = width
    pixels = max(1, image_size // vgg.STRIDE) ** 2
    return params + _dense_params(pixels * inputs, model.hidden)


def _dense_params(inputs: int, hidden: tuple[int, ...]) -> int:
    params = 0
    for outputs in hidden:
        params += inputs * outputs
        inputs = outputs
    return params
