"""Commands by their words: which module runs, and with which arguments."""

import importlib.util
import re

import pytest

from flaxres import __version__
from flaxres.errors import ConfigError
from flaxres.subcommands import MAIN, PROGRAMS, split_command
from tests.commands import assert_error, run_command
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("arguments", "module", "others"),
    [
        ("", MAIN, []),
        ("--config=digits", MAIN, ["--config=digits"]),
        ("eval --workdir=x", MAIN, ["--mode=eval", "--workdir=x"]),
        ("train", MAIN, ["--mode=train"]),
        ("sweep --sweep=widths", "flaxres.experiments.sweep", ["--sweep=widths"]),
        ("analyze blocks --help", "flaxres.experiments.analyze", ["blocks", "--help"]),
        ("help sweep", "flaxres.experiments.sweep", ["--help"]),
        ("help", MAIN, ["--help"]),
        ("help eval", MAIN, ["--mode=eval", "--help"]),
        ("--list", "flaxres.catalog", []),
        ("--list=models,data --json", "flaxres.catalog", ["models", "data", "--json"]),
        ("--completion=bash", "flaxres.completion", ["bash"]),
        ("--config=digits --list", MAIN, ["--config=digits", "--list"]),
    ],
)
def test_split_command(arguments, module, others):
    assert split_command(arguments.split()) == (module, others)


def test_a_word_that_is_no_command():
    with pytest.raises(ConfigError, match=r"got 'tran'; did you mean 'train'\?$"):
        split_command(["tran", "--config=digits"])


def test_every_command_exists_and_is_documented():
    text = (ROOT / "docs/running.md").read_text()
    for word, (module, _) in PROGRAMS.items():
        assert importlib.util.find_spec(module), word
        assert re.search(rf"flaxres {word}\b", text), word


def test_words_in_real_programs(tmp_path):
    for program in ("flaxres", "flaxres.main"):
        assert_error(run_command(program, "tran"), "did you mean 'train'?", code=2)
        outcome = run_command(program, "summary", "--config=digits:plain-8")
        assert (outcome.code, "plain-8 on digits" in outcome.stdout) == (0, True), outcome
        outcome = run_command(program, "sweep", f"--workdir={tmp_path}")
        assert_error(outcome, "--sweep is missing", code=2)
        outcome = run_command(program, "--list=analyses")
        assert "landscape" in outcome.stdout
        assert run_command(program, "--version").stdout.startswith(f"flaxres {__version__}")
