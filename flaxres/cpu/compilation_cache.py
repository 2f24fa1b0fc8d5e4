"""Cache of compiled programs: its directory, and JAX's persistent compilation cache in it."""

from __future__ import annotations

import hashlib
import os
import warnings
from pathlib import Path

from flaxres.cpu.processor import processor_fingerprint

MAX_BYTES = 2 * 1024**3  # size of XLA's programs; the least recently used are deleted first
MIN_SECONDS = 0.1  # programs that compile faster are not stored


def cache_directory() -> Path:
    """Returns the user's cache directory for flaxres, which may not exist yet.

    FLAXRES_CACHE names it. The default is the place for caches of the operating system, on Linux
    flaxres in XDG_CACHE_HOME or ~/.cache.
    """
    if directory := os.environ.get("FLAXRES_CACHE"):
        return Path(directory).expanduser()
    import platformdirs  # only now: the import takes time, and FLAXRES_CACHE needs none of it

    return platformdirs.user_cache_path("flaxres", appauthor=False)


def enable_compilation_cache() -> None:
    """Makes JAX store compiled programs, so that only the first run waits for compilation.

    Does nothing if the user has configured JAX's cache directory, or if the directory cannot be
    created or written.
    """
    import jax

    if jax.config.values["jax_compilation_cache_dir"] is not None:
        return
    # A file system may serve machines with different processors.
    name = f"xla-{hashlib.sha256(processor_fingerprint().encode()).hexdigest()[:8]}"
    directory = cache_directory() / name
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if not os.access(directory, os.W_OK):
        return
    # A killed process may leave a program that is incomplete or lacks its access time. JAX would
    # warn about it whenever it stores a program. It recompiles programs that it cannot read.
    for program in directory.glob("*-cache"):
        if not program.with_name(program.name.removesuffix("-cache") + "-atime").exists():
            program.unlink(missing_ok=True)
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_compilation_cache_max_size", MAX_BYTES)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", MIN_SECONDS)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
