"""Runs that cannot fit are refused with the field to lower; all that fit are accepted."""

import math
import time

import pytest

from flaxres import memory_estimate
from flaxres.configs import cifar10, digits, imagenet
from flaxres.errors import ConfigError
from flaxres.memory_estimate import (
    Memory,
    check_crop_memory,
    check_dispatch_memory,
    check_memory,
    host_memory,
)

GIB = 2**30


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """A machine with 64 GiB of memory."""
    monkeypatch.setattr(memory_estimate, "host_memory", lambda: 64 * GIB)


def make(config, **fields):
    config.update_from_flattened_dict({name.replace("__", "."): v for name, v in fields.items()})
    return config


@pytest.mark.parametrize(
    ("config", "fields", "field"),
    [
        (digits, {"num_replicas": 10**6}, "num_replicas, which is 1,000,000"),
        (digits, {"model__depth": 99_998, "num_replicas": 8}, "model.depth, which is 99,998"),
        (
            digits,
            {"model__widths": (16, 32, 10**8)},
            "model.widths; its largest value is 100,000,000",
        ),
        (digits, {"batch_size": 10**12}, "batch_size, which is 1,000,000,000,000"),
        (cifar10, {"dataset__image_size": 60_000}, "dataset.image_size, which is 60,000"),
        (
            cifar10,
            {
                "dataset__image_size": 128,
                "dataset__placement": "stream",
                "dataset__prefetch": 10**9,
            },
            "dataset.prefetch, which is 1,000,000,000",
        ),
        (
            cifar10,
            {"dataset__placement": "stream", "dataset__prefetch": 10**4, "dataset__workers": 10**6},
            "dataset.workers, which is 1,000,000",
        ),
    ],
)
def test_runs_that_cannot_fit(config, fields, field):
    start = time.monotonic()
    with pytest.raises(ConfigError, match=r"needs at least .* GiB of memory for ") as raised:
        check_memory(make(config.get_config(), **fields))
    assert str(raised.value).endswith(f"and this machine has 64 GiB, swap included; lower {field}")
    assert time.monotonic() - start < 1


@pytest.mark.parametrize("config", [digits, cifar10, imagenet])
def test_runs_of_the_configs_fit_on_a_small_machine(config, monkeypatch):
    monkeypatch.setattr(memory_estimate, "host_memory", lambda: 8 * GIB)
    check_memory(config.get_config())


def test_the_batch_is_shared_by_processes_and_devices(monkeypatch):
    config = make(cifar10.get_config(), dataset__image_size=224, batch_size=2**16)
    needed = 4 * 16 * 224**2 * 2**16  # float32, 16 filters
    assert needed > 64 * GIB
    with pytest.raises(ConfigError):
        check_memory(config)
    check_memory(config, train=False)
    monkeypatch.setattr(memory_estimate, "device_memory", lambda: (Memory(64 * GIB), 4))
    check_memory(config)
    config.batch_size *= 4
    with pytest.raises(ConfigError, match=r"at least 784 GiB .* the 4 devices have 256 GiB; lower"):
        check_memory(config)
    config.batch_size //= 4
    monkeypatch.setattr(memory_estimate, "device_memory", lambda: (Memory(64 * GIB), 1))
    monkeypatch.setattr("jax.process_count", lambda: 4)
    check_memory(config)


def test_test_time_crops_that_need_too_much_memory_are_refused():
    config = cifar10.get_config("resnet-20")  # 16 filters in float32: 64 bytes a pixel
    check_crop_memory(config, 8_000, "--test_crops=multi-scale")
    largest = math.isqrt(64 * GIB // 64)
    check_crop_memory(config, largest, "--test_crops=multi-scale")
    with pytest.raises(
        ConfigError,
        match=r"^--test_crops=multi-scale needs at least 64 GiB of memory for one image, and "
        "this machine has 64 GiB, swap included; choose a smaller size$",
    ):
        check_crop_memory(config, largest + 1, "--test_crops=multi-scale")


def test_the_memory_of_this_machine(monkeypatch):
    monkeypatch.undo()
    assert 2**28 < host_memory() < 2**50


def test_inputs_of_two_dispatches_must_fit(monkeypatch):
    config = make(imagenet.get_config(), steps_per_dispatch=300)
    monkeypatch.setattr(memory_estimate, "device_memory", lambda: (Memory(16 * GIB), 1))
    check_dispatch_memory(config, 8 * GIB)
    message = (
        r"at least 16\.?\d* GiB of memory for the inputs of two dispatches, and the device has"
    )
    with pytest.raises(ConfigError, match=message) as raised:
        check_dispatch_memory(config, 8 * GIB + 1)
    assert str(raised.value).endswith("lower steps_per_dispatch, which is 300")
