"""Listings of what flaxres has: models, configs, sweeps, analyses, weights, data sets, commands.

flaxres list
flaxres list models configs
flaxres --list=sweeps --json

The arguments are any of models, configs, sweeps, analyses, weights, data and commands.

Configs and sweeps in configs/ and configs/sweeps/ of the current directory are listed too; they
have priority over files of the same name that come with flaxres.
"""

from __future__ import annotations

import ast
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

from absl import flags
from rich.table import Table

from flaxres import plain_commands, terminal
from flaxres.experiments.analyses import ANALYSES
from flaxres.model_forms import MODEL_FORMS, SHORTCUTS
from flaxres.prepared_data import default_data_dir, list_prepared
from flaxres.subcommands import MODES, PROGRAMS, exit_with_error
from flaxres.suggestions import did_you_mean

SHIPPED = Path(__file__).parent
MAX_SOURCE_BYTES = 10**6  # of a user's file whose description is read
DATA_SETS = {
    "digits": "scikit-learn's 8x8 digits, installed with flaxres",
    "folder": "image files in DIR/SPLIT/CLASS; --config.dataset.data_dir=DIR",
}


@dataclasses.dataclass(frozen=True)
class Entry:
    """One entry of a listing.

    Attributes:
      name: the name to type.
      description: one line of text.
      is_own: True for a file of the user.
    """

    name: str
    description: str
    is_own: bool = False


def list_files(directory: str) -> list[Entry]:
    """Returns the config or sweep files, the user's own ones first.

    Args:
      directory: 'configs' or 'configs/sweeps'.
    """
    shipped = sorted((SHIPPED / directory).glob("*.py"))
    own = sorted(Path(directory).glob("*.py"))
    if own and own[0].resolve().parent == (SHIPPED / directory).resolve():
        own = []  # the current directory is that of the repository
    entries: dict[str, Entry] = {}
    for path, is_own in [*((p, True) for p in own), *((p, False) for p in shipped)]:
        if path.stem not in ("__init__", *entries):
            entries[path.stem] = Entry(path.stem, describe_file(path), is_own)
    return list(entries.values())


def describe_file(path: Path) -> str:
    """Returns the first sentence of the docstring of a Python file, which is not executed."""
    try:
        if path.stat().st_size > MAX_SOURCE_BYTES or not path.is_file():
            return ""
        text = ast.get_docstring(ast.parse(path.read_bytes())) or ""
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError):
        return ""
    return " ".join(text.partition("\n\n")[0].split())


def list_weights() -> list[Entry]:
    """Returns the pretrained weights that come with flaxres."""
    files = sorted((SHIPPED / "pretrained" / "weights").glob("*.safetensors"))
    size = "{:.1f} MB, for --weights=NAME and --init_from=NAME"
    return [Entry(file.stem, size.format(file.stat().st_size / 1e6)) for file in files]


def list_data() -> list[Entry]:
    """Returns the data sets that can be used at once."""
    directory = default_data_dir()
    return [
        *(Entry(name, text) for name, text in DATA_SETS.items()),
        *(Entry(name, f"prepared in {directory}") for name in list_prepared(directory)),
    ]


def _list_models() -> list[Entry]:
    return [Entry(form.name, f"such as {form.example}") for form in MODEL_FORMS]


LISTS: dict[str, tuple[str, Callable[[], list[Entry]]]] = {
    "models": ("Models, after the colon of --config", _list_models),
    "configs": ("Configs, for --config=NAME:MODEL", lambda: list_files("configs")),
    "sweeps": ("Sweeps, for `flaxres sweep --sweep=NAME`", lambda: list_files("configs/sweeps")),
    "analyses": (
        "Analyses, for `flaxres analyze NAME`",
        lambda: [Entry(name, text) for name, text in ANALYSES.items()],
    ),
    "weights": ("Pretrained weights", list_weights),
    "data": ("Data sets, for --config.dataset.name=NAME", list_data),
    "commands": (
        "Commands, `flaxres COMMAND`",
        lambda: [
            *(Entry(name, text) for name, text in MODES.items()),
            *(Entry(name, text) for name, (_, text) in PROGRAMS.items()),
        ],
    ),
}
OTHER_NAMES = {"networks": "models", "nets": "models", "datasets": "data", "modes": "commands"}


def print_list(kind: str) -> None:
    """Prints one of `LISTS` as a table."""
    title, find = LISTS[kind]
    if kind == "models":
        _print_models(title)
        return
    table = _table(title)
    table.add_column("name", no_wrap=True)
    table.add_column("description")
    for entry in find():
        table.add_row(entry.name, ("yours: " if entry.is_own else "") + entry.description)
    terminal.print_table(table)


def _print_models(title: str) -> None:
    table = _table(title, space=1)
    for column in ("name", "small", "ImageNet", "example", "params"):
        table.add_column(column, no_wrap=True, justify="right" if column == "params" else "left")
    for form in MODEL_FORMS:
        params = f"{form.params / 1e6:.2f}M"
        table.add_row(form.name, form.small, form.imagenet, form.example, params)
    terminal.print_table(
        table,
        "small: depths D for small images (configs digits, cifar10, ...); n = 1, 2, ...",
        "ImageNet: depths D with configs such as imagenet",
        f"S: shortcut, {', '.join(SHORTCUTS[:5])},",
        f"   {', '.join(SHORTCUTS[5:])}",
        "C, W: number and width of the groups of ResNeXt",
        "K: growth rate of DenseNet, or widening factor of Wide ResNet",
    )


def _table(title: str, space: int = 2) -> Table:
    """Returns an empty table without rules, with `space` characters between its columns."""
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        header_style="dim",
        box=None,
        pad_edge=False,
        padding=(0, space, 0, 0),
    )


def main() -> None:
    """Prints the listings that the arguments name, or all of them."""
    as_json = flags.DEFINE_bool("json", False, "Print JSON instead of tables.")
    words = plain_commands.parse_words(__doc__ or "")
    kinds = [OTHER_NAMES.get(kind, kind) for kind in words if kind != "all"] or list(LISTS)
    for kind in kinds:
        if kind not in LISTS:
            exit_with_error(
                f"list must be any of {', '.join(LISTS)}, got {kind!r}{did_you_mean(kind, LISTS)}"
            )
    if as_json.value:
        entries = {
            kind: [dataclasses.asdict(entry) for entry in LISTS[kind][1]()] for kind in kinds
        }
        if "models" in entries:
            entries["models"] = [dataclasses.asdict(form) for form in MODEL_FORMS]
        print(json.dumps(entries, indent=2))
        return
    for number, kind in enumerate(kinds):
        print(end="\n" if number else "")
        print_list(kind)


if __name__ == "__main__":
    plain_commands.run(main)
