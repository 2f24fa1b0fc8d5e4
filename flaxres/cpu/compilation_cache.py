"""Cache of compiled programs: its directory, and JAX's persistent compilation cache in it.

Programs in the cache are executed. It is therefore used only if no other user can write to it.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import shutil
import stat
import sys
import warnings
from pathlib import Path

from flaxres.cpu.processor import processor_fingerprint
from flaxres.cpu.trusted import is_trusted_file, make_private_directory, untrusted_reason
from flaxres.errors import printable

MAX_BYTES = 2 * 1024**3  # size of XLA's programs; the least recently used are deleted first
MIN_SECONDS = 0.1  # programs that compile faster are not stored


def cache_directory() -> Path:
    """Returns the user's cache directory for flaxres, which may not exist yet.

    FLAXRES_CACHE names it. The default is the place for caches of the operating system, on Linux
    flaxres in XDG_CACHE_HOME or ~/.cache. The path begins with ~ if there is no home directory.
    """
    if name := os.environ.get("FLAXRES_CACHE"):
        return Path(os.path.expanduser(name))
    import platformdirs  # only now: the import takes time, and FLAXRES_CACHE needs none of it

    try:
        return platformdirs.user_cache_path("flaxres", appauthor=False)
    except RuntimeError:  # no home directory; older versions return a path that begins with ~
        return Path("~/.cache/flaxres")


def trusted_cache() -> Path | None:
    """Returns the cache directory, which is created if necessary.

    Returns:
      An absolute path; None, with a notice, if it cannot be created or others can write to it.
    """
    directory = cache_directory()
    problem = _prepare(directory)
    if problem:
        notify(problem)
        return None
    return directory.absolute()


def _prepare(directory: Path) -> str:
    """Creates a directory; returns why it cannot be used as a cache, or ""."""
    if str(directory).startswith("~"):
        return f"{directory}: no such home directory"
    try:
        make_private_directory(directory.absolute())
        return untrusted_reason(directory.absolute())
    except OSError as error:
        return _describe(error, directory)


def _describe(error: OSError, path: Path) -> str:
    return f"{error.filename or path}: {error.strerror}"


@functools.cache
def notify(reason: str, variable: str = "FLAXRES_CACHE") -> None:
    """Prints, once in a process, why compiled programs are not stored.

    Args:
      reason: the reason.
      variable: environment variable that names another directory.
    """
    print(
        f"Compiled programs are not kept for the next run: {printable(reason)}; set {variable} to "
        "a directory that only you can write.",
        file=sys.stderr,
        flush=True,
    )


def enable_compilation_cache() -> None:
    """Makes JAX store compiled programs, so that only the first run waits for compilation.

    JAX's own settings have priority: its directory is only checked. Prints a notice and disables
    JAX's cache if others can write to its directory, or if it cannot be created or written.
    """
    import jax

    if not jax.config.values["jax_enable_compilation_cache"]:
        return
    chosen = jax.config.values["jax_compilation_cache_dir"]
    if chosen is not None:
        # Directories such as gs://bucket have permissions of their own.
        if "://" not in chosen and (problem := _prepare(Path(chosen))):
            jax.config.update("jax_compilation_cache_dir", None)
            notify(problem, "JAX_COMPILATION_CACHE_DIR")
        return
    cache = trusted_cache()
    if cache is None:
        return
    # A file system may serve machines with different processors.
    name = f"xla-{hashlib.sha256(processor_fingerprint().encode()).hexdigest()[:8]}"
    try:
        directory = _clean_programs(cache / name)
    except OSError as error:
        notify(_describe(error, cache / name))
        return
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_compilation_cache_max_size", MAX_BYTES)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", MIN_SECONDS)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def _clean_programs(directory: Path) -> Path:
    """Creates the directory of XLA's programs, and removes files that JAX must not or cannot read.

    These are files that others could have written, and programs that a killed process left
    incomplete or without their access time. JAX would warn about the latter whenever it stores a
    program. It recompiles programs that it cannot read.

    Raises:
      OSError: the directory cannot be written.
    """
    make_private_directory(directory)
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, "not a directory of this user", str(directory))
    others_entered = status.st_mode & 0o077
    if others_entered:
        directory.chmod(0o700)  # first, so that nobody adds a file while the others are checked
    if not os.access(directory, os.W_OK):
        raise PermissionError(errno.EACCES, "cannot be written", str(directory))
    statuses = {}
    for path in directory.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process has just removed it
            statuses[path] = path.lstat()
    for path, status in statuses.items():
        usable = is_trusted_file(status) if others_entered else stat.S_ISREG(status.st_mode)
        if usable and path.name.endswith("-cache"):
            usable = path.with_name(path.name.removesuffix("-cache") + "-atime") in statuses
        if not usable and stat.S_ISDIR(status.st_mode):
            shutil.rmtree(path, ignore_errors=True)
        elif not usable:
            path.unlink(missing_ok=True)
    return directory
