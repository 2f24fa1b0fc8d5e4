"""Findings about the machine that need no JAX: processor, compiler, cache, disk, accelerators."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import time
from pathlib import Path

from flaxres.cpu.build import COMPILERS, find_compiler
from flaxres.cpu.compilation_cache import cache_directory
from flaxres.cpu.detection import AMD_FILES, NVIDIA_FILES, TPU_FILES, plugin_names
from flaxres.cpu.processor import available_cores, instruction_sets, processor_model
from flaxres.cpu.settings import KERNELS_SWITCH
from flaxres.cpu.trusted import untrusted_reason
from flaxres.doctor.findings import NOTE, PROBLEM, Finding, gib, shown_path, without_home
from flaxres.errors import counted, one_line

VARIABLES = (  # environment variables that change what flaxres and JAX do; none holds a secret
    *("JAX_PLATFORMS", "JAX_COMPILATION_CACHE_DIR", "XLA_FLAGS", "CUDA_VISIBLE_DEVICES"),
    *("FLAXRES_CACHE", KERNELS_SWITCH, "CXX", "TFDS_DATA_DIR"),
)
MIN_FREE_BYTES = 2**30  # checkpoints of a large model need as much
COMPILER_SECONDS = 10.0  # time limit of `c++ --version`
SCAN_SECONDS = 1.0  # time limit of adding up the sizes of cached files


def check_environment() -> list[Finding]:
    """Returns the environment variables that change what flaxres and JAX do."""
    given = [name for name in VARIABLES if name in os.environ]
    findings = [Finding(name, without_home(os.environ[name]) or "empty") for name in given]
    if os.environ.get(KERNELS_SWITCH) == "0":
        findings.append(
            Finding("CPU kernels", "disabled", NOTE, f"unset {KERNELS_SWITCH} for faster training")
        )
    return findings


def check_processor() -> list[Finding]:
    """Returns the processor and its instruction sets, the compiler and accelerators without JAX."""
    cores = len(available_cores())
    return [
        Finding("processor", f"{processor_model()}, {counted(cores, 'core')}"),
        Finding("instruction sets", ", ".join(instruction_sets()) or "unknown"),
        _check_compiler(),
        *find_unused_accelerators(),
    ]


def _check_compiler() -> Finding:
    compiler = find_compiler()
    advice = "install g++ or clang++; on a CPU, training takes 3 times as long without"
    if compiler is None:
        return Finding("C++ compiler", f"none of {', '.join(COMPILERS)} found", NOTE, advice)
    try:
        done = subprocess.run(
            [*([compiler] if shutil.which(compiler) else shlex.split(compiler)), "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
            timeout=COMPILER_SECONDS,
            text=True,
            errors="replace",
        )
        version = done.stdout.strip().splitlines()[0]
    except (OSError, ValueError, IndexError, subprocess.SubprocessError) as error:
        return Finding("C++ compiler", f"{compiler} fails: {one_line(error)}", PROBLEM, advice)
    return Finding("C++ compiler", f"{compiler}: {version}")


def find_unused_accelerators(root: Path = Path("/")) -> list[Finding]:
    """Returns the device files of accelerators for which JAX has no plugin."""
    plugins = plugin_names()
    kinds = (
        ("NVIDIA GPU", NVIDIA_FILES[:1], "xla_cuda", "pip install --upgrade 'jax[cuda13]'"),
        ("AMD GPU", AMD_FILES[:1], "xla_rocm", "install JAX for ROCm, see docs.jax.dev"),
        ("TPU", TPU_FILES[:1], "libtpu", "pip install --upgrade 'jax[tpu]'"),
    )
    findings = []
    for name, patterns, plugin, advice in kinds:
        files = [path for pattern in patterns for path in root.glob(pattern)]
        if files and not any(installed.startswith(plugin) for installed in plugins):
            value = f"{files[0]} exists, but JAX has no plugin for it"
            findings.append(Finding(name, value, PROBLEM, advice))
    return findings


def check_cache() -> list[Finding]:
    """Returns the directory of compiled programs, its size and whether it can be used."""
    directory = cache_directory()
    advice = "set FLAXRES_CACHE to a directory that only you can write"
    if str(directory).startswith("~"):
        return [Finding("cache", "there is no home directory", PROBLEM, advice)]
    name = shown_path(directory)
    if not directory.exists():
        return [Finding("cache", f"{name} does not exist yet; the first run creates it")]
    try:
        reason = untrusted_reason(directory.absolute())
        if not reason and not os.access(directory, os.W_OK | os.X_OK):
            reason = f"{name} cannot be written"
        size, files, complete = _directory_size(directory)
    except OSError as error:
        reason, size, files, complete = f"{name}: {error.strerror}", 0, 0, True
    if reason:
        value = f"{name} is not used: {without_home(reason)}"
        return [Finding("cache", value, PROBLEM, advice)]
    at_least = "" if complete else "at least "
    return [Finding("cache", f"{name}, trusted, {at_least}{counted(files, 'file')}, {gib(size)}")]


def _directory_size(directory: Path) -> tuple[int, int, bool]:
    """Returns the bytes and the number of files in a directory, and True if all were counted."""
    size, files, end = 0, 0, time.monotonic() + SCAN_SECONDS
    for parent, _, names in os.walk(directory):
        for name in names:
            try:
                size += os.lstat(os.path.join(parent, name)).st_size
                files += 1
            except OSError:  # another process has just removed it
                continue
            if time.monotonic() > end:
                return size, files, False
    return size, files, True


def check_disk() -> list[Finding]:
    """Returns the free space where runs and compiled programs are stored."""
    findings = []
    for name, path in (("current directory", Path(".")), ("cache", cache_directory())):
        try:
            existing = next(
                (p for p in (path.absolute(), *path.absolute().parents) if p.exists()), None
            )
        except OSError as error:  # the current directory was deleted
            advice = "change to another directory"
            findings.append(Finding(f"disk ({name})", str(error.strerror), PROBLEM, advice))
            continue
        if existing is None or str(path).startswith("~"):
            continue
        try:
            free = shutil.disk_usage(existing).free
        except OSError as error:
            findings.append(Finding(f"disk ({name})", str(error.strerror), PROBLEM))
            continue
        is_full = free < MIN_FREE_BYTES
        advice = "free some space; checkpoints cannot be written to a full disk" if is_full else ""
        status = PROBLEM if is_full else "ok"
        findings.append(Finding(f"disk ({name})", f"{gib(free)} free", status, advice))
    return findings
