"""A report of a sweep or a run, finished or not: one HTML page that needs nothing beside it.

python -m experiments.report --workdir=runs/sweep

Writes WORKDIR/report.html, with the figures in it, and WORKDIR/report.md, which links to them; both
say which runs are not finished. Figures of the runs are drawn anew, to be of the same numbers.
"""

from __future__ import annotations

import datetime
import functools
import os
import re
import urllib.parse
from collections import Counter
from pathlib import Path

import jinja2
from absl import flags

import flaxres
from experiments.reporting import tables
from experiments.reporting.figure_assets import FigureAsset, pictures
from experiments.reporting.run_status import STATES, WorkdirStatus, read_status
from flaxres import cli
from flaxres.errors import ConfigError, WorkdirError, one_line
from flaxres.run.workdir import write_atomically
from flaxres.version import commit

WORKDIR = flags.DEFINE_string(
    "workdir", None, "Of a sweep or a run, or a directory of results; the report goes there."
)
FILES = ("report.html", "report.md")
TEMPLATES = Path(__file__).parent / "reporting" / "templates"
MAX_LISTED = 20  # incomplete runs, or settings, on top; the tables have all of them
# What has a meaning in Markdown or HTML; an underscore within a word has none.
SPECIAL = re.compile(r"([\\`*\[\]<>|&~]|\b_|_\b|(?<=_)_)")


def write_report(workdir: Path, now: datetime.datetime | None = None) -> list[Path]:
    """Draws what can be drawn and writes report.html and report.md; returns their paths.

    Args:
      workdir: see `experiments.reporting.run_status.read_status`.
      now: when the report is made, the present if not given. Else it depends on what is in
        `workdir`, and on which flaxres this is, alone.

    Raises:
      WorkdirError: there is no run, one cannot be read, or `workdir` cannot be written.
    """
    facts = read_status(workdir)
    now = (now or datetime.datetime.now()).astimezone()
    commits = Counter(run.row.get("commit") for run in facts.runs if run.step)
    try:
        content = {
            "facts": facts,
            "now": now,
            "version": flaxres.__version__,
            "commit": commit(),
            "counts": {state: facts.count(state) for state in STATES},
            "results": tables.results(facts),
            "runs": tables.runs(facts),
            "differing": tables.differing(facts),
            "shared": tables.shared(facts),
            "commits": commits,
            "pictures": draw(facts, workdir),
            "most": MAX_LISTED,
        }
        texts = [render(name, content, workdir) for name in FILES]
        for name, text in zip(FILES, texts, strict=True):
            write_atomically(workdir / name, text)
    except OSError as error:
        raise WorkdirError(
            f"the report of {workdir} cannot be written ({error.strerror or one_line(error)})"
        ) from error
    return [workdir / name for name in FILES]


def draw(facts: WorkdirStatus, workdir: Path) -> list[FigureAsset]:
    """The figures of the runs, drawn anew, then those that analyses have left in `workdir`.

    Raises:
      OSError: they cannot be written.
    """
    from experiments.analyses.base import ANALYSES
    from experiments.results.figures import draw_sweep

    runs = facts.by_net
    if (
        len(facts.runs) == 1
    ):  # curves by themselves, not half of a figure of plain and residual nets
        runs = {f"{net}, seed {group[0].config['seed']}": group for net, group in runs.items()}
    drawn = draw_sweep(runs, workdir) if runs else []
    return pictures([*drawn, *sorted((workdir / ANALYSES).glob("*.*"))])


def render(name: str, content: dict[str, object], workdir: Path) -> str:
    """The file `name` of the report, which links to files by their places relative to `workdir`."""
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
        "link": functools.partial(_link, workdir=workdir),
    }
    return environment.get_template(f"{name}.jinja").render(content)


def escape_markdown(text: object) -> str:
    """A text as Markdown that shows it, in one line."""
    return SPECIAL.sub(r"\\\1", " ".join(str(text).split()))


def _link(path: Path, workdir: Path) -> str:
    return urllib.parse.quote(Path(os.path.relpath(path, workdir)).as_posix())


def main() -> None:
    """Writes the report and prints the paths.

    Raises:
      ConfigError: there is no --workdir.
      WorkdirError: there is no run in it, one cannot be read, or it cannot be written.
    """
    if WORKDIR.value is None:
        raise ConfigError("--workdir is missing; give it that of a sweep or a run")
    print("\n".join(map(str, write_report(Path(WORKDIR.value).expanduser()))))


if __name__ == "__main__":
    cli.run(main, trains=False)
