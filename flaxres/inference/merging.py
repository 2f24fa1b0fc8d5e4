"""Trained models in the form for deployment: kernels and branches are computed once.

    trained = merge(load_trained_model(Path("runs/repvgg-56")))

`--mode=export` calls `merge` for all formats except weights files, which can be trained further.
"""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from flaxres.inference.trained_model import TrainedModel
from flaxres.models import create_model, dirac
from flaxres.models.fields import FIELDS
from flaxres.models.repvgg_merging import merge_branches


def merge(trained: TrainedModel) -> TrainedModel:
    """Returns a model with equal logits in evaluation, except for rounding, and fewer operations.

    A Dirac network becomes a plain network (`flaxres.models.dirac.fold`), and each layer of RepVGG
    one convolution with a bias (`flaxres.models.repvgg_merging.merge_branches`). Other models are
    returned as they are.
    """
    config = trained.config.copy_and_resolve_references()
    model = config.model
    if model.name == "dirac":
        variables = dirac.fold(trained.variables)
        model.update({field: FIELDS[field] for field in (dirac.IDENTITY_SCALE, dirac.KERNEL_SCALE)})
        model.name = "plain"
    elif model.name == "repvgg" and not model.merged:
        variables = merge_branches(trained.variables, model.norm_epsilon)
        model.merged, model.norm = True, "none"
    else:
        return trained
    return dataclasses.replace(
        trained,
        config=config,
        variables=jax.tree.map(np.asarray, variables),
        model=create_model(model, trained.input_spec.num_classes, config.dtype),
    )
