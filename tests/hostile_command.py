"""An object for tests of readers that must not load pickles."""

import os
from pathlib import Path


class HostileCommand:
    """An object whose pickle creates a directory when it is loaded."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)
