"""Replacement of a module's attribute while a context is entered, in any number of threads."""

from __future__ import annotations

import threading
from typing import Any


class SharedPatch:
    """Context in which an attribute of a module is replaced. Contexts of threads may overlap.

    Attributes:
      previous: value that the replacement stands for, as it was before the first context.
    """

    def __init__(self, module: Any, attribute: str, replacement: object):
        """Prepares the patch; entering the context applies it.

        Args:
          module: module whose attribute is replaced.
          attribute: name of the attribute.
          replacement: value within the context.
        """
        self.previous: Any = getattr(module, attribute)
        self._module = module
        self._attribute = attribute
        self._replacement = replacement
        self._lock = threading.Lock()
        self._contexts = 0  # number of entered contexts

    def __enter__(self) -> None:
        with self._lock:
            if not self._contexts:
                self.previous = getattr(self._module, self._attribute)
                setattr(self._module, self._attribute, self._replacement)
            self._contexts += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._contexts -= 1
            is_ours = getattr(self._module, self._attribute) is self._replacement
            if not self._contexts and is_ours:  # otherwise a patch of other code stays
                setattr(self._module, self._attribute, self.previous)
