"""Tests of the command line in real processes."""

import json
import signal
import subprocess
import sys
import time

import pytest

from flaxres.run.records import read_metrics
from tests.commands import assert_error, run_command
from tests.conftest import ROOT, write_tfds

SMALL = (
    *("--config=configs/digits.py:plain-8", "--config.num_steps=12", "--config.boundaries=(6,9)"),
    *("--config.batch_size=16", "--config.model.widths=(4,4,4)", "--config.log_every=4"),
)


def fails(done, code, *parts):
    """Asserts the exit code, and one line on standard error that contains all of `parts`."""
    lines = done.stderr.strip().splitlines()
    assert done.returncode == code, done.stderr
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    for part in parts:
        assert part in lines[0]


def test_train_evaluate_and_rerun(python, tmp_path):
    workdir = tmp_path / "run"
    done = python("-m", "flaxres.main", *SMALL, f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    assert "after 12 steps" in done.stdout
    assert "step 12/12" in done.stderr
    assert "ETA" in done.stderr
    record = read_metrics(workdir)[-1]
    assert json.loads((workdir / "config.json").read_text())["model"]["name"] == "plain"

    done = python("-m", "flaxres.main", *SMALL, f"--workdir={workdir}", "--mode=eval")
    assert done.returncode == 0, done.stderr
    assert f"test_error: {record['test_error']:.6g}" in done.stdout

    done = python("-m", "flaxres.main", *SMALL, f"--workdir={workdir}")
    assert done.returncode == 0
    assert "is finished: 12 steps" in done.stdout

    # Without --config, training continues the run with its own config.
    done = python("-m", "flaxres.main", f"--workdir={workdir}", "--config.num_steps=14")
    assert done.returncode == 0, done.stderr
    assert "after 14 steps" in done.stdout
    done = python("-m", "flaxres.main", f"--workdir={workdir}-2", "--config.num_steps=14")
    fails(done, 2, "--config is missing")

    done = python("-m", "flaxres.main", *SMALL, f"--workdir={workdir}", "--config.seed=1")
    fails(done, 1, "seed is 0 in the workdir and 1 in this config", "choose another --workdir")
    assert "such as --config.seed=0, or choose" in done.stderr
    assert "the learning rate is " not in done.stderr


def test_a_table_of_models(python):
    flags = ("--config=configs/imagenet.py", "--models=resnet-34-A,resnet-50,densenet-121")
    done = python("-m", "flaxres.main", "--mode=summary", *flags, "--config.dataset.name=digits")
    assert done.returncode == 0, done.stderr
    rows = [line.split("│")[1:-1] for line in done.stdout.splitlines() if "│" in line]
    cells = [[cell.strip() for cell in row] for row in rows]
    # One channel instead of three, ten classes instead of a thousand.
    params = 25_557_032 - 7 * 7 * 2 * 64 - 2_049 * 990
    assert ["resnet-50", "50", f"{params:,}"] == cells[1][:3]
    assert [row[0] for row in cells[:3]] == ["resnet-34-A", "resnet-50", "densenet-121"]
    done = python("-m", "flaxres.main", "--mode=summary", flags[0], "--models=resnet-51")
    assert done.returncode == 2
    assert "depth must be" in done.stderr
    assert "Traceback" not in done.stderr


def test_summary(python):
    done = python("-m", "flaxres.main", "--config=configs/cifar10.py:resnet-56", "--mode=summary")
    assert done.returncode == 0, done.stderr
    assert "853,018 params, 125.5M MACs" in done.stdout
    assert "stage3_block9/conv2" in done.stdout


def test_a_reader_that_stops_early():
    command = [sys.executable, "-m", "flaxres.main", "--mode=summary"]
    command.append("--config=configs/cifar10.py:resnet-20")
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() != 0


def test_a_prepared_tfds_set(python, tmp_path):
    write_tfds(tmp_path)
    done = python(
        *("-m", "flaxres.main", *SMALL, f"--workdir={tmp_path / 'run'}"),
        *("--config.dataset.name=tiny", f"--config.dataset.data_dir={tmp_path}"),
        *("--config.dataset.train_split=train[:40]", "--config.dataset.test_split=train[40:]"),
        *("--config.augment.pad=1", "--config.augment.flip=True", "--config.dtype=bfloat16"),
    )
    assert done.returncode == 0, done.stderr
    assert read_metrics(tmp_path / "run")[-1]["test_error"] % 10 == 0  # there are 10 images


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ((), ("--config is missing",)),
        (("--config=nowhere.py",), ("config file 'nowhere.py' does not exist",)),
        (("--config=configs/digits.py:resnet",), ("model name must be", "got 'resnet'")),
        (("--config=configs/digits.py", "--config.sed=1"), ("'sed'", "did you mean 'seed'")),
        (
            ("--config=configs/digits.py", "--config.model.deph=8"),
            ("'model.deph'", "did you mean 'model.depth'"),
        ),
        (("--config=configs/digits.py", "--config.seed=one"), ("seed must be an integer",)),
        (
            ("--config=configs/digits.py", "--confg=1"),
            ("unknown flag --confg; did you mean --config?",),
        ),
        (("--config=configs/digits.py", "--mode=tain"), ("mode must be one of", "got 'tain'")),
        (("--config=configs/digits.py", "--top=2"), ("--top=2 applies to --mode=predict",)),
        (("--mode=predict", "--scales=8,9"), ("--scales=8,9 applies to --mode=eval, got",)),
        (("--mode=eval", "--test_crops=multi-scale", "--scales=8,x"), ("pixels", "got 8,x")),
        (("--config=configs/digits.py", "train"), ("unexpected arguments: train",)),
        (
            ("--config=configs/digits.py:resnet-51",),
            ("depth must be 6n+2 (8, 14, 20, 26, ...), got 51",),
        ),
        (("--config=configs/digits.py", "--config.model.shortcut=D"), ("got 'D'",)),
        (("--config=configs/digits.py", "--config.model.name=alexnet"), ("got 'alexnet'",)),
        (("--config=configs/digits.py", "--config.batch_size=5000"), ("at most 1,437",)),
    ],
)
def test_bad_command_lines(tmp_path, arguments, parts):
    workdir = tmp_path / "run"
    outcome = run_command("flaxres.main", *arguments, f"--workdir={workdir}")
    assert_error(outcome, *parts, code=2)
    assert not workdir.exists()


def test_bad_config_files(python, tmp_path):
    path = tmp_path / "mine.py"
    for content, part in (
        ("def get_config(:", "SyntaxError"),
        ("import nowhere_at_all", "nowhere_at_all"),
        ("def get_config():\n  return 1 / 0", "division by zero"),
    ):
        path.write_text(content)
        fails(python("-m", "flaxres.main", f"--config={path}"), 2, part)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("--config.dataset.name=cifar11",), ("data set 'cifar11'",)),
        (("--config.dataset.train_split=val",), ("data set 'digits' has the splits",)),
        (("--workdir=/dev/null",), ("/dev/null is a file",)),
        (("--workdir=/dev/null/run",), ("/dev/null/run cannot be written",)),
        (("--mode=eval",), ("does not exist; check --workdir",)),
    ],
)
def test_missing_data_and_workdirs(python, tmp_path, arguments, parts):
    workdir = () if "--workdir" in arguments[0] else (f"--workdir={tmp_path / 'run'}",)
    fails(python("-m", "flaxres.main", *SMALL, *workdir, *arguments), 1, *parts)
    assert not (tmp_path / "run").exists()


def test_an_empty_data_directory(python, tmp_path):
    """Data that is neither prepared nor downloadable gives one line that says what to run."""
    (tmp_path / "data/tiny/1.0.0").mkdir(parents=True)
    done = python(
        *("-m", "flaxres.main", *SMALL, f"--workdir={tmp_path / 'run'}"),
        *("--config.dataset.name=tiny", f"--config.dataset.data_dir={tmp_path / 'data'}"),
    )
    fails(done, 1, "data set 'tiny'", "dataset_info.json")


def test_a_preemption(tmp_path):
    """`tests.corpus.test_stops` has Ctrl-C and closed terminals."""
    command = [sys.executable, "-m", "flaxres.main", *SMALL, "--config.num_steps=100000"]
    command += [f"--workdir={tmp_path}"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not read_metrics(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, err
    last = err.strip().splitlines()[-1]
    assert last.startswith("Stopped at step ")
    assert last.endswith("rerun the same command to resume.")
    assert "Traceback" not in err
    step = int(last.split()[3].replace(",", ""))
    assert (tmp_path / "checkpoints" / str(step)).is_dir()


def test_a_full_disk(tmp_path):
    """A checkpoint that does not fit gives one line; a limit on file sizes acts as a full disk."""
    workdir = tmp_path / "run"
    command = [
        *("sh", "-c", 'ulimit -f 200; exec "$@"', "sh"),  # 100 KB
        *(sys.executable, "-m", "flaxres.main", "--config=configs/digits.py:plain-8"),
        *("--config.num_steps=100000", "--config.checkpoint_every=2", f"--workdir={workdir}"),
    ]
    limited = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert limited.returncode == 1, limited.stderr
    errors = [line for line in limited.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "could not save a checkpoint" in errors[0]
    assert "File too large; there is no earlier checkpoint; free disk space" in errors[0]
    assert "Traceback" not in limited.stderr
    assert (workdir / "config.json").exists()
