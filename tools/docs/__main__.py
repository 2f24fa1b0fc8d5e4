"""Builds the documentation site: `python -m tools.docs [--serve]`."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from tools.docs.api_pages import api_pages
from tools.docs.commands_page import commands_page
from tools.docs.errors_page import errors_page
from tools.docs.fields_page import fields_page
from tools.docs.links import PAGES, rewrite_links, site_path
from tools.docs.models_page import models_page
from tools.docs.notebooks import notebook_pages

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
BUILD = ROOT / "build" / "docs"  # sources of the site
SITE = ROOT / "site"
CONFIG = ROOT / "build" / "mkdocs.yml"
# Sections of README.md on the start page; the guide has the others in full.
START_SECTIONS = ("Install", "Train one model", "Python", "Use it in Python", "From Python")


def main() -> None:
    """Writes the sources of the site to `build/docs` and builds `site`."""
    shutil.rmtree(BUILD, ignore_errors=True)
    (ROOT / "docs").mkdir(exist_ok=True)
    copy_pages()
    notebooks = notebook_pages(ROOT / "docs" / "notebooks")
    for path, data in notebooks.items():
        write(f"notebooks/{path}", data)
    write("reference/fields.md", fields_page())
    write("reference/commands.md", commands_page())
    write("reference/models.md", models_page())
    write("reference/errors.md", errors_page())
    api = api_pages()
    for path, text in api.items():
        write(f"reference/api/{path}", text)
    shutil.copytree(HERE / "assets", BUILD / "assets")
    CONFIG.write_text(site_config([path for path in notebooks if path.endswith(".md")], list(api)))
    program = Path(sys.executable).with_name("zensical")
    if "--serve" in sys.argv[1:]:
        sys.exit(subprocess.run([program, "serve", "-f", CONFIG]).returncode)
    done = subprocess.run([program, "build", "--clean", "--strict", "-f", CONFIG])
    if done.returncode:
        sys.exit(done.returncode)
    shutil.rmtree(SITE, ignore_errors=True)
    shutil.move(CONFIG.parent / "site", SITE)  # Zensical writes only below its configuration
    print(f"wrote {SITE}/index.html")


def copy_pages() -> None:
    """Copies the Markdown files of the repository, with rewritten links, and their images."""
    pages = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").rglob("*.md"))]
    pages += PAGES
    done: set[str] = set()
    while pages:
        page = pages.pop()
        path = site_path(page)
        is_missing = not (ROOT / page).exists()  # Zensical reports the link
        if page in done or path is None or is_missing or page.endswith(".ipynb"):
            continue
        done.add(page)
        if not page.endswith(".md"):
            write(path, (ROOT / page).read_bytes())
            continue
        text = (ROOT / page).read_text()
        text, linked = rewrite_links(start_page(text) if page == "README.md" else text, page)
        write(path, text)
        pages += linked


def start_page(readme: str) -> str:
    """Returns the parts of the README that are on the start page."""
    introduction, *sections = re.split(r"^(?=## )", readme, flags=re.MULTILINE)
    chosen = [text for text in sections if text[3:].partition("\n")[0] in START_SECTIONS]
    return "".join([introduction, *chosen])


def site_config(notebooks: list[str], api: list[str]) -> str:
    """Returns the configuration of the site with the generated pages in the navigation."""
    text = (HERE / "site.yml").read_text()
    entries = {
        "NOTEBOOKS": [f"notebooks/{path}" for path in sorted(notebooks)],
        "API": [f"reference/api/{path}" for path in api],
    }
    for name, paths in entries.items():
        pattern = rf"^( *)- {name}\n"
        lines = "".join(rf"\1- {path}" + "\n" for path in paths)
        text = re.sub(pattern, lines, text, flags=re.MULTILINE)
    if not notebooks:
        text = re.sub(r"^ *- Notebooks:\n", "", text, flags=re.MULTILINE)
    return "".join(line for line in text.splitlines(keepends=True) if not _is_missing_page(line))


def _is_missing_page(line: str) -> bool:
    match = re.fullmatch(r" *- (?:\w+: )?(\S+\.md)\n", line)
    return match is not None and not (BUILD / match[1]).exists()


def write(path: str, content: str | bytes) -> None:
    """Writes a file below `build/docs`."""
    file = BUILD / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)


if __name__ == "__main__":
    main()
