"""Evaluations, layer statistics, several seeds in a program, and models of large images."""

import dataclasses

import pytest

from benchmarks.named_devices import parse_name
from tests.accelerators import checks
from tests.accelerators.programs import Program, facts, parameters

IMAGENET = "configs/imagenet.py"
SMALL_IMAGES = (
    ("dataset.image_size", 64),
    ("dataset.eval_short_side", 72),
    ("augment.short_side_range", "(72,96)"),
    ("batch_size", 64),
)
REPLICAS = 4


@pytest.mark.accelerators
@pytest.mark.parametrize(
    "program",
    parameters([Program("v5e:8", step="evaluation"), Program("h100:1", step="evaluation")]),
)
def test_evaluation(program):
    found = facts(program)
    checks.check_every_program(program, found)
    checks.check_layouts(program, found)
    # The sums of the loss, and of misclassified and all images, are added up once.
    assert found["all_reduces"] == 0
    assert found["dispatch_all_reduces"] == (2 if program.num_devices > 1 else 0)
    assert sum(found["products"].values()) == program.num_convolutions + 1


@pytest.mark.accelerators
@pytest.mark.parametrize("program", parameters([Program("h100:8", step="layers")]))
def test_layer_statistics(program):
    found = facts(program)
    checks.check_every_program(program, found)
    checks.check_layouts(program, found)
    checks.check_products(program, found)


@pytest.mark.accelerators
@pytest.mark.parametrize(
    "program", parameters([Program("h100:1", fields=(("num_replicas", REPLICAS),))])
)
def test_several_seeds(program):
    found, single = facts(program), facts(dataclasses.replace(program, fields=()))
    checks.check_every_program(program, found)
    # Kernels are shared by the seeds, as far as cuDNN has grouped convolutions.
    assert found["kernels"] < 1.5 * single["kernels"]
    assert found["products"] == single["products"]
    assert found["bytes"] == pytest.approx(REPLICAS * single["bytes"], rel=0.4)


@pytest.mark.accelerators
@pytest.mark.parametrize(
    "program", parameters([Program("h100:8", "resnet-18", config=IMAGENET, fields=SMALL_IMAGES)])
)
def test_a_streamed_data_set(program):
    found = facts(program)
    checks.check_every_program(program, found)
    num_norms = 20  # 17 convolutions and 3 projections
    # The norm of a projection does not wait for the last one of its block, and XLA may combine
    # their all-reduces.
    assert 2 * (num_norms - 3) + 1 <= found["all_reduces"] <= 2 * num_norms + 1
    assert set(found["layouts"]) == {"NHWC"}


@pytest.mark.accelerators_all
@pytest.mark.parametrize(
    "program",
    parameters(
        Program(devices, "resnet-50", dtype, config=IMAGENET, fields=SMALL_IMAGES)
        for devices in ("v5e:1", "v5e:8", "h100:1", "h100:8")
        for dtype in ("float32", "bfloat16")
    ),
)
def test_resnet_50_on_small_images(program):
    found = facts(program)
    checks.check_every_program(program, found)
    num_norms = 53  # 49 convolutions and 4 projections
    if program.num_devices > 1:
        assert 2 * (num_norms - 4) + 1 <= found["all_reduces"] <= 2 * num_norms + 1
    # As in `checks.check_products`.
    assert sum(found["products"].values()) == 3 * num_norms - 1 + 3
    dtype = {"float32": "f32", "bfloat16": "bf16"}[program.dtype]
    assert found["products"][f"convolution {dtype} x {dtype} -> {dtype}"] >= 3 * num_norms - 1


@pytest.mark.accelerators_all
@pytest.mark.parametrize(
    "program",
    parameters(
        [
            Program("v5e:1", "resnet-50", config=IMAGENET, fast=False),
            Program("h100:1", "resnet-50", config=IMAGENET),
        ]
    ),
)
def test_resnet_50_fits(program):
    found = facts(program)  # 224 pixels, batch 256
    checks.check_every_program(program, found)
    checks.check_layouts(program, found)
    # Every dispatch that waits for its turn has images on the device (`dataset.stream_gib`).
    streamed = found["config"]["dataset"]["stream_gib"] * 2**30
    assert found["memory"]["peak"] + streamed < parse_name(program.devices)[0].memory_bytes


@pytest.mark.accelerators_all
@pytest.mark.parametrize(
    "program", parameters([Program("v5e:1", fast=False), Program("v5e:8", fast=False)])
)
def test_optimized_programs_of_a_tpu(program):
    found = facts(program)
    checks.check_train_step(program, found)
    # Feature maps stay in the fast memory; the rest is less than two of some 14 passes over them.
    assert found["bytes"] < 2 * checks.feature_map_bytes(program)
    # A dispatch does not copy the data set, and a step has no loop over the images of a batch.
    assert found["dispatch_megacycles"] < 0.1
    assert found["loop_megacycles"] == 0
