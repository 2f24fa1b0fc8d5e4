"""Files of the compiled kernels in the cache: kernels-KEY-DIGEST.so.

The key stands for the dtype, the sources, the compiler and the processor. The digest is that of the
file, so a truncated or damaged file is not loaded: mapping it could end the process with SIGBUS.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from flaxres.cpu.trusted import open_trusted

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
    getattr(library, name)
sys.exit(not library.flaxres_lanes() > 0)
"""
PROBE_SECONDS = 60.0


def symbol(name: str, dtype: str) -> str:
    """Returns the symbol of one of `FUNCTIONS` for images of a dtype."""
    return f"flaxres_{name}_{dtype}"


def _symbols(dtype: str) -> list[str]:
    """Returns all symbols of a library."""
    return [*(symbol(name, dtype) for name in FUNCTIONS), "flaxres_lanes"]


def load_kernels(directory: Path, key: str, dtype: str) -> tuple[Path, ctypes.CDLL] | None:
    """Loads the kernels with a key from a directory.

    A file is left out if others could change it, if it does not have the digest in its name, or if
    it cannot be loaded on this machine.

    Args:
      directory: directory that only this user can write.
      key: key of the build.
      dtype: dtype of images, one of `DTYPES`.

    Returns:
      The file and the loaded library; None if there is no such file.
    """
    for path in sorted(directory.glob(f"kernels-{key}-*.so")):
        with contextlib.suppress(OSError, AttributeError):
            return path, load_file(path, dtype)
    return None


def store_kernels(built: Path, directory: Path, key: str, dtype: str) -> Path:
    """Moves a new library into a directory of the same file system; returns its path there.

    Raises:
      OSError: the library cannot be moved, or cannot be loaded.
    """
    if built.is_symlink() or not built.is_file():
        raise OSError("it wrote no library")
    built.chmod(built.stat().st_mode & 0o755)
    probe = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _PROBE, str(built), *_symbols(dtype)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=PROBE_SECONDS,
        check=False,
    )
    if probe.returncode:
        lines = probe.stderr.decode(errors="replace").strip().splitlines()
        reason = lines[-1] if lines else f"exit code {probe.returncode}"
        raise OSError(f"its library cannot be loaded ({reason})")
    path = directory / f"kernels-{key}-{hashlib.sha256(built.read_bytes()).hexdigest()[:32]}.so"
    if path.is_dir():
        shutil.rmtree(path)
    os.replace(built, path)  # atomic: other processes may build it too
    return path


def load_file(path: Path, dtype: str) -> ctypes.CDLL:
    """Loads a library, after its owner, its mode and its digest are checked.

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
    for name in _symbols(dtype):
        getattr(library, name)
    # The descriptor stays open: the loader knows the library by a name with this number.
    return library
