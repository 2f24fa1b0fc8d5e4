"""Programs that the tests compile for TPUs and GPUs, each in a process of its own."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.conftest import ROOT

# Trainable parameters: He15, section 4.2, for option A (a test of the models checks them).
PARAMS = {"resnet-8": 75_290, "resnet-20": 269_722, "resnet-56": 853_018}
MODELS = tuple(PARAMS)
TIMEOUT = 1_800  # seconds for one program, on a machine that is busy


@dataclasses.dataclass(frozen=True)
class Program:
    """A program: a step of a model on devices.

    Attributes:
      devices: kind and number of the devices, such as 'v5e:8'.
      model: model of configs/cifar10.py.
      dtype: 'float32' or 'bfloat16'.
      bn_scope: 'global' or 'device'.
      parallelism: 'jit' or 'pmap'.
      step: 'train', 'evaluation' or 'layers'.
      config: config file.
      fields: further fields of the config, as (name, value).
      fast: if True, XLA compiles with the least optimization, which changes kernels, bytes, cycles
        and memory on a TPU, but nothing else that is tested.
    """

    devices: str
    model: str = "resnet-8"
    dtype: str = "bfloat16"
    bn_scope: str = "global"
    parallelism: str = "jit"
    step: str = "train"
    config: str = "configs/cifar10.py"
    fields: tuple[tuple[str, object], ...] = ()
    fast: bool = True

    def __str__(self) -> str:
        parts = (self.devices, self.model, self.dtype, self.bn_scope, self.parallelism, self.step)
        fields = [f"{name}={value}" for name, value in self.fields]
        return "-".join((*parts, *fields, *(["optimized"] * (not self.fast))))

    @property
    def is_tpu(self) -> bool:
        """True for TPUs."""
        return self.devices.startswith("v")

    @property
    def num_devices(self) -> int:
        """Number of devices."""
        return int(self.devices.partition(":")[2])

    @property
    def num_convolutions(self) -> int:
        """Convolutions of a CIFAR ResNet with option A: 6n + 1 of its 6n + 2 layers."""
        return int(self.model.partition("-")[2]) - 1

    @property
    def num_norms(self) -> int:
        """Batch norms of a CIFAR ResNet: one after each convolution."""
        return self.num_convolutions


def parameters(programs):
    """Returns the programs for `pytest.mark.parametrize`; all tests of one run in one process."""
    return [
        pytest.param(program, id=str(program), marks=pytest.mark.xdist_group(str(program)))
        for program in programs
    ]


def run(program, *arguments):
    """Compiles a program in a process of its own; returns the ended process."""
    fields = {
        "dtype": program.dtype,
        "bn_scope": program.bn_scope,
        "parallelism": program.parallelism,
        **dict(program.fields),
    }
    command = [
        *(sys.executable, "-m", "benchmarks.programs", *arguments),
        *(f"--config={program.config}:{program.model}", f"--devices={program.devices}"),
        *(f"--config.{name}={value}" for name, value in fields.items()),
        *(f"--step={program.step}", f"--fast={program.fast}"),
    ]
    # The flags of the tests are for a CPU.
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=TIMEOUT
    )


@functools.cache
def facts(program):
    """Compiles a program and returns its facts."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "facts.json"
        outcome = run(program, f"--json={path}")
        assert outcome.returncode == 0, outcome.stderr[-3000:]
        assert outcome.stderr == ""  # the compilers are quiet
        return json.loads(path.read_text())
