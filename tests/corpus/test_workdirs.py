"""Workdirs: their names, what others put into them, and what happens to them during a run."""

import json
import os
import shutil
import threading
import time

import pytest

from flaxres.run.checkpoint_files import checkpoint_steps
from flaxres.run.records import read_metrics
from tests.commands import assert_error, run_command
from tests.conftest import ROOT

SMALL = (
    *(
        f"--config={ROOT}/configs/digits.py:plain-8",
        "--config.boundaries=(6,9)",
        "--config.batch_size=16",
    ),
    *("--config.model.widths=(4,4,4)", "--config.log_every=4", "--config.eval_every=100000"),
)
FLAGS = (*SMALL, "--config.num_steps=12", "--config.checkpoint_every=4")


def train(workdir, *flags, **options):
    return run_command("flaxres.main", *(flags or FLAGS), f"--workdir={workdir}", **options)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Returns the directory of a finished run with checkpoints 4, 8 and 12.

    Its name has all that Orbax, TensorStore or a shell would change.
    """
    workdir = tmp_path_factory.mktemp("runs") / os.fsdecode(b"[x] *?{a,b}\\n$H'\" \xff") / "~"
    outcome = train(workdir)
    assert outcome.code == 0, outcome
    assert checkpoint_steps(workdir) == [4, 8, 12]
    return workdir


@pytest.fixture
def copy(run, tmp_path):
    """Returns a copy of the finished run, in a directory with Rich markup in its name."""
    return shutil.copytree(run, tmp_path / "[red]copy[/red]")


def contents(directory):
    return {f: f.read_bytes() for f in directory.rglob("*") if f.is_file() and f.name != "lock"}


def without_times(workdir):
    return [{k: v for k, v in r.items() if "second" not in k} for r in read_metrics(workdir)]


NAMES = ("[red]x[/red]", "back\\slash", "n" * 255, "$HOME `id`;#\"'", "gs:/x")


@pytest.mark.parametrize("name", NAMES)
def test_names(run, tmp_path, name):
    """The final checkpoint is read and compared with its digest."""
    shutil.copytree(run, tmp_path / name)
    outcome = train(tmp_path / name)
    assert (outcome.code, outcome.stderr) == (0, "")
    assert f"{tmp_path / name} is finished: 12 steps" in outcome.stdout


def test_a_link_and_a_long_way_to_a_workdir(run, tmp_path):
    (tmp_path / "link").symlink_to(run)
    (tmp_path / "directory").mkdir()
    for name in ("link", "./directory/../link", tmp_path / "link" / ".." / run.name):
        outcome = train(name, cwd=tmp_path)
        assert (outcome.code, outcome.stderr) == (0, ""), name


def test_refused_names(tmp_path):
    long_path = "/".join(["d" * 200] * 25)
    for name, part in (
        ("gs://bucket/run", "must be a directory of this machine, got gs://bucket/run"),
        ("s3://bucket/run", "must be a directory of this machine"),
        ("https://host/run", "must be a directory of this machine"),
        (f"{tmp_path}/a\nb", "line breaks or other control characters"),
        (f"{tmp_path}/a\x1b[31mb", "control characters"),
        (f"{tmp_path}/" + "n" * 256, "at most 255 bytes, got 256"),
        (f"{tmp_path}/{long_path}", "at most 3,800 bytes"),
    ):
        assert_error(train(name), part, code=2)
    assert_error(run_command("flaxres.main", "--mode=eval", "--workdir=gs://b/x"), "gs://b", code=2)
    assert list(tmp_path.iterdir()) == []


def flip_a_bit(checkpoint):
    file = max(checkpoint.glob("state/**/d/*"), key=lambda f: f.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_a_run_without_its_last_checkpoint_is_not_finished(run, copy):
    """It resumes from the one before, and ends as the undamaged run."""
    flip_a_bit(copy / "checkpoints" / "12")
    outcome = train(copy)
    assert outcome.code == 0, outcome
    assert "is finished" not in outcome.stdout
    assert "checkpoint 12 is damaged (" in outcome.stderr
    assert f"{copy} resumes from step 8" in outcome.stderr
    assert without_times(copy) == without_times(run)
    assert checkpoint_steps(copy) == [4, 8, 12]
    outcome = train(copy)
    assert (outcome.code, outcome.stderr) == (0, "")
    assert "is finished" in outcome.stdout


def test_all_checkpoints_have_other_names(copy):
    for step in (4, 8, 12):
        (copy / "checkpoints" / str(step)).rename(copy / "checkpoints" / f"step{step}")
    before = contents(copy)
    assert_error(train(copy), "has no checkpoint, but step12, step4", "rename it", code=1)
    assert contents(copy) == before


@pytest.mark.parametrize("kind", ["file", "dangling link"])
def test_checkpoints_is_no_directory(copy, kind):
    shutil.rmtree(copy / "checkpoints")
    if kind == "file":
        (copy / "checkpoints").write_text("x")
    else:
        (copy / "checkpoints").symlink_to("/nowhere/checkpoints")
    before = contents(copy)
    mode, part = "train", "is a file"
    if kind == "dangling link":
        mode, part = "eval", "a link to /nowhere/checkpoints, which does not"
    assert_error(train(copy, *FLAGS, f"--mode={mode}"), "/checkpoints ", part, code=1)
    assert contents(copy) == before
    if kind == "file":
        return
    # Its metrics are complete, but the run cannot be used.
    sweep = copy.parent / "sweep" / "plain-8"
    copy.rename(sweep.mkdir(parents=True) or sweep / "seed-0")
    outcome = run_command("flaxres.experiments.report", f"--workdir={sweep.parent}")
    assert outcome.code == 0, outcome
    assert "0 of 1 runs finished" in (sweep.parent / "report.md").read_text()


def test_links_and_files_of_others(copy):
    victim = copy.parent / "victim"
    victim.write_text("keep me")
    shutil.rmtree(copy / "checkpoints" / "12")
    (copy / "lock").unlink()
    (copy / "lock").symlink_to(victim)
    assert_error(train(copy), "lock is a symbolic link instead of a regular file", code=1)
    assert (copy / "lock").is_symlink()
    assert victim.read_text() == "keep me"


@pytest.mark.slow
def test_a_workdir_that_moves_during_its_run(tmp_path):
    workdir, moved = tmp_path / "run", tmp_path / "moved"
    flags = (*SMALL, "--config.num_steps=1000000", "--config.checkpoint_every=100")
    outcomes = []
    thread = threading.Thread(target=lambda: outcomes.append(train(workdir, *flags)))
    thread.start()
    deadline = time.monotonic() + 60
    while not (workdir / "checkpoints" / "100").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    workdir.rename(moved)
    thread.join()
    lines = [line for line in outcomes[0].stderr.splitlines() if line.startswith("error")]
    assert outcomes[0].code == 1, outcomes
    assert "Traceback" not in outcomes[0].stderr
    assert len(lines) == 1
    assert f"workdir {workdir} was renamed to {moved} while it was in use" in lines[0]
    assert f"--workdir={moved}" in lines[0]
    assert not workdir.exists()
    # All steps up to the last checkpoint are in the renamed directory.
    last = checkpoint_steps(moved)[-1]
    assert {4, last} <= {record["step"] for record in read_metrics(moved)}
    assert json.loads((moved / "config.json").read_text())["num_steps"] == 1_000_000
