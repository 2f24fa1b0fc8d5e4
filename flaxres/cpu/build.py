"""Builds the kernels in cc/: python -m flaxres.cpu.

It is built by itself when a program first trains on a CPU, once for each processor and version of
the source, into `flaxres.cpu.compilation_cache.cache_directory()`.
"""

from __future__ import annotations

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
    """One build, which goes on in the background.

    Attributes:
      key: names what it is made from, and for which processor.
      problem: why there is no library, once `wait` has returned None.
    """

    def __init__(self) -> None:
        """Looks for the library, and starts to build it if it is not there."""
        self.problem = ""
        self._process: subprocess.Popen | None = None
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
            self._library.parent.mkdir(parents=True, exist_ok=True)
            handle, self._new = tempfile.mkstemp(".so", "kernels-", self._library.parent)
            os.close(handle)
            headers = Path(importlib.util.find_spec("jaxlib").origin).parent / "include"
            command = [*compiler.split(), *FLAGS, f"-I{headers}", str(SOURCES / "kernels.cc")]
            command += ["-o", self._new]
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
        except OSError as error:
            self.problem = f"{error.filename}: {error.strerror}"

    def wait(self) -> Path | None:
        """The library, or None if it cannot be built."""
        if self._process is not None:
            errors = self._process.communicate()[1].decode(errors="replace").strip()
            if self._process.returncode == 0:
                os.replace(self._new, self._library)  # other processes may have built it too
            else:
                os.unlink(self._new)
                line = next((line for line in errors.splitlines() if "error" in line), "")
                self.problem = f"{self._process.args[0]} failed: {line[:200]}"
            self._process = None
        return None if self.problem else self._library
