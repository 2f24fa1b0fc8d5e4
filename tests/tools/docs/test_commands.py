"""Reference of commands: every command and its flags."""

import pytest

from tools.docs.commands import (
    Command,
    Flag,
    command_modules,
    installed_names,
    read_commands,
)
from tools.docs.commands_page import _entry


def test_every_program_is_a_command():
    modules = command_modules()
    assert {"flaxres.main", "flaxres.cpu", "flaxres.data.prepare", "experiments.sweep"} <= set(
        modules
    )
    assert "experiments.executors.slurm_node" not in modules
    assert set(installed_names()) <= set(modules)
    assert len(modules) == len(set(modules))


def test_flags_are_those_of_help(commands):
    flags = {flag.name: flag for flag in commands["flaxres.main"].flags}
    assert {"config", "mode", "workdir", "init_from", "test_crops"} <= set(flags)
    assert {"train", "eval", "predict", "export", "summary"} <= set(flags["mode"].choices)
    assert flags["mode"].default == "train"
    assert flags["mode"].help.startswith("Task: ")
    assert flags["top"].kind == "int"
    common = {flag.name for flag in commands["experiments.analyze"].flags}
    assert {"workdir", "only", "output"} <= common
    own = {flag.name for flag in commands["experiments.analyze landscape"].flags}
    assert {"kind", "between"} <= own
    assert not own & {"workdir", "only"}


def test_entry_of_a_command():
    flag = Flag("kind", "Kind of line", "line", "string enum", ("line", "plane"), ("", ""))
    count = Flag("images", "Number of images.", "10", "int", (), ("0", ""))
    text = _entry(Command("experiments.sweep", "A sweep.\n\npython -m x --a=<b>", (flag, count)))
    assert text.startswith("### `python -m experiments.sweep` { #experiments.sweep ")
    assert "Installed as <code>flaxres sweep</code> and <code>flaxres-sweep</code>." in text
    assert "```\npython -m x --a=<b>\n```" in text
    assert "one of <code>line</code>, <code>plane</code>; default: <code>line</code>" in text
    assert "an integer; at least 0; default: <code>10</code>" in text


@pytest.mark.slow
def test_all_commands_list_flags():
    modules = command_modules()
    listed = read_commands(modules)
    assert [command.module for command in listed] == modules
    assert all(command.description for command in listed)
