"""VGG with batch norm, with or without shortcuts around its last two convolutions.

Simonyan and Zisserman 2014 (arXiv 1409.1556), table 1. With the shortcuts, the model can fall back
to the shallower model without those two layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32
from ml_collections import ConfigDict

from flaxres.models.family import (
    Family,
    NameForm,
    conv3x3_params,
    dense_params,
    first_activations,
    require,
    require_widths,
)
from flaxres.models.layers import BaseModel, check_size, classify, he_normal
from flaxres.models.norms import norm_relu
from flaxres.suggestions import nearest_names

# Number of convolutions in each of five stages, by depth: table 1, columns A, B, D and E.
STAGES = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
STRIDE = 32  # total stride of five 2x2 max poolings


def stages_of_depth(depth: int) -> tuple[int, ...]:
    """Returns the number of convolutions in each stage.

    Raises:
      ValueError: there is no model of this depth.
    """
    if depth not in STAGES:
        raise ValueError(f"depth must be {', '.join(map(str, STAGES))}, got {depth}")
    return STAGES[depth]


class Vgg(BaseModel, kw_only=True):
    """Stages of 3x3 convolutions with norm and ReLU, each ending in 2x2 max pooling; dense layers.

    Attributes:
      stages: number of convolutions in each stage.
      widths: number of filters in each stage.
      hidden: number of outputs of each dense layer before the classification head. Each is followed
        by ReLU and dropout, and the first reads all pixels of the last stage. If there are none,
        the head reads the average over the pixels.
      dropout_rate: dropout rate of the hidden layers; in training, dropout reads random numbers
        from the stream 'dropout'.
      skip: if True, the input of each of the last two convolutions is added to its norm's output.

    Raises (when called):
      ValueError: the norm is unknown.
      ConfigError: the images are smaller than 32 x 32 pixels.
    """

    stages: tuple[int, ...]
    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    hidden: tuple[int, ...] = ()
    dropout_rate: float = 0.0
    skip: bool = False

    @nn.compact
    def __call__(
        self, images: Float[Array | np.ndarray, "batch height width channels"], train: bool
    ) -> Float32[Array, "batch classes"]:
        """Returns the logits of a batch of normalized images.

        Args:
          images: a batch of any floating-point dtype.
          train: if True, norms use statistics of the batch and update the running statistics, and
            dropout is active.
        """
        check_size(images, STRIDE)
        layers = self.layers(train)
        x = jnp.asarray(images, self.dtype)
        remaining = sum(self.stages)  # convolutions, this one included
        for stage, (count, filters) in enumerate(zip(self.stages, self.widths, strict=True), 1):
            for number in range(1, count + 1):
                conv, norm = (f"stage{stage}_{kind}{number}" for kind in ("conv", "norm"))
                y = layers.conv(filters, 3, name=conv)(x)
                shortcut = x if self.skip and remaining <= 2 and x.shape == y.shape else None
                x = norm_relu(self.layers(train, norm).norm(name=norm), y, add=shortcut)
                remaining -= 1
            x = nn.max_pool(x, window_shape=(2, 2), strides=(2, 2))
        if not self.hidden:
            return classify(x, self.num_classes)
        x = x.reshape(x.shape[0], -1)  # not len(x): the batch size of an export is symbolic
        for number, outputs in enumerate(self.hidden, start=1):
            dense = nn.Dense(
                outputs, kernel_init=he_normal, dtype=self.dtype, name=f"hidden{number}"
            )
            x = nn.Dropout(self.dropout_rate, deterministic=not train)(nn.relu(dense(x)))
        return classify(x, self.num_classes)


def _check(model: ConfigDict) -> None:
    stages_of_depth(model.depth)
    require_widths(model, "widths", 5)
    require_widths(model, "hidden")
    require(type(model.skip) is bool, model, "skip", "true or false")
    require(0 <= model.dropout_rate < 1, model, "dropout_rate", "at least 0 and below 1")


def _build(model: ConfigDict) -> Callable[..., BaseModel]:
    fields = {
        "stages": stages_of_depth(model.depth),
        "widths": tuple(model.widths),
        "hidden": tuple(model.hidden),
        "dropout_rate": model.dropout_rate,
        "skip": model.skip,
    }
    return lambda **common: Vgg(**fields, **common)


def _min_params(model: ConfigDict, image_size: int) -> int:
    """Counts the weights of the convolutions and of the dense layers before the head."""
    params = conv3x3_params(stages_of_depth(model.depth), model.widths, inputs=1)
    pixels = max(1, image_size // STRIDE) ** 2
    return params + dense_params(pixels * model.widths[-1], model.hidden)


def _read(groups: Mapping[str, str | Any], stem: str) -> dict[str, Any]:
    fields = {
        "name": "vgg",
        "depth": int(groups["depth"]),
        "widths": (64, 128, 256, 512, 512),
        "skip": bool(groups["skip"]),
    }
    # On small images the last stage has one or a few pixels, so there are no large dense layers.
    return fields | ({"hidden": (4096, 4096)} if stem == "imagenet" else {"dropout_rate": 0.0})


def _suggest(rest: str, stem: str) -> Iterator[str]:
    if (rest and nearest_names(rest, ("skip",))) or rest == "skip":
        yield "vgg-{depth}-skip"
    yield "vgg-{depth}"


FAMILY = Family(
    ("depth", "widths", "stem", "hidden", "dropout_rate", "skip"),
    _check,
    _build,
    (
        NameForm(
            *("vgg", r"vgg-(?P<depth>\d+)(?P<skip>-skip)?", _read, ("vgg-13",), _suggest),
            other_starts=("vggnet",),
        ),
    ),
    lambda model: f"vgg-{model.depth}" + "-skip" * model.skip,
    _min_params,
    first_activations,
)
