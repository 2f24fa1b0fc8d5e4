"""Completion in a real bash: the script completes commands, flags, fields, names and files."""

import shutil
import subprocess
import time

import pytest

from flaxres.subcommands import MODES, PROGRAMS
from tests.commands import assert_error, run_command

BASH = shutil.which("bash")
pytestmark = pytest.mark.skipif(BASH is None, reason="needs bash")

# Text before the cursor -> the completions, of which bash inserts what follows the last = or :.
COMPLETIONS = {
    "flaxres ": {*MODES, *PROGRAMS, "help"},
    "flaxres tr": {"train"},
    "flaxres --mo": {"--mode=", "--models="},
    "flaxres --mode=ex": {"export"},
    "flaxres --config=dig": {"digits"},
    "flaxres --config=my": {"mydigits"},
    "flaxres --config=ot": {"other.py"},
    "flaxres --config=digits:resnet-56-s": {"resnet-56-scale", "resnet-56-shortcut-gate"},
    "flaxres train --config.model.na": {"--config.model.name="},
    "flaxres train --config.dtype=": {"float32", "bfloat16"},
    "flaxres train --config.num_e": {"--config.num_epochs="},
    "flaxres train --config.augment.flip=": {"True", "False"},
    "flaxres train --config.batch_size=": set(),
    "flaxres sweep --executor=": {"local", "ray", "slurm"},
    "flaxres-sweep --sweep=short": {"shortcuts"},
    "flaxres sweep --sweep=widths:ima": {"imagenet", "imagenet_modern"},
    "flaxres summary --models=plain-20,lenet": {"plain-20,lenet-5"},
    "flaxres eval --splits=train,v": {"train,validation"},
    "flaxres analyze la": {"landscape"},
    "flaxres list a": {"analyses"},
    "flaxres doctor --": {"--json", "--timeout=", "--help"},
    "flaxres report --": {"--workdir=", "--help"},
}


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    outcome = run_command("flaxres.completion", "bash")
    assert outcome.code == 0, outcome
    path = tmp_path_factory.mktemp("completion") / "script.sh"
    path.write_text(outcome.stdout)
    return path


def test_completions(script, tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/mydigits.py").touch()
    (tmp_path / "other.py").touch()
    code = f"source {script}\n" + "".join(
        f"COMP_LINE='{line}' COMP_POINT={len(line)}; _flaxres; printf '%s|' \"${{COMPREPLY[@]}}\"; "
        "echo\n"
        for line in COMPLETIONS
    )
    start = time.monotonic()
    done = subprocess.run([BASH, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    seconds = (time.monotonic() - start) / len(COMPLETIONS)
    assert done.stderr == ""
    replies = [set(line.split("|")) - {""} for line in done.stdout.splitlines()]
    found = dict(zip(COMPLETIONS, replies, strict=True))
    for line, expected in COMPLETIONS.items():
        assert expected <= found[line] if line.endswith("--") else found[line] == expected, line
    assert seconds < 0.2


def test_the_flags_are_those_of_the_commands(script):
    text = script.read_text()
    for flag in ("--batch_stats=", "--allow_data_change ", "--ray_address=", "--drop_checkpoints "):
        assert flag in text
    assert "@" not in text.replace('"${COMPREPLY[@]}', "").replace("[@]", "")


def test_a_shell_that_is_not_supported():
    assert_error(run_command("flaxres.completion", "bassh"), "did you mean 'bash'?", code=2)
    assert_error(run_command("flaxres.completion"), "give one shell of bash, zsh, got none", code=2)
