"""Models by name, as plain Flax modules: `create_model`."""

from __future__ import annotations

import flax.linen as nn

from flaxres.api.arguments import integer_of, of_type, overrides_of
from flaxres.config import check_config, default_config, set_model
from flaxres.models import create_model as build_model
from flaxres.overrides import override_fields


def create_model(
    name: str,
    num_classes: int = 10,
    stem: str = "cifar",
    dtype: str = "float32",
    **fields: object,
) -> nn.Module:
    """Creates a model by its name.

    The model is a Flax module with `init` and `apply`:

        model = flaxres.create_model("resnet-56", num_classes=10)
        variables = model.init(jax.random.key(0), images, train=False)
        logits = model.apply(variables, images, train=False)
        logits, updated = model.apply(variables, images, train=True, mutable=["batch_stats"])

    Images are float32 (batch, height, width, channels), scaled to 0..1 minus a mean image (not
    divided by a standard deviation). Logits are float32 (batch, num_classes). Models with dropout
    also need `rngs={"dropout": key}` with `train=True`.

    Args:
      name: such as 'plain-20', 'resnet-56', 'resnet-56-B', 'preact-164' or 'densenet-bc-100-12'
        (`docs/models.md` lists the families).
      num_classes: number of outputs of the classification head.
      stem: 'cifar' for small images, 'imagenet' for the models of He15, table 1.
      dtype: dtype of the computation, 'float32' or 'bfloat16'; parameters are float32.
      **fields: fields of `config.model`, such as widths=(8, 16, 32) or norm='group'.

    Raises:
      ConfigError: no model has this name, or a field is unknown or invalid.
      ArgumentError: `num_classes` is no positive integer, or a name is no text.
    """
    num_classes = integer_of(num_classes, "num_classes", 1, "a positive integer")
    of_type(name, str, "name", "the name of a model, such as 'resnet-20'")
    of_type(stem, str, "stem", "'cifar' or 'imagenet'")
    of_type(dtype, str, "dtype", "'float32' or 'bfloat16'")
    config = set_model(default_config(), name, stem)
    config.dtype = dtype
    override_fields(config, overrides_of({"model": fields}))
    check_config(config)
    return build_model(config.model, num_classes, dtype)
