"""Builds the documentation site, in site/."""

from __future__ import annotations

import argparse
import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
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
CONFIG = ROOT / "build" / "mkdocs.yml"
# Sections of README.md on the start page; the guide has the others in full.
START_SECTIONS = ("Install", "Train one model")


def main(arguments: Sequence[str]) -> int:
    """Writes the sources of the site to `build/docs` and builds the site.

    Args:
      arguments: command line without the program's name.

    Returns:
      The exit code.
    """
    parser = argparse.ArgumentParser(prog="python -m tools.docs", description=__doc__)
    parser.add_argument("--serve", action="store_true", help="serve it at http://localhost:8000")
    parser.add_argument("--output", type=Path, default=ROOT / "site", help="directory of the site")
    options = parser.parse_args(arguments)
    program = Path(sys.executable).with_name("zensical")
    if not program.exists():
        print("error: Zensical is not installed; run `make docs`", file=sys.stderr)
        return 1
    write_sources()
    if options.serve:
        return subprocess.run([program, "serve", "-f", CONFIG]).returncode
    command: list[str | Path] = [program, "build", "--clean", "--strict", "-f", CONFIG]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(done.stdout.partition("Traceback")[0])  # Zensical ends with one after its warnings
    if done.returncode:
        return done.returncode
    shutil.rmtree(options.output, ignore_errors=True)
    shutil.move(CONFIG.parent / "site", options.output)  # Zensical writes only beside its config
    print(f"wrote {options.output}/index.html")
    return 0


def write_sources() -> None:
    """Writes all pages and the configuration of the site to `build/`."""
    shutil.rmtree(BUILD, ignore_errors=True)
    copy_pages()
    notebooks = notebook_pages(ROOT / "docs" / "notebooks")
    for path, data in notebooks.items():
        write(f"notebooks/{path}", data)
    write("reference/fields.md", fields_page())
    with ThreadPoolExecutor(1) as thread:
        commands = thread.submit(commands_page)  # mostly waits for another process
        write("reference/models.md", models_page())
    write("reference/commands.md", commands.result())
    write("reference/errors.md", errors_page())
    api = api_pages()
    for path, text in api.items():
        write(f"reference/api/{path}", text)
    shutil.copytree(HERE / "assets", BUILD / "assets")
    CONFIG.write_text(site_config([path for path in notebooks if path.endswith(".md")], list(api)))


def copy_pages() -> None:
    """Copies the Markdown files of the repository, with rewritten links, and their images."""
    pages = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").rglob("*.md"))]
    pages += [*PAGES, *(str(path.relative_to(ROOT)) for path in examples())]
    done: set[str] = set()
    while pages:
        page = pages.pop()
        path = site_path(page)
        is_missing = not (ROOT / page).exists()  # Zensical reports the link
        if page in done or path is None or is_missing or page.endswith(".ipynb"):
            continue
        done.add(page)
        if page.endswith(".py"):
            write(path, example_page(page))
            continue
        if not page.endswith(".md"):
            write(path, (ROOT / page).read_bytes())
            continue
        text = (ROOT / page).read_text()
        text, linked = rewrite_links(start_page(text) if page == "README.md" else text, page)
        write(path, text)
        pages += linked


def start_page(readme: str) -> str:
    """Returns the parts of the README that are on the start page, and an example in Python."""
    introduction, *sections = re.split(r"^(?=## )", readme, flags=re.MULTILINE)
    titles = [text[3:].partition("\n")[0] for text in sections]
    chosen = [
        text
        for title, text in zip(titles, sections, strict=True)
        if title in START_SECTIONS or "Python" in title
    ]
    guide = ROOT / "docs" / "python.md"
    if not any("Python" in title for title in titles) and guide.exists():
        example = re.split(r"^(?=## |\|)", guide.read_text().partition("\n")[2], flags=re.MULTILINE)
        more = "[The guide](docs/python.md) has everything else.\n"
        chosen.append(f"## Use it from Python\n{example[0]}{more}")
    return "".join(["---\nhide: [navigation]\n---\n\n", introduction, *chosen])


def examples() -> list[Path]:
    """Returns the scripts that have a page."""
    return sorted((ROOT / "examples").glob("*.py"))


def example_page(path: str) -> str:
    """Returns the page of a script: the first line of its docstring, and its source."""
    source = (ROOT / path).read_text()
    docstring = ast.get_docstring(ast.parse(source)) or path
    title = docstring.partition("\n")[0].partition(":")[0].rstrip(".")
    return f"# {title}\n\nThis is `{path}`.\n\n````python\n{source}````\n"


def site_config(notebooks: list[str], api: list[str]) -> str:
    """Returns the configuration of the site with the generated pages in the navigation."""
    text = (HERE / "site.yml").read_text()
    entries: dict[str, list[str]] = {
        "NOTEBOOKS": [f"notebooks/{path}" for path in sorted(notebooks)],
        "EXAMPLES": [f"examples/{path.stem}.md" for path in examples()],
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
    sys.exit(main(sys.argv[1:]))
