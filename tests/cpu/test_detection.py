"""Prediction of the platform, with installed plugins and devices in a temporary directory."""

import os
import sys

import pytest

from flaxres.cpu import detection

GVNIC = {"vendor": "0x1ae0", "class": "0x020000"}  # Google's network card
NVME = {"vendor": "0x1ae0", "class": "0x010802"}
TPU = {"vendor": "0x1ae0", "class": "0xff0000"}
INTEL_NPU = {"vendor": "0x8086", "class": "0x120000"}

# Installed plugins, files of the machine, True if JAX runs on the CPU.
MACHINES = {
    "no plugin": ((), ("dev/nvidia0", "dev/kfd", "dev/accel0"), True),
    "libtpu, no TPU": (("libtpu",), ("dev/nvidia0", "dev/accel/accel0", "dev/vfio/vfio"), True),
    "TPU v4": (("libtpu",), ("dev/accel0",), False),
    "TPU v5": (("libtpu",), ("dev/vfio/vfio", "dev/vfio/0"), False),
    "CUDA, no GPU": (("xla_cuda12",), ("dev/accel0", "dev/kfd", "dev/dri/card0"), True),
    "NVIDIA": (("xla_cuda13",), ("dev/nvidia0", "dev/nvidiactl"), False),
    "NVIDIA in a container": (("xla_cuda12",), ("dev/nvidiactl",), False),
    "WSL": (("xla_cuda12",), ("dev/dxg",), False),
    "ROCm, no GPU": (("xla_rocm7",), ("dev/nvidia0",), True),
    "AMD": (("xla_rocm7",), ("dev/kfd",), False),
    "AMD in a container": (("xla_rocm60",), ("sys/class/kfd/kfd/topology/nodes/0",), False),
    "several plugins": (("libtpu", "xla_cuda12", "xla_rocm7"), (), True),
    "several plugins, AMD": (("libtpu", "xla_cuda12", "xla_rocm7"), ("dev/kfd",), False),
    "unknown plugin": (("metal_plugin",), (), False),
}


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Returns a function that makes only the given plugins importable; removes JAX's variables."""
    for name in ("JAX_PLATFORMS", "TPU_LIBRARY_PATH", *detection.TPU_VARIABLES):
        monkeypatch.delenv(name, raising=False)
    standard_library = [path for path in sys.path if "site-packages" not in path]
    packages = tmp_path / "packages"
    monkeypatch.setattr(sys, "path", [*standard_library, str(packages)])

    def install(*names):
        packages.mkdir()
        for name in names:
            directory = packages if name == "libtpu" else packages / "jax_plugins"
            (directory / name).mkdir(parents=True)
            (directory / name / "__init__.py").write_text("raise AssertionError('imported')")

    return install


def make_machine(root, files=(), devices=()):
    """Creates the files of a machine, and its PCI devices, in a directory."""
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    for index, device in enumerate(devices):
        directory = root / f"sys/bus/pci/devices/0000:00:{index:02x}.0"
        directory.mkdir(parents=True)
        for name, value in device.items():
            (directory / name).write_text(f"{value}\n")
    return root


@pytest.mark.parametrize(("plugins", "files", "expected"), MACHINES.values(), ids=MACHINES)
def test_devices_of_installed_plugins(install, tmp_path, plugins, files, expected):
    install(*plugins)
    assert detection.runs_on_cpu(make_machine(tmp_path, files)) is expected


@pytest.mark.parametrize(
    ("devices", "expected"), [((GVNIC, NVME, INTEL_NPU), True), ((INTEL_NPU, GVNIC, TPU), False)]
)
def test_a_tpu_on_the_pci_bus(install, tmp_path, devices, expected):
    install("libtpu")
    assert detection.runs_on_cpu(make_machine(tmp_path, devices=devices)) is expected


def test_a_tpu_that_the_environment_describes(install, tmp_path, monkeypatch):
    install("libtpu")
    # JAX sets these itself on a machine without a TPU, and the processes that it starts have them.
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    monkeypatch.setenv("TPU_LIBRARY_PATH", "libtpu.so")
    assert detection.runs_on_cpu(tmp_path)
    monkeypatch.setenv("TPU_WORKER_ID", "0")
    assert not detection.runs_on_cpu(tmp_path)


def test_a_tpu_library_that_is_not_installed(install, tmp_path, monkeypatch):
    install()
    make_machine(tmp_path, ["dev/accel0"])
    assert detection.runs_on_cpu(tmp_path)
    monkeypatch.setenv("TPU_LIBRARY_PATH", "/lib/libtpu.so")
    assert not detection.runs_on_cpu(tmp_path)


def test_plugins_without_a_module_in_the_namespace(install, tmp_path, monkeypatch):
    install()
    distribution = tmp_path / "packages/some_plugin-1.0.dist-info"
    distribution.mkdir()
    (distribution / "METADATA").write_text("Name: some_plugin\nVersion: 1.0\n")
    entry_points = distribution / "entry_points.txt"
    entry_points.write_text("[jax_plugins]\nsome = company.some_plugin\n")
    assert not detection.runs_on_cpu(tmp_path)
    entry_points.write_text("[jax_plugins]\nxla_cuda12 = jax_plugins.xla_cuda12\n")
    assert detection.runs_on_cpu(tmp_path)
    monkeypatch.setenv("PJRT_NAMES_AND_LIBRARY_PATHS", "some:/lib/some.so")
    assert not detection.runs_on_cpu(tmp_path)


@pytest.mark.parametrize(
    ("value", "on_cpu_machine", "on_nvidia_machine"),
    [
        ("cpu", True, True),
        ("cpu,cuda", True, True),  # the first one is JAX's default
        ("cuda,cpu", True, False),  # JAX skips cuda on a machine without an NVIDIA GPU
        ("cuda", False, False),
        ("tpu,cpu", False, False),
        ("gpu,cpu", False, False),
    ],
)
def test_jax_platforms(install, tmp_path, monkeypatch, value, on_cpu_machine, on_nvidia_machine):
    install("libtpu", "xla_cuda12")
    monkeypatch.setitem(os.environ, "JAX_PLATFORMS", value)
    assert detection.runs_on_cpu(tmp_path) is on_cpu_machine
    make_machine(tmp_path, ["dev/nvidia0"])
    assert detection.runs_on_cpu(tmp_path) is on_nvidia_machine
