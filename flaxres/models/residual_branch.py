"""End of a residual branch: the factors that multiply it before the shortcut is added.

A branch is multiplied by the weights of squeeze-and-excitation, which depend on its feature maps,
and by factors that do not: a learnable scale, and those of stochastic depth. All blocks of residual
models end in the functions of this module.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32
from ml_collections import ConfigDict

from flaxres.models.family import require, require_one_of
from flaxres.models.multipliers import BRANCH_SCALES, Multiplier
from flaxres.models.squeeze_excitation import SqueezeExcitation

# Factor of stochastic depth of a block: float32, () for all images or (batch,);
# None without stochastic depth.
DropFactor = Float32[Array | np.ndarray, "*batch"] | None


@dataclasses.dataclass(frozen=True)
class BranchOptions:
    """Operations between the last layer of a residual branch and the addition.

    Attributes:
      se_reduction: reduction of squeeze-and-excitation; 0 for none.
      scale: 'none', 'scalar' (a learnable factor) or 'channel' (one for each channel).
      scale_init: initial value of the learnable factors.
    """

    se_reduction: int = 0
    scale: str = "none"
    scale_init: float = 0.0


ADDITION_ONLY = BranchOptions()


def branch_factor(
    options: BranchOptions, drop_factor: DropFactor, filters: int
) -> Float32[Array | np.ndarray, ...] | None:
    """Returns the product of all factors that do not depend on the feature maps.

    Call it in a block's compact method, because a factor may be a parameter of the block.

    Args:
      options: operations at the end of the branch.
      drop_factor: factor of stochastic depth.
      filters: number of channels of the branch.

    Returns:
      None if there is no factor. Otherwise, if all images have the same factors, an array () or
      (filters,), otherwise an array of 4 axes that broadcasts to (batch, height, width, filters).
    """
    if drop_factor is not None and drop_factor.ndim:
        drop_factor = drop_factor[:, None, None, None]
    if options.scale == "none":
        return drop_factor
    multiplier = Multiplier(options.scale_init, options.scale == "channel", name="branch_scale")
    scale = multiplier(filters)
    return scale if drop_factor is None else scale * drop_factor


def is_foldable(options: BranchOptions, factor: Float32[Array | np.ndarray, ...] | None) -> bool:
    """Returns True if the last norm's scale and bias can be multiplied by the factors instead.

    Args:
      options: operations at the end of the branch.
      factor: result of `branch_factor`.
    """
    return not options.se_reduction and (factor is None or factor.ndim <= 1)


def scale_branch(
    options: BranchOptions,
    y: Float[Array | np.ndarray, "batch height width filters"],
    factor: Float32[Array | np.ndarray, ...] | None,
) -> Float[Array | np.ndarray, "batch height width filters"]:
    """Multiplies a branch by all its factors. Call it in a block's compact method.

    Args:
      options: operations at the end of the branch.
      y: output of the last layer of the branch.
      factor: result of `branch_factor`.
    """
    if options.se_reduction:
        weights = SqueezeExcitation(options.se_reduction, name="se")(y)
        factor = weights if factor is None else weights * factor
    # The product is float32 also in bfloat16 models, so that factors such as 1 / 0.9 stay exact.
    return y if factor is None else jnp.asarray(y * factor, y.dtype)


def check_branch_scale(model: ConfigDict) -> None:
    """Checks the fields of the learnable scale of residual branches.

    Args:
      model: an experiment's `config.model`.

    Raises:
      ConfigError: a field has a value that is not allowed.
    """
    require_one_of(model, "branch_scale", BRANCH_SCALES)
    is_used = model.branch_scale != "none"
    field = "branch_scale_init"
    require(is_used or model[field] == 0, model, field, "0 with model.branch_scale none")
    # Neither a factor of 0 nor a branch that is 0 would get a gradient.
    allowed = not (is_used and model[field] == 0 and model.zero_init)
    require(allowed, model, "zero_init", "false if model.branch_scale_init is 0")
