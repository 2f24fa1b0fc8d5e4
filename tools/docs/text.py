"""Markdown and HTML of the generated pages."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

# arXiv numbers of papers that comments cite by a short name.
PAPERS = {
    "He15": "1512.03385",
    "He16": "1603.05027",
    "Huang17": "1608.06993",
    "Xie17": "1611.05431",
}


def sentence(comment: str) -> str:
    """Returns a comment as a sentence with a capital letter and a period."""
    text = comment.strip()
    if text[:1].islower() and not re.match(r"\w+[_.]\w", text):
        text = text[0].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) or not text else text + "."


def inline(text: str) -> str:
    """Returns plain text as HTML of one line: `code`, links of arXiv numbers and papers.

    Quoted names ('jit') and text in backquotes become code.
    """
    escaped = html.escape(text, quote=False)
    escaped = re.sub(r"`([^`]+)`", r"<code>\1</code>", escaped)
    escaped = re.sub(
        r"(?<!\w)'([\w.:/\[\]%<>~*-]+(?: [\w-]+)?)'(?!\w)", r"<code>\1</code>", escaped
    )
    flag = r"(--[a-z][\w.]*(?:=[^\s,;)]*[^\s,;:).])?)"
    escaped = re.sub(flag, r'<code class="whole">\1</code>', escaped)
    escaped = re.sub(
        r"arXiv:? ?(\d{4}\.\d{4,5})", r'<a href="https://arxiv.org/abs/\1">arXiv \1</a>', escaped
    )
    for name, number in PAPERS.items():
        if number not in escaped:
            link = f'<a href="https://arxiv.org/abs/{number}">{name}</a>'
            escaped = re.sub(rf"\b{name}\b", link, escaped)
    return escaped


def code(text: object) -> str:
    """Returns a text as HTML code."""
    return f"<code>{html.escape(str(text), quote=False)}</code>"


def properties(rows: Iterable[tuple[str, str]]) -> str:
    """Returns an HTML table of two columns, without the rows whose value (HTML) is empty."""
    lines = [f"<tr><th>{name}</th> <td>{value}</td> </tr>" for name, value in rows if value]
    return "\n".join(['<table class="properties">', *lines, "</table>"])


def table(header: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """Returns a Markdown table.

    Args:
      header: names of the columns.
      rows: cells, as Markdown or HTML of one line.
      numbers: indices of the columns that are aligned to the right.
    """
    rules = ["---:" if index in numbers else "---" for index in range(len(header))]
    lines = [list(header), rules, *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def page(title: str, *parts: str) -> str:
    """Returns a Markdown page with a notice for those who look at the file."""
    return "\n\n".join([f"# {title}", *(part for part in parts if part)]) + "\n"
