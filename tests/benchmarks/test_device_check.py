"""Comparison of train steps on a device with those of the CPU."""

import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from flaxres.config import default_config, set_model
from flaxres.cpu.kernels import kernels_disabled


@pytest.fixture
def device_check(isolated_flags):
    from benchmarks import device_check

    return device_check


def too_large(device_check, differences):
    return {
        (step, name)
        for step, values in differences.items()
        for name, value in values.items()
        if not value <= device_check.TOLERANCES[step][name]
    }


def make_results(steps=(1, 3)):
    rng = np.random.default_rng(0)
    results = {"initial": rng.normal(size=1_000).astype(np.float32)}
    for step in steps:
        results[f"loss_{step}"] = np.float32(2.5)
        results[f"parameters_{step}"] = results["initial"] + np.float32(0.01 * step)
        results[f"statistics_{step}"] = rng.normal(size=100).astype(np.float32)
    return results


def test_differences_are_relative(device_check):
    reference = make_results()
    assert not too_large(device_check, device_check.compare(reference, reference))
    changed = {name: np.copy(value) for name, value in reference.items()}
    changed["loss_1"] = np.float32(2.5 * (1 + 1e-4))
    changed["parameters_3"] += np.float32(0.0003)
    changed["statistics_3"] *= np.float32(1.5)
    differences = device_check.compare(changed, reference)
    assert differences[1]["loss"] == pytest.approx(1e-4, rel=1e-2)
    assert differences[3]["parameters"] == pytest.approx(0.01, rel=1e-2)
    assert differences[3]["statistics"] == pytest.approx(0.5, rel=1e-3)
    assert too_large(device_check, differences) == {
        (1, "loss"),
        (3, "parameters"),
        (3, "statistics"),
    }


def test_a_result_that_is_not_a_number_is_too_large(device_check):
    reference = make_results()
    changed = reference | {"loss_3": np.float32(np.nan)}
    assert too_large(device_check, device_check.compare(changed, reference)) == {(3, "loss")}


@pytest.mark.slow
def test_bfloat16_and_tf32_are_noticed(device_check, monkeypatch):
    config = set_model(default_config(), "resnet-8")
    config.batch_size = 32
    config = device_check.check_config(config)
    reference = device_check.run_steps(config)
    assert not too_large(
        device_check, device_check.compare(device_check.run_steps(config), reference)
    )
    half = config.copy_and_resolve_references()
    half.dtype = "bfloat16"
    differences = device_check.compare(device_check.run_steps(half), reference)
    assert (1, "statistics") in too_large(device_check, differences)

    convolve = jax.lax.conv_general_dilated

    def round_to_tf32(x):
        return x + jax.lax.stop_gradient(jax.lax.reduce_precision(x, 8, 10) - x)

    def convolve_in_tf32(images, kernel, *args, **options):
        return convolve(round_to_tf32(images), round_to_tf32(kernel), *args, **options)

    with kernels_disabled():
        exact = device_check.run_steps(config)
        monkeypatch.setattr(jax.lax, "conv_general_dilated", convolve_in_tf32)
        rounded = device_check.run_steps(config)
    assert not too_large(device_check, device_check.compare(exact, reference))
    differences = device_check.compare(rounded, reference)
    assert (1, "statistics") in too_large(device_check, differences)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux signals the death of a parent")
def test_the_process_on_the_cpu_ends_with_the_check():
    command = ["benchmarks.device_check", "--config=configs/cifar10.py:resnet-8"]
    process = subprocess.Popen([sys.executable, "-m", *command])
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")

    def reference():
        for pid in map(int, children.read_text().split()):
            if "--reference=" in command_line(pid):
                return pid
        return None

    wait_for(reference)
    pid = reference()
    process.kill()
    process.wait()
    wait_for(lambda: "--reference=" not in command_line(pid))


def command_line(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
