"""Files of compiled libraries in the cache: NAME-KEY-DIGEST.so, such as kernels-KEY-DIGEST.so.

The key stands for the sources, the compiler, its flags and the processor. The digest is that of the
file, so a truncated or damaged file is not loaded: mapping it could end the process with SIGBUS.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from flaxres.cpu.trusted import open_trusted

CC = Path(__file__).with_name("cc")
FUNCTIONS = (
    *("convolve", "input_gradient", "kernel_gradient"),
    *("norm_sums", "normalize", "norm_gradient_sums", "norm_gradient"),
)
DTYPES = ("float32", "bfloat16")  # of images; each has a library with all functions
# Loads a library that was never loaded before, in a process of its own: it may crash.
_PROBE = """
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
for name in sys.argv[2:]:
    function = getattr(library, name)
sys.exit(not function() > 0)
"""
PROBE_SECONDS = 60.0


@dataclasses.dataclass(frozen=True)
class LibrarySources:
    """C++ sources of a library.

    Attributes:
      name: first part of the names of its files in the cache.
      main: file to compile; all C++ files in its directory are sources.
      symbols: functions of the library. The last one has no arguments and returns a positive
        number.
      flags: further flags of the compiler.
    """

    name: str
    main: Path
    symbols: tuple[str, ...]
    flags: tuple[str, ...] = ()


def symbol(name: str, dtype: str) -> str:
    """Returns the symbol of one of `FUNCTIONS` for images of a dtype."""
    return f"flaxres_{name}_{dtype}"


# The sources of the kernels for images of each of `DTYPES`.
KERNELS = {
    dtype: LibrarySources(
        "kernels",
        CC / "kernels.cc",
        (*(symbol(name, dtype) for name in FUNCTIONS), "flaxres_lanes"),
        flags,
    )
    for dtype, flags in zip(DTYPES, ((), ("-DFLAXRES_BFLOAT16",)), strict=True)
}


def load_stored(
    sources: LibrarySources, directory: Path, key: str
) -> tuple[Path, ctypes.CDLL] | None:
    """Loads the library with a key from a directory.

    A file is left out if others could change it, if it does not have the digest in its name, or if
    it cannot be loaded on this machine.

    Args:
      sources: sources of the library.
      directory: directory that only this user can write.
      key: key of the build.

    Returns:
      The file and the loaded library; None if there is no such file.
    """
    for path in sorted(directory.glob(f"{sources.name}-{key}-*.so")):
        with contextlib.suppress(OSError, AttributeError):
            return path, load_file(path, sources.symbols)
    return None


def store_library(sources: LibrarySources, built: Path, directory: Path, key: str) -> Path:
    """Moves a new library into a directory of the same file system; returns its path there.

    Raises:
      OSError: the library cannot be moved, or cannot be loaded.
    """
    if built.is_symlink() or not built.is_file():
        raise OSError("it wrote no library")
    built.chmod(built.stat().st_mode & 0o755)
    probe = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _PROBE, str(built), *sources.symbols],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=PROBE_SECONDS,
        check=False,
    )
    if probe.returncode:
        lines = probe.stderr.decode(errors="replace").strip().splitlines()
        reason = lines[-1] if lines else f"exit code {probe.returncode}"
        raise OSError(f"its library cannot be loaded ({reason})")
    digest = hashlib.sha256(built.read_bytes()).hexdigest()[:32]
    path = directory / f"{sources.name}-{key}-{digest}.so"
    if path.is_dir():
        shutil.rmtree(path)
    os.replace(built, path)  # atomic: other processes may build it too
    return path


def load_file(path: Path, symbols: Sequence[str]) -> ctypes.CDLL:
    """Loads a library, after its owner, its mode and its digest are checked.

    Args:
      path: file of the library.
      symbols: functions that it must have.

    Raises:
      OSError: the file must not or cannot be loaded.
      AttributeError: a function is missing.
    """
    descriptor = open_trusted(path)
    try:
        with open(descriptor, "rb", closefd=False) as file:
            digest = hashlib.sha256(file.read()).hexdigest()[:32]
        if not path.stem.endswith(f"-{digest}"):
            raise OSError(f"{path} is damaged")
        # The opened file itself, which nobody can exchange.
        opened = f"/proc/self/fd/{descriptor}"
        library = ctypes.CDLL(opened if os.path.exists(opened) else str(path))
    except BaseException:
        os.close(descriptor)
        raise
    for symbol in symbols:
        getattr(library, symbol)
    # The descriptor stays open: the loader knows the library by a name with this number.
    return library
