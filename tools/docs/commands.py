"""Commands of the repository and their flags, as `--helpxml` lists them."""

from __future__ import annotations

import ast
import dataclasses
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from flaxres.help_text import FIRST
from flaxres.subcommands import PROGRAMS

ROOT = Path(__file__).parents[2]
PACKAGES = ("flaxres", "experiments", "benchmarks")
# Processes that other commands start.
INTERNAL = (
    "flaxres",  # the same as flaxres.main
    "flaxres.doctor.probe",
    "experiments.executors.slurm_node",
    "experiments.sweeps.throughput",
    "benchmarks.flaxres_worker",
    "benchmarks.torch_worker",
)


@dataclasses.dataclass(frozen=True)
class Flag:
    """A flag of a command.

    Attributes:
      name: without dashes.
      help: help text.
      default: default as text, '' if there is none.
      kind: 'bool', 'int', 'float', 'string', 'string enum', 'comma separated list of strings', ...
      choices: allowed values of an enum flag.
      bounds: lower and upper bound as text, '' if there is none.
    """

    name: str
    help: str
    default: str
    kind: str
    choices: tuple[str, ...]
    bounds: tuple[str, str]


@dataclasses.dataclass(frozen=True)
class Command:
    """A command.

    Attributes:
      module: name after `python -m`, with the name of the analysis for `experiments.analyze`.
      description: docstring of the module.
      flags: its flags, in the order of --help; empty if the command has none.
      is_complete: False if its flags are not known, because a package that it needs is missing.
    """

    module: str
    description: str
    flags: tuple[Flag, ...]
    is_complete: bool = True


def command_modules(root: Path = ROOT) -> list[str]:
    """Returns all modules that can be run with `python -m`, except the internal ones.

    These are modules with `if __name__ == "__main__"` and packages with `__main__.py`.
    """
    modules = []
    for package in PACKAGES:
        for file in sorted((root / package).rglob("*.py")):
            parts = file.relative_to(root).with_suffix("").parts
            is_linked = any(parent.is_symlink() for parent in file.parents)
            if is_linked or not _has_main(file):
                continue
            modules.append(".".join(parts[:-1] if parts[-1] == "__main__" else parts))
    return [module for module in modules if module not in INTERNAL]


def _has_main(file: Path) -> bool:
    tests = (node.test for node in ast.parse(file.read_text()).body if isinstance(node, ast.If))
    return file.name == "__main__.py" or any("__name__" in ast.unparse(test) for test in tests)


def installed_names(pyproject: Path = ROOT / "pyproject.toml") -> dict[str, list[str]]:
    """Returns installed commands by module: {'experiments.sweep': ['flaxres sweep', ...]}."""
    names: dict[str, list[str]] = {"flaxres.main": ["flaxres"]}
    for word, (module, _) in PROGRAMS.items():
        names.setdefault(module.replace("flaxres.experiments", "experiments"), [f"flaxres {word}"])
    scripts = tomllib.loads(pyproject.read_text())["project"].get("scripts", {})
    for script in scripts:
        if "-" in script:
            module = f"experiments.{script.removeprefix('flaxres-')}"
            names.setdefault(module, []).append(script)
    return names


def read_commands(modules: Sequence[str]) -> list[Command]:
    """Runs commands with --helpxml and returns what they list.

    Args:
      modules: names after `python -m`; of an analysis as 'experiments.analyze NAME'.
    """
    with_flags = [module for module in modules if "flags" in _source(module)]
    done = subprocess.run(
        [sys.executable, "-m", "tools.docs.list_flags", *map(_command_line, with_flags)],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    listed: dict[str, str] = json.loads(done.stdout)
    return [
        _read_command(module, listed[_command_line(module)])
        if module in with_flags
        else Command(module, ast.get_docstring(ast.parse(_source(module))) or "", ())
        for module in modules
    ]


def _command_line(module: str) -> str:
    """Returns a module with the arguments that it needs: one of the analyses."""
    return f"{module} {analyses()[0].split()[1]}" if module == "experiments.analyze" else module


def _source(module: str) -> str:
    path = ROOT / module.split()[0].replace(".", "/")
    file = path.with_suffix(".py")
    return (file if file.exists() else path / "__main__.py").read_text()


def analyses() -> list[str]:
    """Returns the commands of all analyses, such as 'experiments.analyze gradients'."""
    from experiments.analyses import ANALYSES

    return [f"experiments.analyze {name}" for name in ANALYSES]


def _read_command(module: str, helpxml: str) -> Command:
    is_analysis = " " in module
    description = ast.get_docstring(ast.parse(_source(module))) or ""
    if not helpxml:
        return Command(module, description, (), is_complete=False)
    root = ElementTree.fromstring(helpxml)
    if is_analysis:
        description = root.findtext("usage", "").strip()
    flags = [
        _read_flag(node)
        for node in root.iter("flag")
        if node.findtext("key") == "yes" and _is_common(node) != is_analysis
    ]
    flags.sort(key=lambda flag: (flag.name not in FIRST, flag.name))  # as --help lists them
    return Command(module, description, tuple(flags))


def _is_common(node: ElementTree.Element) -> bool:
    """Returns False for a flag of one analysis only."""
    return ".analyses." not in node.findtext("file", "")


def _read_flag(node: ElementTree.Element) -> Flag:
    choices = tuple(choice.text or "" for choice in node.iter("enum_value"))
    meaning = re.sub(r"^<[^>]*>: ", "", node.findtext("meaning", ""))
    return Flag(
        name=node.findtext("name", ""),
        help=meaning,
        default=node.findtext("default", ""),
        kind=node.findtext("type", ""),
        choices=choices,
        bounds=(node.findtext("lower_bound", ""), node.findtext("upper_bound", "")),
    )
