"""Scripts and styles that the page of a report contains, and its Content-Security-Policy."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

DIRECTORY = Path(__file__).parent
STYLES = ("vendor/uPlot.min.css", "page/report.css")
# In the order in which they run; `vendor/README.md` names versions and digests.
SCRIPTS = (
    "vendor/uPlot.iife.min.js",
    *(f"page/{name}.js" for name in ("data", "tables", "chart", "curves", "compare", "main")),
)


def read_scripts() -> list[str]:
    """Returns the scripts of the page, in order."""
    return [(DIRECTORY / name).read_text().strip() for name in SCRIPTS]


def read_styles() -> str:
    """Returns the styles of the page."""
    return "\n".join((DIRECTORY / name).read_text().strip() for name in STYLES)


def read_license() -> str:
    """Returns the license of uPlot, which every copy of it must contain."""
    return f"uPlot: {(DIRECTORY / 'vendor' / 'uPlot.LICENSE').read_text().strip()}"


def content_security_policy(scripts: list[str]) -> str:
    """Returns a policy that runs only `scripts`, and lets the page load nothing."""
    digests = (hashlib.sha256(script.encode()).digest() for script in scripts)
    sources = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    return (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {sources}; "
        "base-uri 'none'; form-action 'none'"
    )
