"""Reference page of all commands and their flags."""

from __future__ import annotations

import re

from tools.docs.commands import (
    Command,
    Flag,
    analyses,
    command_modules,
    installed_names,
    read_commands,
)
from tools.docs.text import code, inline, page, sentence

# Commands by the heading under which they stand, in the order of the page.
GROUPS = {
    "Train, evaluate, predict, export": ("flaxres.main", "flaxres.data.prepare", "flaxres.cpu"),
    "Many runs": (
        *("experiments.degradation", "experiments.sweep", "experiments.reproduction"),
        *("experiments.report", "experiments.analyze"),
    ),
    "Look up and check": ("flaxres.catalog", "flaxres.doctor", "flaxres.completion"),
}
INTRODUCTION = """
Every command runs with `python -m MODULE` in the repository. Where flaxres is installed, most have
a shorter name that works in any directory, and `flaxres train`, `eval`, `predict`, `export` and
`summary` stand for `flaxres --mode=...`. `--help` prints the same flags.
`--config.FIELD=VALUE` overrides a [config field](fields.md); [errors and exit
codes](errors.md) are the same for all commands. This page is generated from the commands.
"""
# First word of a command line in a docstring.
PROGRAM = r"[A-Z_]+=\S+|python|flaxres\S*|srun|pip|\.venv/bin/\S+"
TYPES = {
    "bool": "true or false",
    "int": "an integer",
    "float": "a number",
    "comma separated list of strings": "a list, separated by commas",
}


def commands_page() -> str:
    """Returns the page: one section for each command."""
    modules = command_modules()
    named = [module for group in GROUPS.values() for module in group if module in modules]
    benchmarks = [module for module in modules if module.startswith("benchmarks.")]
    others = [module for module in modules if module not in (*named, *benchmarks)]
    everything = read_commands([*modules, *analyses()])
    commands = {command.module: command for command in everything}
    parts = [INTRODUCTION.strip()]
    groups = {**GROUPS, "Other commands": tuple(others), "Benchmarks": tuple(benchmarks)}
    for heading, group in groups.items():
        entries = [_entry(commands[module]) for module in group if module in commands]
        if heading == "Many runs":
            entries += [_entry(commands[module]) for module in analyses()]
        if entries:
            parts += [f"## {heading}", *entries]
    return page("Commands", *parts)


def _entry(command: Command) -> str:
    module, _, analysis = command.module.partition(" ")
    names = [f"{name} {analysis}".strip() for name in installed_names().get(module, [])]
    note = f"Installed as {' and '.join(map(code, names))}." if names else ""
    anchor = command.module.replace(" ", ".")
    label = command.module.removeprefix("experiments.").removeprefix("benchmarks.")
    title = f"### `python -m {command.module}` {{ #{anchor} data-toc-label='{label}' }}"
    flags = [_flag(flag) for flag in command.flags]
    listing = "\n".join(['<dl class="flags">', *flags, "</dl>"]) if flags else ""
    if not command.is_complete:
        listing = "`--help` lists its flags; it needs packages that this page was built without."
    return "\n\n".join(part for part in (title, note, _description(command), listing) if part)


def _description(command: Command) -> str:
    """Returns a docstring as Markdown: its command lines become code blocks."""
    paragraphs = []
    for paragraph in command.description.strip().split("\n\n"):
        first = paragraph.strip().split()[:1]
        if first and re.fullmatch(PROGRAM, first[0]):
            lines = (line.strip() for line in paragraph.splitlines())
            paragraphs.append("\n".join(["```", *lines, "```"]))
        elif "\n  " in paragraph or paragraph.startswith("  "):
            paragraphs.append(f"```\n{paragraph}\n```")
        else:
            paragraphs.append(inline(" ".join(paragraph.split())))
    return "\n\n".join(paragraphs)


def _flag(flag: Flag) -> str:
    """Returns a flag as HTML."""
    facts = [
        TYPES.get(flag.kind, ""),
        "one of " + ", ".join(map(code, flag.choices)) if flag.choices else "",
        f"at least {flag.bounds[0]}" if flag.bounds[0] else "",
        f"at most {flag.bounds[1]}" if flag.bounds[1] else "",
        f"default: {code(flag.default)}" if flag.default not in ("", "''") else "",
    ]
    details = "; ".join(filter(None, facts))
    small = f"<br><small>{details}</small>" if details else ""
    help_text = inline(sentence(" ".join(flag.help.split())))
    return f"<dt>{code('--' + flag.name)}</dt><dd>{help_text}{small}</dd>"
