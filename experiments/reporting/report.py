"""HTML and Markdown report of a workdir, written from the templates in `templates/`."""

from __future__ import annotations

import datetime
import functools
import os
import re
import urllib.parse
from collections import Counter
from pathlib import Path

import jinja2

import flaxres
from flaxres.errors import WorkdirError, one_line, printable
from flaxres.experiments.analyses import ANALYSES_DIR
from flaxres.experiments.reporting import page_assets, tables
from flaxres.experiments.reporting.figure_assets import FigureAsset, collect_figures, keep_images
from flaxres.experiments.reporting.overview_figure import draw_overview
from flaxres.experiments.reporting.page_data import as_script_json, page_data
from flaxres.experiments.reporting.run_status import STATES, WorkdirStatus, read_status
from flaxres.experiments.results.comparability import is_degradation_experiment
from flaxres.experiments.results.tables import escape_markdown
from flaxres.files import write_atomically
from flaxres.version import commit

FILES = ("report.html", "report.md")
TEMPLATES = Path(__file__).parent / "templates"
# Limit for incomplete runs and for settings at the top of the report; the tables have all of them.
MAX_LISTED = 20
# Limit for runs in figures drawn by matplotlib, which take over a second and have 21 line styles.
MAX_DRAWN_RUNS = 60


def write_report(workdir: Path, now: datetime.datetime | None = None) -> list[Path]:
    """Draws the figures, writes report.html and report.md, and returns their paths.

    Args:
      workdir: directory of a sweep or of one run, finished or not, or a directory of results.
      now: date and time of the report (default: the current time). Otherwise, the report depends
        only on the content of `workdir` and the version of flaxres.

    Raises:
      WorkdirError: there is no run, or `workdir` cannot be written.
    """
    status = read_status(workdir)
    now = (now or datetime.datetime.now()).astimezone()
    data, scripts = page_data(status), page_assets.read_scripts()
    runs_per_commit = Counter(run.row.get("commit") for run in status.runs if run.step)
    try:
        variables: dict[str, object] = {
            "status": status,
            "now": now,
            "version": flaxres.__version__,
            "commit": commit(),
            "counts": {state: status.count(state) for state in STATES},
            "results": tables.results_table(status),
            "runs": tables.runs_table(status),
            "differing_fields": tables.differing_fields_table(status),
            "config_changes": tables.config_changes_table(status),
            "shared_fields": tables.shared_fields_table(status),
            "runs_per_commit": runs_per_commit,
            "figures": draw_figures(status, workdir),
            "max_listed": MAX_LISTED,
            "data": as_script_json(data),
            "max_points": data["max_points"],
            "styles": page_assets.read_styles(),
            "scripts": scripts,
            "license": page_assets.read_license(),
            "policy": page_assets.content_security_policy(scripts),
        }
        texts = [render(name, variables, workdir) for name in FILES]
        for name, text in zip(FILES, texts, strict=True):
            write_atomically(workdir / name, text)
    except OSError as error:
        raise WorkdirError(
            f"the report of {workdir} cannot be written ({error.strerror or one_line(error)})"
        ) from error
    return [workdir / name for name in FILES]


def draw_figures(status: WorkdirStatus, workdir: Path) -> list[FigureAsset]:
    """Draws the figures of the runs; returns them and the figures of analyses in `workdir`.

    A sweep of more models or runs than figures can tell apart gets an overview instead.

    Raises:
      OSError: a figure cannot be written.
    """
    files: list[Path] = []
    runs = status.runs_by_variant
    num_runs = sum(map(len, runs.values()))
    if num_runs > MAX_DRAWN_RUNS and not is_degradation_experiment(runs):
        files = [workdir / "overview.svg"]
        write_atomically(files[0], draw_overview(runs))
    elif runs:
        files = _draw_sweep(status, workdir)
    images = keep_images(sorted((workdir / ANALYSES_DIR).glob("*.*")))
    return collect_figures([*files, *images])


def _draw_sweep(status: WorkdirStatus, workdir: Path) -> list[Path]:
    from flaxres.experiments.results.figures import draw_sweep  # imports matplotlib

    runs = status.runs_by_variant
    if len(status.runs) == 1:
        # A name that is no model name gives curves, not one half of a figure of plain and
        # residual models.
        runs = {
            f"{variant}, seed {group[0].config['seed']}": group for variant, group in runs.items()
        }
    return draw_sweep(runs, workdir)


def render(name: str, variables: dict[str, object], workdir: Path) -> str:
    """Returns the content of one file of the report.

    Args:
      name: report.html or report.md.
      variables: variables of the template.
      workdir: directory of the report; links to files are relative to it.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=name.endswith(".html"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "md": escape_markdown,
        "text": printable,
        "fence": _fence,
        "link": functools.partial(_relative_url, workdir=workdir),
    }
    return environment.get_template(f"{name}.jinja").render(variables)


def _fence(text: str) -> str:
    """Returns the backticks around a block of code in Markdown: more than any line begins with."""
    return "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))


def _relative_url(path: Path, workdir: Path) -> str:
    return urllib.parse.quote(Path(os.path.relpath(path, workdir)).as_posix())
