"""Pages of the notebooks in `docs/notebooks`, with their stored output."""

from __future__ import annotations

from pathlib import Path


def notebook_pages(directory: Path) -> dict[str, bytes]:
    """Returns the pages of all notebooks and their images, by path relative to the directory.

    Notebooks are converted, not executed.
    """
    from nbconvert import MarkdownExporter

    files: dict[str, bytes] = {}
    for path in sorted(directory.glob("*.ipynb")):
        exporter = MarkdownExporter()
        resources = {"output_files_dir": f"{path.stem}_files"}
        text, resources = exporter.from_filename(str(path), resources=resources)
        note = f"*This page is the notebook `docs/notebooks/{path.name}` with its stored output.*"
        title, _, rest = text.strip().partition("\n")
        files[f"{path.stem}.md"] = f"{title}\n\n{note}\n{rest}\n".encode()
        files |= resources["outputs"]
    return files
