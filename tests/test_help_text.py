"""Help texts of all commands: examples first, flags in groups, 80 columns, nothing of absl."""

import re

import pytest

from flaxres.experiments.analyses import ANALYSES
from flaxres.subcommands import MODES, PROGRAMS
from tests.commands import assert_error, run_command

COMMANDS = [
    *("flaxres.main", *(module for module, _ in PROGRAMS.values())),
    *(f"flaxres.experiments.analyze {name}" for name in ANALYSES),
]


@pytest.mark.parametrize("half", [0, 1])
def test_help_of_every_command(half):
    for command in COMMANDS[half::2]:
        outcome = run_command(*command.split(), "--help", env={"COLUMNS": "80"})
        assert (outcome.code, outcome.stderr) == (0, ""), command
        lines = outcome.stdout.splitlines()
        examples = [line for line in lines if re.match(r"  (flaxres|python) ", line)]
        assert all(len(line) <= 80 for line in lines if line not in examples), command
        assert "Traceback" not in outcome.stdout
        assert "python/tuple" not in outcome.stdout
        assert examples, command
        assert "(a comma separated list)" not in outcome.stdout
        if "Flags:" in lines:
            assert lines.index(examples[0]) < lines.index("Flags:")


def test_groups_and_commands():
    text = run_command("flaxres.main", "-h", env={"COLUMNS": "80"}).stdout
    titles = re.findall(r"^(\w.*):$", text, re.MULTILINE)
    assert titles[1] == "Flags"
    assert "With --mode=predict" in titles
    assert titles[-1] == "Several processes"
    for word in (*MODES, *PROGRAMS):
        assert re.search(rf"^  {word}\s+\w", text, re.MULTILINE)
    forms = re.findall(r"^  --(\S+)", text, re.MULTILINE)
    assert forms[0] == "config=VALUE"
    assert "batch_stats=running|population" in forms
    assert "[no]json" in forms
    assert "(default: split)" in text


def test_help_of_fields_of_a_sweep():
    text = run_command("flaxres.experiments.sweep", "--help").stdout
    assert "--config.FIELD=VALUE\n      Overrides a config field of all runs" in text
    assert text.index("Flags:") < text.index("Executors:") < text.index("--ray_address")


def test_help_of_the_cpu_kernels():
    for flag in ("--help", "-h"):
        outcome = run_command("flaxres.cpu", flag)
        assert outcome.code == 0
        assert outcome.stdout.endswith("usage: python -m flaxres.cpu [--print_env]\n")


@pytest.mark.parametrize(
    "program", ["flaxres.experiments.executors.slurm_node", "benchmarks.torch_worker"]
)
def test_programs_that_other_programs_start(program, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    for arguments in ((), ("--help",)):
        assert_error(run_command(program, *arguments), "can run this program", code=2)


def test_help_after_two_dashes_is_an_argument():
    outcome = run_command("flaxres.main", "--", "--help")
    assert "unexpected arguments: --help" in outcome.stderr
