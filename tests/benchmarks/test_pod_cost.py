"""Estimated step times, with values worked out by hand."""

import json

import pytest

from benchmarks.pod_cost import CHIPS_BY_NAME, Chip, StepCost, read_program
from flaxres.errors import ConfigError


def program(name, devices, images, **changes):
    facts = {"bytes": 0.0, "megacycles": 0.0, "kernels": 0.0, "all_reduces": 0.0}
    facts |= {"all_reduced_elements": 0.0, "device": name, "images_on_a_device": images}
    facts |= {"step": "train", "config": {"dtype": "float32", "batch_size": devices * images}}
    return {**facts, "name": f"{name}:{devices}", "devices": devices, **changes}


def test_computation_is_interpolated_between_programs():
    """Programs of 1, 2 and 9 ms for 16, 128 and 1,024 images on a chip."""
    clock = CHIPS_BY_NAME["v5e"].clock / 1e6
    cost = StepCost.from_programs(
        [
            program("v5e", 1, 128, megacycles=2e-3 * clock),
            program("v5e", 1, 1024, megacycles=9e-3 * clock),
            program("v5e", 8, 16, megacycles=1e-3 * clock),
        ]
    )
    assert cost.step_seconds(1, 128) == pytest.approx(2e-3)
    assert cost.step_seconds(1, 72) == pytest.approx(1.5e-3)
    assert cost.step_seconds(1, 1920) == pytest.approx(16e-3)
    assert cost.step_seconds(8, 8) == pytest.approx(1e-3)
    assert cost.speedup(8, 128) == pytest.approx(2)


def test_all_reduces_of_gpus_wait_for_a_tree():
    """8 GPUs: 6.8 us and twice 7 hops of 0.6 us; 32: twice two more hops of 5 us."""
    h100 = CHIPS_BY_NAME["h100"]
    assert h100.all_reduce_seconds(1, 10**6) == 0
    assert h100.all_reduce_seconds(8, 0) == pytest.approx(15.2e-6)
    assert h100.all_reduce_seconds(32, 0) == pytest.approx(35.2e-6)
    assert h100.all_reduce_seconds(8, 50e9) == pytest.approx(2 * 7 / 8 + 15.2e-6)


def test_all_reduces_of_a_torus_cross_both_axes():
    """256 chips are 16 x 16: 8 hops along each axis, there and back."""
    assert CHIPS_BY_NAME["v5e"].all_reduce_seconds(256, 0) == pytest.approx(32e-6)


def test_batch_size_that_scales():
    """A step takes 1 ms for each image and 7 ms for its all-reduces on two chips."""
    chip = Chip(0.0, 1e3, 1e-3, 1.0, base_latency=7e-3, hop_latency=0.0, node_size=8)
    cost = StepCost(chip, (1, 2), (1, 2), (0, 0), (1, 1), 1, 0.0)
    assert cost.step_seconds(2, 16) == pytest.approx(15e-3)
    assert cost.scaling_batch_size(2) == 16  # 16 / 15; with 8 images it is 8 / 11
    no_work = StepCost(chip, (1, 2), (1, 1), (0, 0), (1, 1), 1, 0.0)
    assert no_work.scaling_batch_size(4) is None


def test_a_gpu_waits_for_launches_of_small_kernels():
    """367 launches of 2 us take 734 us; 857 MB of 128 images at 3.35 TB/s take 256 us."""
    cost = StepCost.from_programs(
        [
            program("h100", 1, 128, bytes=857e6, kernels=367.0),
            program("h100", 8, 16, bytes=857e6 / 8, kernels=400.0),
        ]
    )
    assert cost.step_seconds(1, 128) == pytest.approx(734e-6)
    assert cost.step_seconds(1, 1280) == pytest.approx(8570e6 / 3.35e12)
    assert cost.step_seconds(8, 128) == pytest.approx(800e-6)


@pytest.mark.parametrize(
    "programs",
    [
        [program("v5e", 1, 128), program("h100", 8, 16)],
        [program("v4", 1, 128), program("v4", 8, 16)],
        [program("v5e", 1, 128), program("v5e", 1, 64)],
        [program("v5e", 1, 16), program("v5e", 8, 16)],
        [program("v5e", 1, 128), program("v5e", 8, 16, step="evaluation")],
        [program("v5e", 1, 128), program("v5e", 8, 16, config={"dtype": "bfloat16"})],
    ],
)
def test_programs_that_do_not_belong_together(programs):
    with pytest.raises(ConfigError, match="--programs"):
        StepCost.from_programs(programs)


def test_files_that_are_no_programs(tmp_path):
    path = tmp_path / "x.json"
    wrong_type = program("v5e", 1, 128, bytes="1")
    for text in ("", "[]", json.dumps({"name": "v5e:1"}), json.dumps(wrong_type)):
        path.write_text(text)
        with pytest.raises(ConfigError, match=r"x\.json"):
            read_program(str(path))
    path.write_text(json.dumps(program("v5e", 1, 128)))
    assert read_program(str(path))["images_on_a_device"] == 128
    path.write_text(json.dumps(program("v5e", 1, 128, fast=True)))
    with pytest.raises(ConfigError, match=r"x\.json was compiled with --fast"):
        read_program(str(path))
    with pytest.raises(ConfigError, match="cannot be read"):
        read_program(str(tmp_path / "missing.json"))
