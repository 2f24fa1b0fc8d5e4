"""Wide ResNets: pre-activation models with more filters and fewer layers, optionally with dropout.

Zagoruyko and Komodakis 2016 (arXiv 1605.07146), table 1 and section 3. `wrn-28-10` has 28 layers
and 10 times the filters of He16 in its three stages. Its first convolution has 16 filters, as in
the authors' models.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key
from ml_collections import ConfigDict

from flaxres.models import resnet_families
from flaxres.models.blocks import Block
from flaxres.models.family import Family, NameForm, first_activations, require
from flaxres.models.layers import BaseModel, three_equal_stages
from flaxres.models.norms import norm_relu
from flaxres.models.preact_blocks import PreActBasicBlock
from flaxres.models.resnet import ResNet

STEM_WIDTH = 16  # filters of the first convolution, and of the first stage with factor 1
PERIOD, OFFSET = 6, 4  # depth 6n+4: two convolutions in n blocks of three stages, and four others

ImageKeys = Callable[[int], Key[Array, " images"]]


def drop_values(
    keys: Key[Array, " images"], x: Float[Array, "images height width channels"], rate: float
) -> Float[Array, "images height width channels"]:
    """Sets a fraction of the values to 0 and divides the others by 1 - rate, image by image.

    Args:
      keys: random key of each image, on which its values that are dropped depend.
      x: feature maps.
      rate: probability that a value is dropped.
    """
    is_kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, x.shape[1:]))(keys)
    return jnp.where(is_kept, x / (1 - rate), 0).astype(x.dtype)


class WideBlock(PreActBasicBlock, kw_only=True):
    """Pre-activation block of two 3x3 convolutions with dropout before the second one.

    Attributes:
      dropout_rate: probability that a value is dropped.
      image_keys: function of the number of images that returns a random key for each; None where
        nothing is dropped, as in evaluation.
    """

    dropout_rate: float = 0.0
    image_keys: ImageKeys | None = None

    def last_conv(
        self,
        norm: nn.Module,
        conv: Callable[..., nn.Module],
        y: Float[Array, "batch inner_height inner_width inner_filters"],
    ) -> Float[Array, "batch out_height out_width filters"]:
        """Applies norm, ReLU, dropout and the last convolution."""
        if self.image_keys is None:
            return super().last_conv(norm, conv, y)
        return conv()(drop_values(self.image_keys(len(y)), norm_relu(norm, y), self.dropout_rate))


class WideResNet(ResNet, kw_only=True):
    """Wide ResNet.

    Attributes:
      block_dropout: dropout rate between the two convolutions of a block. What is dropped does not
        depend on the number of devices.
    """

    pre_activation: bool = True
    stem_width: int = STEM_WIDTH
    block_dropout: float = 0.0

    def _basic_block(self, **options: Any) -> Block:
        # The authors' models activate the shortcut's input only where it is projected.
        if options["stride"] == 1 and options["filters"] == self.stem_width:
            options["activate_both"] = False
        has_dropout = self.block_dropout > 0 and options["shortcut"].apply_dropout
        keys = self.image_keys if has_dropout and not self.is_initializing() else None
        return WideBlock(**options, dropout_rate=self.block_dropout, image_keys=keys)


_PREACT = resnet_families.FAMILIES["preact"]


def _as_preact(model: ConfigDict) -> ConfigDict:
    """Returns the fields of the pre-activation model with the same blocks."""
    fields = ConfigDict(model)
    fields.name, fields.depth = "preact", model.depth - (OFFSET - 2)
    return fields


def _check(model: ConfigDict) -> None:
    three_equal_stages(model.depth, PERIOD, OFFSET)  # raises if there is no model of this depth
    require(model.block == "basic", model, "block", "basic in a Wide ResNet")
    _PREACT.check(_as_preact(model))
    require(0 <= model.block_dropout < 1, model, "block_dropout", "at least 0 and below 1")
    if model.block_dropout:
        for field in ("remat", "scan"):
            require(not model[field], model, field, "false with model.block_dropout")


def _build(model: ConfigDict) -> Callable[..., BaseModel]:
    attributes = resnet_families.resnet_attributes(_as_preact(model))
    return functools.partial(WideResNet, block_dropout=model.block_dropout, **attributes)


def _read(groups: Mapping[str, str | Any], stem: str) -> dict[str, Any]:
    factor = int(groups["factor"])
    return {
        "name": "wrn",
        "depth": int(groups["depth"]),
        "widths": tuple(factor * width for width in (16, 32, 64)),
        "shortcut": "B",
    }


def _model_name(model: ConfigDict) -> str:
    return f"wrn-{model.depth}-{model.widths[0] // STEM_WIDTH}"


def _suggest(rest: str, stem: str) -> Iterator[str]:
    factor = re.match(r"[1-9]\d{0,2}", rest)
    yield f"wrn-{{depth}}-{factor[0] if factor else 4}"


def _min_params(model: ConfigDict, image_size: int) -> int:
    """Counts the weights of the convolutions in the blocks, without projections."""
    width = model.widths[0]
    return _PREACT.min_params(_as_preact(model), image_size) + 9 * (STEM_WIDTH - width) * width


FAMILY = Family(
    (
        *("depth", "widths", "block", "shortcut", "block_dropout", "drop_path", "drop_path_scope"),
        *("se_reduction", "zero_init", "branch_scale", "branch_scale_init", "remat", "scan"),
    ),
    _check,
    _build,
    (
        NameForm(
            "wrn",
            r"wrn-(?P<depth>\d+)-(?P<factor>[1-9]\d*)",
            _read,
            ("wrn-28-10",),
            _suggest,
            ("wideresnet", "wide-resnet"),
        ),
    ),
    _model_name,
    _min_params,
    lambda model, image_size: first_activations(model, image_size, STEM_WIDTH),
)
