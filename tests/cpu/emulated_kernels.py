"""The kernels for other instruction sets, compiled here and run natively or in an emulator."""

import dataclasses
import platform
import shutil
import subprocess
import threading
from pathlib import Path

import jax
import ml_dtypes
import numpy as np

from flaxres.cpu.kernel_files import KERNELS, symbol
from flaxres.cpu.library import Library
from flaxres.cpu.processor import processor_fingerprint

SERVER = Path(__file__).with_name("kernel_server.cc")
# -O1 compiles in a third of the time of -O3.
FLAGS = ("-std=c++17", "-O1", "-w", "-rdynamic", "-pthread", f"-I{jax.ffi.include_dir()}")
EMULATOR = ("qemu-aarch64", "-L", "/usr/aarch64-linux-gnu")  # Debian: qemu-user
CROSS_COMPILER = "aarch64-linux-gnu-g++"  # Debian: g++-aarch64-linux-gnu


@dataclasses.dataclass(frozen=True)
class Target:
    """An instruction set.

    Attributes:
      name: name in the reports of tests.
      lanes: float32 values in a vector register.
      options: options of the compiler that choose the instruction set.
      machine: 'x86_64', which must be this machine, or 'aarch64', which is emulated.
      needs: flags in /proc/cpuinfo without which this machine cannot run it.
    """

    name: str
    lanes: int
    options: tuple[str, ...]
    machine: str = "x86_64"
    needs: tuple[str, ...] = ()

    @property
    def compiler(self):
        """Command of the compiler."""
        return CROSS_COMPILER if self.machine == "aarch64" else "g++"

    @property
    def emulator(self):
        """Command that runs a program; empty if this machine can run it."""
        return EMULATOR if self.machine == "aarch64" else ()

    def missing(self):
        """Returns what this machine lacks to build and run programs, or ''."""
        if self.machine == "x86_64" and platform.machine() != "x86_64":
            return "an x86-64 processor"
        missing = [name for name in (self.compiler, *self.emulator[:1]) if not shutil.which(name)]
        missing += sorted(set(self.needs) - set(processor_fingerprint().split()))
        return ", ".join(missing)


class EmulatedLibrary(Library):
    """Kernels that run in a process of their own, built by `build_server`."""

    def call(self, name, results, images, *arrays, **attributes):
        """Calls a kernel as `Library.call` does."""
        shapes = jax.tree.leaves(results)

        def run(*arguments):
            values = _servers[self.key].call(
                symbol(name, self.dtype), shapes, arguments, attributes
            )
            return jax.tree.unflatten(jax.tree.structure(results), values)

        return jax.pure_callback(run, results, images, *arrays, vmap_method="broadcast_all")


_servers = {}  # by key of the library


def start(target, dtype, directory):
    """Builds the kernels and starts the process that runs them.

    Args:
      target: the instruction set.
      dtype: dtype of images.
      directory: directory for the program.

    Returns:
      The library; `stop` ends its process.
    """
    key = f"{target.name}-{dtype}"
    program = directory / key
    sources = [SERVER, KERNELS[dtype].main]
    flags = [*FLAGS, *KERNELS[dtype].flags, *target.options]
    command = [target.compiler, *flags, *sources, "-o", program, "-ldl"]
    subprocess.run(list(map(str, command)), check=True)
    _servers[key] = _Server([*target.emulator, str(program)])
    return EmulatedLibrary(dtype=dtype, lanes=target.lanes, key=key)


def stop(library):
    """Ends the process of a library."""
    _servers.pop(library.key).close()


class _Server:
    def __init__(self, command):
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=-1
        )
        self._lock = threading.Lock()  # XLA runs independent calls at the same time

    def call(self, symbol, results, arguments, attributes):
        arrays = [np.ascontiguousarray(argument) for argument in arguments]
        words = [symbol, len(arrays), len(results), len(attributes)]
        for array in (*arrays, *results):
            words += [np.dtype(array.dtype).name, len(array.shape), *array.shape]
        for name, value in sorted(attributes.items()):  # the kernels search by bisection
            words += [name, *_typed(value)]
        header = " ".join(map(str, words)) + "\n"
        with self._lock:
            self._process.stdin.write(header.encode() + b"".join(a.tobytes() for a in arrays))
            self._process.stdin.flush()
            return [self._read(result.shape, np.dtype(result.dtype)) for result in results]

    def _read(self, shape, dtype):
        size = dtype.itemsize * int(np.prod(shape))
        data = self._process.stdout.read(size)
        assert len(data) == size, "the process ended"
        return np.frombuffer(data, dtype).reshape(shape)

    def close(self):
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()


def _typed(value):
    if isinstance(value, bool):
        return "bool", int(value)
    return ("int", value) if isinstance(value, int) else ("float", f"{value:.9g}")


assert np.dtype(ml_dtypes.bfloat16).name == "bfloat16"  # the server knows it by this name
