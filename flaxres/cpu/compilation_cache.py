"""Where flaxres keeps what can be made again: compiled programs."""

from __future__ import annotations

import hashlib
import os
import warnings
from pathlib import Path

import platformdirs

from flaxres.cpu.processor import processor_fingerprint

MAX_BYTES = 2 * 1024**3  # of XLA's programs; the least recently used go first
MIN_SECONDS = 0.1  # programs that take less time to compile are not kept


def cache_directory() -> Path:
    """The user's cache directory for flaxres; it need not exist.

    FLAXRES_CACHE names another one. Else it is in XDG_CACHE_HOME, by default ~/.cache.
    """
    if own := os.environ.get("FLAXRES_CACHE"):
        return Path(own).expanduser()
    return platformdirs.user_cache_path("flaxres", appauthor=False)


def enable_compilation_cache() -> None:
    """Lets JAX keep the programs that it compiles, so that only a first run waits for them.

    Nothing is done where the user has told JAX where to keep them, or the directory cannot be made.
    """
    import jax

    if jax.config.jax_compilation_cache_dir is not None:
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
    # A killed process may have left a program without the time of its last use, or a part of one;
    # JAX would then complain of each program that it keeps. It compiles what it cannot read.
    for program in directory.glob("*-cache"):
        if not program.with_name(program.name.removesuffix("-cache") + "-atime").exists():
            program.unlink(missing_ok=True)
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_compilation_cache_max_size", MAX_BYTES)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", MIN_SECONDS)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
