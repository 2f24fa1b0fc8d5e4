"""Lower bounds of the size of a model, from its fields only: nothing is traced or allocated."""

from __future__ import annotations

from ml_collections import ConfigDict

from flaxres.models.registry import FAMILIES


def min_params(model: ConfigDict, image_size: int) -> int:
    """Returns a lower bound of the number of parameters: the weights of most convolutions.

    Projections, norms and the classification head are not counted. The bound is 0 for families that
    have none, such as those that a user's config file adds.

    Args:
      model: an experiment's checked `config.model`.
      image_size: height and width of the images, in pixels; 0 if they are not known.
    """
    return FAMILIES[model.name].min_params(model, image_size)


def first_activations(model: ConfigDict, image_size: int) -> int:
    """Returns the number of outputs of the first convolution for one image, at least.

    It is 0 for families that do not give it.

    Args:
      model: an experiment's checked `config.model`.
      image_size: height and width of the images, in pixels.
    """
    return FAMILIES[model.name].first_activations(model, image_size)
