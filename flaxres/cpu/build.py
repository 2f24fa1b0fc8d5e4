"""Compilation of the C++ kernels in cc/ into a shared library: python -m flaxres.cpu.

The first program that trains on a CPU starts it, once for each processor and source version. The
library is stored in `flaxres.cpu.compilation_cache.cache_directory()`.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from flaxres.cpu.compilation_cache import cache_directory
from flaxres.cpu.processor import processor_fingerprint

SOURCES = Path(__file__).with_name("cc")
NATIVE = "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"
FLAGS = ("-std=c++17", "-O3", NATIVE, "-fPIC", "-shared", "-w")
COMPILERS = ("c++", "g++", "clang++")


class Build:
    """A build of the kernels that runs in a background process.

    Attributes:
      key: hash of the sources, the compiler, its flags, the jaxlib version and the processor.
      problem: the reason for a failure, empty without one; final after `wait`.
    """

    def __init__(self) -> None:
        """Starts the compiler, unless the library is already in the cache."""
        self.problem = ""
        self._process: subprocess.Popen[bytes] | None = None
        compiler = os.environ.get("CXX") or next(filter(shutil.which, COMPILERS), None)
        parts = [path.read_text() for path in sorted(SOURCES.glob("*.[ch]*"))]
        parts += [str(FLAGS), str(compiler), processor_fingerprint()]
        parts.append(importlib.metadata.version("jaxlib"))  # its headers are compiled in
        self.key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
        self._library = cache_directory() / f"kernels-{self.key}.so"
        if self._library.exists():
            return
        if compiler is None:
            self.problem = f"no C++ compiler ({', '.join(COMPILERS)}) is installed"
            return
        try:
            self._compiler = compiler.split()
            self._library.parent.mkdir(parents=True, exist_ok=True)
            handle, self._output = tempfile.mkstemp(".so", "kernels-", self._library.parent)
            os.close(handle)
            command = [*self._compiler, *FLAGS, f"-I{_jaxlib_headers()}"]
            command += [str(SOURCES / "kernels.cc"), "-o", self._output]
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
        except OSError as error:
            self.problem = f"{error.filename}: {error.strerror}"

    def wait(self) -> Path | None:
        """Waits for the compiler. Returns the path of the library, or None if the build failed."""
        if self._process is not None:
            errors = self._process.communicate()[1].decode(errors="replace").strip()
            if self._process.returncode == 0:
                os.replace(self._output, self._library)  # atomic: other processes may build it too
            else:
                os.unlink(self._output)
                line = next((line for line in errors.splitlines() if "error" in line), "")
                self.problem = f"{self._compiler[0]} failed: {line[:200]}"
            self._process = None
        return None if self.problem else self._library


def _jaxlib_headers() -> Path:
    """Returns the directory of jaxlib's C++ headers, without importing jaxlib."""
    spec = importlib.util.find_spec("jaxlib")
    if spec is None or spec.origin is None:
        raise FileNotFoundError(errno.ENOENT, "C++ headers not found", "jaxlib")
    return Path(spec.origin).parent / "include"
