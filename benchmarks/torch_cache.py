"""Cache of the programs that PyTorch compiles in a benchmark."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from flaxres.cpu.compilation_cache import trusted_cache


def torch_environment() -> dict[str, str]:
    """Returns the variables of PyTorch's workers.

    PyTorch executes what is in its cache, by default a directory in /tmp with a name that is known.
    It gets one that only this user can write.
    """
    environment = {"PYTHONPATH": os.getcwd()}
    if "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
        cache = trusted_cache() or Path(tempfile.mkdtemp())
        environment["TORCHINDUCTOR_CACHE_DIR"] = str(cache / "torchinductor")
    return environment
