"""Compilation of the C++ kernels in cc/ into a shared library: python -m flaxres.cpu.

The first program that trains on a CPU starts it, once for each processor and source version. Each
dtype of images has a library of its own, because most runs need only one. A library is stored in
`flaxres.cpu.compilation_cache.trusted_cache()`. Without such a directory, or where it is full, each
program builds its own in a temporary directory.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import errno
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from flaxres.cpu.build_directory import BuildDirectory, remove_dead_builds
from flaxres.cpu.compilation_cache import notify, trusted_cache
from flaxres.cpu.kernel_files import (
    KERNELS,
    LibrarySources,
    load_file,
    load_stored,
    store_library,
)
from flaxres.cpu.processor import processor_fingerprint
from flaxres.errors import one_line, printable

NATIVE = "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"
FLAGS = ("-std=c++17", "-O3", NATIVE, "-fPIC", "-shared", "-w")
COMPILERS = ("c++", "g++", "clang++")
COMPILE_SECONDS = 300.0  # a compiler that takes longer is killed
MAX_ERROR_LENGTH = 100_000  # characters of the compiler's messages that are read


class Build:
    """A library from the cache, or a build of it that runs in a background process.

    Attributes:
      key: hash of the sources, the compiler, its flags, the jaxlib version and the processor.
      problem: the reason for a failure, empty without one; final after `wait`.
      path: file of the library, None if it is only in memory; final after `wait`.
    """

    def __init__(self, sources: LibrarySources = KERNELS["float32"]) -> None:
        """Loads the library from the cache, or else starts the compiler.

        Args:
          sources: sources of the library.
        """
        self._sources = sources
        self.problem = ""
        self.path: Path | None = None
        self._library: ctypes.CDLL | None = None
        self._directory: BuildDirectory | None = None  # None unless the compiler is running
        self._process: subprocess.Popen[bytes] | None = None
        compiler = find_compiler()
        parts = [path.read_bytes() for path in sorted(sources.main.parent.glob("*.[ch]*"))]
        self._flags = (*FLAGS, *sources.flags)
        options = [str(self._flags), str(compiler), processor_fingerprint()]
        options.append(importlib.metadata.version("jaxlib"))  # its headers are compiled in
        parts += [os.fsencode(option) for option in options]
        self.key = hashlib.sha256(b"\n".join(parts)).hexdigest()[:16]
        self._cache = trusted_cache()
        if self._cache is not None:
            remove_dead_builds(self._cache)
        if self._cache is not None and (found := load_stored(sources, self._cache, self.key)):
            self.path, self._library = found
        elif not compiler:
            self.problem = f"no C++ compiler ({', '.join(COMPILERS)}) is installed"
        else:
            try:
                self._start(compiler)
            except (OSError, ValueError) as error:
                self.problem = _describe(error)
                self._end(os.getpid())

    def _start(self, compiler: str) -> None:
        """Starts the compiler.

        Raises:
          OSError: the compiler cannot be started, or no directory for the build can be written.
          ValueError: CXX is no command.
        """
        try:
            self._compiler = [compiler] if shutil.which(compiler) else shlex.split(compiler)
        except ValueError as error:
            raise ValueError(f"CXX={compiler}: {error}") from None
        if not self._compiler[0]:
            raise ValueError(f"CXX={compiler} names no program")
        atexit.register(self._end, os.getpid())
        self._directory = directory = self._make_directory()
        command = [*self._compiler, *self._flags, f"-I{_jaxlib_headers()}", str(self._sources.main)]
        self._deadline = time.monotonic() + COMPILE_SECONDS
        with open(directory.path / "errors", "wb") as errors:
            self._process = subprocess.Popen(
                [*command, "-o", str(directory.path / "kernels.so")],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env={**os.environ, "TMPDIR": str(directory.path), "LC_ALL": "C"},
                pass_fds=(directory.lock,),  # the directory is locked while either one runs
                start_new_session=True,  # its child processes can be killed with it
            )

    def _make_directory(self) -> BuildDirectory:
        """Creates the directory of the build, in the cache if that can be written.

        Raises:
          OSError: no directory can be created.
        """
        if self._cache is not None:
            try:
                return BuildDirectory(self._cache)
            except OSError as error:
                notify(_describe(error))
                self._cache = None
        return BuildDirectory(Path(tempfile.gettempdir()))

    def wait(self) -> ctypes.CDLL | None:
        """Waits for the compiler. Returns the loaded library, or None if the build failed."""
        if self._process is not None and self._directory is not None:
            try:
                self._finish(self._process, self._directory.path)
            except subprocess.TimeoutExpired:
                self.problem = f"{self._compiler[0]} was stopped after {COMPILE_SECONDS:g} s"
            except OSError as error:
                self.problem = f"{self._compiler[0]} failed: {_describe(error)}"
            self._end(os.getpid())
        return self._library

    def _finish(self, process: subprocess.Popen[bytes], directory: Path) -> None:
        """Waits for the compiler, then stores and loads the library.

        Args:
          process: the compiler.
          directory: directory of the build.

        Raises:
          OSError: the compiler failed, or made no library that can be loaded.
          subprocess.TimeoutExpired: the compiler takes too long.
        """
        code = process.wait(max(0.0, self._deadline - time.monotonic()))
        if code:
            with open(directory / "errors", errors="replace") as file:
                lines = file.read(MAX_ERROR_LENGTH).splitlines()
            ended = f"exit code {code}" if code > 0 else f"killed by signal {-code}"
            raise OSError(next((line for line in lines if "error" in line), ended))
        built = directory / "kernels.so"
        path = store_library(self._sources, built, self._cache or directory, self.key)
        self._library = load_file(path, self._sources.symbols)
        self.path = path if self._cache else None

    def _end(self, pid: int) -> None:
        """Kills the compiler if it still runs, and removes the directory of the build.

        Args:
          pid: id of the process that started the build; a child process must not end it.
        """
        if os.getpid() != pid:
            return
        atexit.unregister(self._end)
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        if self._directory is not None:
            self._directory.remove()
        self._process = self._directory = None


def find_compiler() -> str | None:
    """Returns the command of the C++ compiler: that in CXX, or else an installed compiler."""
    return os.environ.get("CXX", "").strip() or next(filter(shutil.which, COMPILERS), None)


def _describe(error: Exception) -> str:
    """Returns the file and the reason of an error, in one line."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return printable(f"{error.filename}: {error.strerror}")
    return printable(one_line(error))


def _jaxlib_headers() -> Path:
    """Returns the directory of jaxlib's C++ headers, without importing jaxlib."""
    spec = importlib.util.find_spec("jaxlib")
    if spec is None or spec.origin is None:
        raise FileNotFoundError(errno.ENOENT, "C++ headers not found", "jaxlib")
    return Path(spec.origin).parent / "include"
