"""Executes the notebooks in docs/notebooks/ and stores their output.

python -m tools.notebooks                 # all of them
python -m tools.notebooks degradation     # one of them

Each notebook runs in a new directory, which is removed afterwards, with this copy of flaxres. What
changes with every execution, apart from the results themselves, is not stored: times of the cells,
versions of Python and names of cells. A notebook with an error stays as it was.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import nbformat
import zmq
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ROOT / "docs" / "notebooks"
PARAMETERS_TAG = "parameters"  # of the cell with the numbers that a test replaces
CELL_SECONDS = 3600
COLOR_CODES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def main(arguments: Sequence[str]) -> int:
    """Executes notebooks in full and writes them with their output.

    Args:
      arguments: command line without the program's name.

    Returns:
      The exit code.
    """
    parser = argparse.ArgumentParser(
        prog="python -m tools.notebooks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))
    parser.add_argument("notebook", nargs="*", help=f"names: {', '.join(names)} (default: all)")
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.notebook) - set(names)):
        parser.error(f"no notebook is named {unknown[0]}; there are {', '.join(names)}")
    for name in options.notebook or names:
        path = NOTEBOOKS / f"{name}.ipynb"
        notebook = nbformat.read(path, as_version=4)
        started = time.monotonic()
        try:
            with tempfile.TemporaryDirectory() as directory:
                execute(notebook, Path(directory))
        except CellExecutionError as error:
            text = COLOR_CODES.sub("", str(error))
            print(f"error: {path.relative_to(ROOT)}:\n{text}", file=sys.stderr)
            return 1
        normalize(notebook)
        nbformat.write(notebook, path)
        print(f"{path.relative_to(ROOT)}: {time.monotonic() - started:.0f} seconds", flush=True)
    return 0


def set_parameters(notebook: nbformat.NotebookNode, values: Mapping[str, object]) -> None:
    """Replaces values that the cell with the tag `parameters` assigns.

    Args:
      notebook: the notebook; changed in place.
      values: new values by name; each has to be assigned in that cell.

    Raises:
      ValueError: the notebook has not one such cell, or the cell lacks a name.
    """
    cells = [c for c in notebook.cells if PARAMETERS_TAG in c.metadata.get("tags", [])]
    if len(cells) != 1:
        raise ValueError(f"a notebook needs one cell with the tag parameters, got {len(cells)}")
    tree = ast.parse(cells[0].source)
    names = {
        statement.targets[0].id: statement
        for statement in tree.body
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name)
    }
    for name, value in values.items():
        if name not in names:
            raise ValueError(f"the notebook has no parameter {name}, only {', '.join(names)}")
        names[name].value = ast.parse(repr(value), mode="eval").body
    cells[0].source = ast.unparse(tree)


def execute(notebook: nbformat.NotebookNode, directory: Path, seconds: int = CELL_SECONDS) -> None:
    """Executes all cells in a new kernel, with this copy of flaxres.

    Args:
      notebook: the notebook; its outputs are replaced.
      directory: working directory of the kernel.
      seconds: longest time of a cell.

    Raises:
      CellExecutionError: a cell raised an exception.
    """
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    client = NotebookClient(
        notebook,
        timeout=seconds,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(directory)}},
    )
    client.create_kernel_manager()
    if zmq.has("curve"):
        client.km.transport_encryption = "auto"  # otherwise ipykernel warns
    client.execute(env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)})


def normalize(notebook: nbformat.NotebookNode) -> None:
    """Removes from an executed notebook what each execution changes, apart from its results."""
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    for number, cell in enumerate(notebook.cells, start=1):
        cell.id = f"cell-{number}"
        tags = cell.metadata.get("tags")
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        if "outputs" in cell:  # without progress bars that have disappeared
            cell.outputs = [o for o in cell.outputs if "data" not in o or any(o.data.values())]
        for output in cell.get("outputs", []):
            if "text" in output:
                output.text = COLOR_CODES.sub("", output.text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
