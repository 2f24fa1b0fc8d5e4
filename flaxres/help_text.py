"""Help texts of commands: description and examples, then the flags in groups."""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence

from absl import flags

from flaxres.subcommands import MODES, PROGRAMS

HELP_FLAGS = ("-h", "-?", "-help", "--help", "-helpshort", "--helpshort")
MAX_WIDTH = 100  # characters of a line
FIRST = ("config", "mode", "sweep", "workdir")  # the flags that are given most often
GROUPS = {  # flags of a module that other programs adopt
    "flaxres.experiments.sweeps.executor_flags": "Executors",
    "experiments.sweeps.executor_flags": "Executors",
}
PLACEHOLDERS = {"int": "N", "float": "NUMBER", "comma separated list of strings": "A,B,..."}
# Start of the help text of a flag that applies only together with another one.
CONDITION = r"(With --[\w-]+(?:=[\w-]+)?(?:(?:, | or )[\w-]+)*)(?:, instead of --workdir)?: (.*)"
MORE = "--flagfile=FILE reads flags from a file; --helpfull lists the flags of all libraries."


def asks_for_help(arguments: Sequence[str]) -> bool:
    """Returns True if arguments, without the program's name, contain --help, -h or -?."""
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return any(argument in HELP_FLAGS for argument in own)


def print_help(description: str, lists_commands: bool = False) -> None:
    """Prints the help text of this program on standard output, wrapped to the terminal.

    Args:
      description: docstring of the program.
      lists_commands: if True, the commands of flaxres are listed too.
    """
    width = min(MAX_WIDTH, shutil.get_terminal_size().columns)
    print(*_describe(description, width), sep="\n")
    if lists_commands:
        print("\nCommands, `flaxres COMMAND` (`flaxres help COMMAND` describes one):")
        descriptions = MODES | {word: text for word, (_, text) in PROGRAMS.items()}
        for word, text in descriptions.items():
            print(f"  {word:<13}{text}")
    for title, group in _groups().items():
        print(f"\n{title}:")
        for flag, text in group:
            print(*_describe_flag(flag, text, width), sep="\n")
    print(f"\n{textwrap.fill(MORE, width)}")


def _describe(description: str, width: int) -> Iterator[str]:
    """Yields the lines of a docstring; paragraphs of text are wrapped, command lines are kept."""
    paragraphs = textwrap.dedent(description).strip().split("\n\n")
    for number, paragraph in enumerate(paragraphs):
        if number:
            yield ""
        lines = paragraph.splitlines()
        if re.match(r"(python|flaxres|pip|srun) |\s", paragraph) or lines[0].startswith("  "):
            yield from (f"  {line}" if not line.startswith(" ") else line for line in lines)
        else:
            yield from textwrap.wrap(" ".join(paragraph.split()), width)


def _groups() -> dict[str, list[tuple[flags.Flag, str]]]:
    """Returns the key flags of this program with their help texts, by the title of their group.

    Flags that apply only together with another flag ("With --mode=eval: ...") have a group.
    """
    values = flags.FLAGS
    found = {flag.name: flag for flag in values.get_key_flags_for_module(sys.argv[0])}
    if "config" in values:
        found["config"] = values["config"]
    names = sorted(
        (name for name in found if not name.startswith("config.")),
        key=lambda name: (FIRST.index(name) if name in FIRST else len(FIRST), name),
    )
    groups: dict[str, list[tuple[flags.Flag, str]]] = {"Flags": []}
    for name in names:
        flag, text = found[name], " ".join((found[name].help or "").split())
        text = re.sub(r"^<[^>]*>: ", "", text)  # absl adds the choices
        title = GROUPS.get(str(values.find_module_defining_flag(name)), "Flags")
        if condition := re.match(CONDITION, text):
            title, text = condition[1], condition[2][:1].upper() + condition[2][1:]
        elif "--coordinator_address" in text or name == "coordinator_address":
            title = "Several processes"
        groups.setdefault(title, []).append((flag, text))
    return {title: groups[title] for title in sorted(groups, key=_position) if groups[title]}


def _position(title: str) -> tuple[int, str]:
    """Returns a sort key: the flags for all, those for one mode, those for another flag, others."""
    starts = ("Flags", *(f"With --mode={mode}" for mode in MODES), "With ")
    matching = (number for number, start in enumerate(starts) if title.startswith(start))
    return next(matching, len(starts)), title


def _describe_flag(flag: flags.Flag, text: str, width: int) -> Iterator[str]:
    """Yields the lines of one flag."""
    choices = getattr(flag.parser, "enum_values", None)
    is_override = flag.name == "config" and flag.default is not None  # of a sweep
    if is_override:
        form = "--config.FIELD=VALUE"
    elif flag.boolean:
        form = f"--[no]{flag.name}"
    elif choices:
        form = f"--{flag.name}={'|'.join(choices)}"
    else:
        kind = flag.flag_type()
        form = f"--{flag.name}={PLACEHOLDERS.get(kind, 'VALUE')}"
    default = ",".join(flag.default) if isinstance(flag.default, list) else flag.default
    if default not in (None, "", False) and not is_override and "(default" not in text:
        text = f"{text.rstrip('.')} (default: {default})."
    yield f"  {form}"
    yield from textwrap.wrap(
        text, width, initial_indent=" " * 6, subsequent_indent=" " * 6, break_on_hyphens=False
    )
