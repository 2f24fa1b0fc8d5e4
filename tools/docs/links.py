"""Links of the Markdown files in the repository, and what they become on the site."""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Files outside of docs/ that are pages of the site.
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/README.md": "benchmarks.md",
    "results/README.md": "results.md",
}
# Source files whose contents the reference shows. On a Git host, links lead to the source.
REFERENCE = {
    "flaxres/__init__.py": "reference/api/index.md",
    "flaxres/config_fields.py": "reference/fields.md",
    "flaxres/errors.py": "reference/errors.md",
    "flaxres/main.py": "reference/commands.md",
    "flaxres/models/fields.py": "reference/models.md",
    "flaxres/models/registry.py": "reference/models.md",
}
# [text](target) and ![text](target "title"), outside of code.
_LINK = re.compile(r"(!?)\[([^\]\[]*(?:\[[^\]]*\][^\]\[]*)*)\]\(([^()\s]+)\)")
_CODE = re.compile(r"(^ {0,3}```.*?^ {0,3}```\s*?$|`[^`\n]+`(?!\]))", re.DOTALL | re.MULTILINE)


def site_path(path: str) -> str | None:
    """Returns the path on the site of a file in the repository, or None if it is not there."""
    if path in PAGES or path in REFERENCE:
        return PAGES.get(path) or REFERENCE[path]
    if path.startswith("docs/"):
        return re.sub(r"\.ipynb$", ".md", path.removeprefix("docs/"))
    if path.startswith("examples/") and path.endswith(".py"):
        return path.removesuffix(".py") + ".md"
    if path.startswith("results/") and path.endswith((".md", ".png", ".svg")):
        return path
    return None


def links(text: str) -> list[str]:
    """Returns the targets of all links and images of a Markdown text, outside of code."""
    without_code = "".join(_CODE.split(text)[::2])
    return [target for _, _, target in _LINK.findall(without_code)]


def is_external(target: str) -> bool:
    """Returns True for an address such as https://... or mailto:..."""
    return bool(re.match(r"[a-z][a-z+.-]*:", target))


def rewrite_links(text: str, file: str) -> tuple[str, set[str]]:
    """Rewrites the links of a Markdown file of the repository for its place on the site.

    A link to a file that is not on the site becomes the path of the file.

    Args:
      text: contents of the file.
      file: its path in the repository, such as 'docs/running.md'.

    Returns:
      The new text, and the paths (in the repository) of linked files that have to be copied.
    """
    here = site_path(file)
    assert here is not None, f"{file} is not a page of the site"
    used: set[str] = set()

    def rewrite(match: re.Match[str]) -> str:
        mark, label, target = match.groups()
        path, hash_mark, anchor = target.partition("#")
        if is_external(target) or not path:
            return match[0]
        source = posixpath.normpath(posixpath.join(posixpath.dirname(file), path))
        there = site_path(source)
        if there is None:
            return label if source in label else f"{label} (`{source}`)"
        if source not in REFERENCE:
            used.add(source)
        relative = os.path.relpath(there, posixpath.dirname(here) or ".")
        return f"{mark}[{label}]({relative}{hash_mark}{anchor})"

    parts = _CODE.split(text)
    parts[::2] = [_LINK.sub(rewrite, part) for part in parts[::2]]
    parts[1::2] = [_keep_whole(part) for part in parts[1::2]]
    return "".join(parts), used


def _keep_whole(code: str) -> str:
    """Marks short inline code that begins with a dash; browsers would break a line after it."""
    is_flag = re.fullmatch(r"`-[^`\n]{1,32}`", code)
    return f"{code}{{ .whole }}" if is_flag else code
