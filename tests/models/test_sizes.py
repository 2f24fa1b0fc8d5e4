"""Lower bounds of sizes, against the layers of the real models."""

import pytest

from flaxres.config import default_config, set_model
from flaxres.models import create_model
from flaxres.models.layer_counts import summarize
from flaxres.models.registry import EXAMPLES
from flaxres.models.sizes import first_activations, min_params

MODELS = [
    *((name, "cifar", 32) for name in EXAMPLES.split(", ")),
    *((name, "imagenet", 224) for name in ("resnet-50", "resnext-50-32x4d", "densenet-121")),
    *(("vgg-16", "imagenet", 224), ("lenet-5", "cifar", 8), ("resnet-29-B", "cifar", 8)),
]


@pytest.mark.parametrize(("name", "stem", "size"), MODELS, ids=lambda value: str(value))
def test_bounds_are_below_the_real_sizes_and_close_to_them(name, stem, size):
    if name == "resnet-29-B":  # bottlenecks on small images
        config = set_model(default_config(), "resnet-29-bottleneck-B", stem)
    else:
        config = set_model(default_config(), name, stem)
    layers = summarize(create_model(config.model, 10), (size, size, 3))
    params = sum(layer.params for layer in layers)
    assert 0.8 * params <= min_params(config.model, size) <= params
    assert min_params(config.model, 0) <= params
    first = next(layer for layer in layers if layer.macs)
    assert 0 < first_activations(config.model, size) <= first.activations


def test_bounds_of_huge_models_are_exact_integers():
    model = set_model(default_config(), "vgg-13").model
    model.hidden = (2**62, 2**62)
    assert min_params(model, 32) > 2**124
