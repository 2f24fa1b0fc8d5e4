"""Pages of the notebooks in `docs/notebooks`, with their stored output."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tools.docs.links import rewrite_links

_STYLE = re.compile(r"<style scoped>.*?</style>\n?", re.DOTALL)  # of pandas
_FRAME = re.compile(r'<table border="1" class="dataframe">')
_ANSI = re.compile(r"\x1b\[[0-9;]*m")  # colors of a terminal


def notebook_pages(directory: Path) -> dict[str, bytes]:
    """Returns the pages of all notebooks and their images, by path relative to the directory.

    Notebooks are converted, not executed.
    """
    import nbformat
    from nbconvert import MarkdownExporter

    files: dict[str, bytes] = {}
    for path in sorted(directory.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        notebook.metadata.setdefault("language_info", {"name": "python"})
        resources: dict[str, Any] = {"output_files_dir": f"{path.stem}_files"}
        text, resources = MarkdownExporter().from_notebook_node(notebook, resources)
        files[f"{path.stem}.md"] = _page(path.name, text).encode()
        files |= resources["outputs"]
    return files


def _page(name: str, text: str) -> str:
    """Returns the page of a notebook.

    Args:
      name: file name of the notebook.
      text: the notebook as Markdown; begins with its title.
    """
    text = _FRAME.sub("<table>", _STYLE.sub("", _ANSI.sub("", text)))  # as the site's own tables
    title, _, rest = text.strip().partition("\n")
    note = f"*This page is the notebook `docs/notebooks/{name}` with its stored output.*"
    return rewrite_links(f"{title}\n\n{note}\n{rest}\n", f"docs/notebooks/{name}")[0]
