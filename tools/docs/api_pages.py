"""Reference pages of the Python API, which mkdocstrings fills from docstrings."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

from tools.docs.text import page

ROOT = Path(__file__).parents[2]
FLAXRES = ROOT / "flaxres"
# Modules that only commands need, and build tools.
LEFT_OUT = ("console_scripts", "main", "cli", "arguments")
# The functions of this package are on the start page, under the names of `flaxres`.
START_PACKAGE = "api"
ORDER = (
    *("get_config", "create_model", "train", "TrainResult", "load_run", "load", "load_pretrained"),
    *("TrainedModel", "Predictions", "run_sweep", "load_results", "load_metrics", "write_report"),
)
# Parts of the experiments that config and sweep files, notebooks and scripts import.
EXPERIMENTS = ("flaxres.experiments.sweeps", "flaxres.experiments.results")


def api_pages() -> dict[str, str]:
    """Returns the pages by path below `reference/api/`; 'index.md' is the start."""
    pages = {"index.md": _start_page()}
    top_level = [path for path in sorted(FLAXRES.glob("*.py")) if _is_public(path)]
    pages["modules.md"] = _page("Modules of flaxres", top_level, "flaxres")
    for package in sorted(FLAXRES.iterdir()):
        is_other = package.is_symlink() or package.name == START_PACKAGE
        if is_other or not (package / "__init__.py").exists():
            continue
        files = [path for path in sorted(package.glob("*.py")) if _is_public(path)]
        name = f"flaxres.{package.name}"
        pages[f"{package.name}.md"] = _page(name, files, name, _docstring(package / "__init__.py"))
    for name in EXPERIMENTS:
        package = ROOT / name.removeprefix("flaxres.").replace(".", "/")
        files = [path for path in sorted(package.glob("*.py")) if _is_public(path)]
        text = _docstring(package / "__init__.py")
        pages[f"{package.name}.md"] = _page(name, files, name, text)
    return {path: text for path, text in pages.items() if text}


def api_names() -> dict[str, str]:
    """Returns the public names of `flaxres` and where they are defined, in the order of use."""
    package = importlib.import_module("flaxres")
    modules = getattr(package, "_MODULES", {})  # names that are imported when they are first used
    public = [name for name in getattr(package, "__all__", modules) if not name.startswith("_")]
    names = [
        *(name for name in ORDER if name in public),
        *(name for name in public if name not in ORDER),
    ]
    objects = {name: getattr(package, name) for name in names}
    return {
        name: f"{value.__module__}.{value.__qualname__}"
        for name, value in objects.items()
        if hasattr(value, "__qualname__")
    }


def _start_page() -> str:
    parts = [
        "`import flaxres` gives the names below; it imports JAX only when one of them needs it. "
        "The [guide](../../python.md) shows them in use."
        if (ROOT / "docs" / "python.md").exists()
        else "",
    ]
    parts += [_directive(path, f"flaxres.{name}") for name, path in api_names().items()]
    return page("Python API", *parts)


def _page(title: str, files: list[Path], package: str, text: str = "") -> str:
    directives = [_directive(f"{package}.{path.stem}") for path in files]
    return page(title, text, *directives) if directives else ""


def _directive(name: str, heading: str = "") -> str:
    """Returns the line that mkdocstrings replaces by the documentation of a module or object."""
    options = ["    options:", f"      heading: {heading}", f"      toc_label: {heading}"]
    return "\n".join([f"::: {name}", *(options if heading else [])])


def _is_public(path: Path) -> bool:
    """Returns True for a module with a docstring and a public function, class or constant."""
    if path.stem.startswith("_") or path.stem in LEFT_OUT:
        return False
    tree = ast.parse(path.read_text())
    kinds = ast.FunctionDef | ast.ClassDef
    is_used = any(isinstance(node, kinds) and node.name[0] != "_" for node in tree.body)
    return bool(ast.get_docstring(tree)) and is_used


def _docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text())) or ""
