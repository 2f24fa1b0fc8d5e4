"""Lowered step functions: no array of size zero.

jaxlib 0.11.2 crashes when it compiles a program with such an array for several devices.
"""

import re

import jax
import jax.numpy as jnp
import pytest

from flaxres.config import set_model
from flaxres.configs import digits
from flaxres.cpu import kernels
from flaxres.data import load_dataset
from flaxres.training.compiled_steps import CompiledSteps

EMPTY_ARRAY = re.compile(r"tensor<(\d+x)*0x")
WIDTHS = {"model.widths": (16, 16, 16)}  # the kernels support 16 channels with every processor
# Model and config fields of a run; `boundaries` is empty unless given.
KERNEL_RUNS = [
    ("resnet-8-B", WIDTHS | {"parallelism": "pmap", "bn_scope": "device", "dtype": "bfloat16"}),
    ("resnet-8-C", WIDTHS | {"num_replicas": 2, "num_devices": 1}),
    ("resnet-14", WIDTHS | {"model.remat": True, "model.scan": True, "steps_per_dispatch": 2}),
    ("plain-8", WIDTHS | {"boundaries": (10,), "augment.pad": 1, "augment.flip": True}),
    ("preact-11-bottleneck", WIDTHS | {"dtype": "bfloat16", "schedule": "cosine"}),
    ("resnext-11-2x16d", WIDTHS | {"warmup.enabled": True, "linear_warmup_steps": 3}),
    ("densenet-bc-16-16", {"label_smoothing": 0.1}),
    ("vgg-11", {"model.hidden": (16,), "dataset.image_size": 32, "dtype": "bfloat16"}),
    ("stargan-1", WIDTHS | {"model.norm": "instance-running"}),
]
XLA_RUNS = [
    ("resnet-14", WIDTHS | {"model.remat": True, "model.scan": True, "steps_per_dispatch": 2}),
    ("preact-8", WIDTHS | {"parallelism": "pmap", "bn_scope": "device", "dtype": "bfloat16"}),
    ("lenet-5", {}),
]


def run_config(model, fields):
    """Returns the config of a run on two devices."""
    config = set_model(digits.get_config(), model)
    config.batch_size, config.eval_batch_size, config.num_devices = 8, 8, 2
    config.boundaries, config.warmup.enabled = (), False
    config.update_from_flattened_dict(fields)
    return config


def lowered_texts(config):
    """Returns the StableHLO of the train steps, the evaluation and the layer statistics."""
    dataset = load_dataset(config.dataset)
    compiled_steps = CompiledSteps(config, dataset)
    arguments = compiled_steps.state_structs(), compiled_steps.split_structs(len(dataset.train))
    lowered = [
        compiled_steps.lower_train_steps(*arguments, compiled_steps.steps_per_dispatch),
        compiled_steps.lower_evaluation(*arguments),
    ]
    if config.num_replicas == 1:  # there are no layer statistics of several replicas
        lowered.append(compiled_steps.lower_layer_statistics(*arguments))
    return [step.as_text() for step in lowered]


def assert_no_array_is_empty(texts):
    for text in texts:
        assert not (found := EMPTY_ARRAY.search(text)), text[found.start() - 200 :][:400]


@pytest.mark.skipif(kernels.library() is None, reason="needs a C++ compiler")
@pytest.mark.parametrize(("model", "fields"), KERNEL_RUNS)
def test_no_array_of_a_step_with_kernels_is_empty(model, fields):
    texts = lowered_texts(run_config(model, fields))
    assert all("@flaxres_" in text for text in texts)
    assert_no_array_is_empty(texts)


@pytest.mark.parametrize(("model", "fields"), XLA_RUNS)
def test_no_array_of_a_step_without_kernels_is_empty(model, fields):
    with kernels.kernels_disabled():
        texts = lowered_texts(run_config(model, fields))
    assert not any("@flaxres_" in text for text in texts)
    assert_no_array_is_empty(texts)


def test_empty_arrays_are_found():
    text = jax.jit(lambda x: jnp.zeros((3, 0)).sum() + x).lower(jnp.zeros(10)).as_text()
    assert EMPTY_ARRAY.search(text)
