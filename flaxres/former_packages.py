"""Former names of packages: `experiments` is `flaxres.experiments`, `configs` is `flaxres.configs`.

Users' config and sweep files import from them: `from experiments.sweeps import grid`. An installed
flaxres has no packages of these names, because other projects have packages `experiments` too.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Iterable
from types import ModuleType

FORMER_PACKAGES = ("experiments", "configs")


def register_former_packages() -> None:
    """Lets imports of former packages find the current ones, from now on in this process.

    Packages of these names that are found in `sys.path` have priority.
    """
    if not any(isinstance(finder, _FormerPackages) for finder in sys.meta_path):
        sys.meta_path.insert(0, _FormerPackages())  # before the finder of files in packages


class _FormerPackages(importlib.abc.MetaPathFinder):
    """Finds `experiments.X` as `flaxres.experiments.X`, with the same module object."""

    def find_spec(
        self, name: str, path: Iterable[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Returns the spec of a former module, or None for all other modules."""
        package, _, submodules = name.partition(".")
        if package not in FORMER_PACKAGES:
            return None
        if submodules:
            is_former = sys.modules[package] is sys.modules.get(f"flaxres.{package}")
        else:
            is_former = importlib.machinery.PathFinder.find_spec(name) is None
        if not is_former:
            return None
        try:
            module = importlib.import_module(f"flaxres.{name}")
        except ModuleNotFoundError as error:
            if error.name and f"flaxres.{name}".startswith(error.name):
                return None
            raise
        return importlib.machinery.ModuleSpec(name, _Loaded(module))


class _Loaded(importlib.abc.Loader):
    """Loader of a module that has been imported under another name."""

    def __init__(self, module: ModuleType):
        """Creates the loader of `module`."""
        self._module = module
        self._spec = module.__spec__

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """Returns the module."""
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        """Restores the spec, which the import system has replaced; the code has run already."""
        module.__spec__ = self._spec
