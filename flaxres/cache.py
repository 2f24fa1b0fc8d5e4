"""Where flaxres keeps what can be made again: compiled programs."""

from __future__ import annotations

import os
from pathlib import Path


def cache_directory() -> Path:
    """The user's cache directory for flaxres; it need not exist.

    FLAXRES_CACHE names another one. Else it is in XDG_CACHE_HOME, by default ~/.cache.
    """
    if own := os.environ.get("FLAXRES_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "flaxres"
