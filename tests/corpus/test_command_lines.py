"""Command lines and environments that cannot be used: one line each, nothing written."""

import os

import pytest

from tests.commands import assert_error, run_command
from tests.conftest import ROOT

DIGITS = "--config=configs/digits.py:resnet-8"
SWEEP = ("flaxres.experiments.sweep", "--sweep=configs/sweeps/widths.py")
DEGRADATION = ("flaxres.experiments.degradation", "--config=configs/digits.py")
REPRODUCTION = ("flaxres.experiments.reproduction", "--config=configs/digits.py")
HOME = "--workdir=~nosuch/x: ~nosuch is no known home directory"

# Arguments of flaxres.main, part of the message.
MAIN = [
    ((), "--config is missing"),
    (("--config",), "config"),
    ((DIGITS, "--learning_rate=0.1"), "unknown flag --learning_rate; did you mean --config.lea"),
    ((DIGITS, "--depth=20"), "did you mean --config.model.depth?"),
    ((DIGITS, "--seed", "1"), "did you mean --config.seed?"),
    ((DIGITS, "--workdri=x"), "unknown flag --workdri; did you mean --workdir?"),
    ((DIGITS, "--configs.sed=1"), "unknown flag --configs.sed; did you mean --config.seed?"),
    ((DIGITS, "--model.depth=8"), "did you mean --config.model.depth?"),
    ((DIGITS, "--nojsn"), "unknown flag --nojsn; did you mean --nojson?"),
    ((DIGITS, "--config.schedule=Cosine"), "got 'Cosine'; did you mean 'cosine'?"),
    (("--config=digts:resnet-8",), "config file 'digts' does not exist; did you mean 'digits'?"),
    (
        ("--config=imagenet:resnet-26", "--mode=summary"),
        "resnet-26 needs a config for small images",
    ),
    (("--config=digits:resnet-50-b", "--mode=summary"), "did you mean 'resnet-50-B'?"),
    (("tran",), "command must be one of train, eval, "),
    ((DIGITS, "--noconfig.seed"), "only fields that are true or false can be negated"),
    (("--config.seed=1", DIGITS), "before a value for --config was specified"),
    ((DIGITS, "--workdir=~nosuch/x"), HOME),
    ((DIGITS, "--workdir="), "--workdir is empty; give it a value or leave it out"),
    ((DIGITS, "--init_from=~nosuch/x"), "~nosuch is no known home directory"),
    ((DIGITS, "x"), "unexpected arguments: x; flags are --NAME=VALUE"),
    ((DIGITS, "eval"), "unexpected arguments: eval; a command comes first: flaxres eval --NAME"),
    (("train", "digits:resnet-8"), "; did you mean --config=digits:resnet-8?"),
    ((DIGITS, "--", "x"), "unexpected arguments: x"),
    ((DIGITS, "--mode="), "--mode must be one of train, eval, predict, export, summary, got ''"),
    ((DIGITS, "--mode=evaluate"), "got 'evaluate'; did you mean 'eval'?"),
    ((DIGITS, "--top=x"), "--top must be an integer, got 'x'"),
    (
        (DIGITS, "--config.dataset.classes=(1,ab,x)"),
        "got (1,ab,x); put the names in quotes: \"('1','ab','x')\"",
    ),
    ((DIGITS, "--top=2"), "--top=2 applies to --mode=predict"),
    ((DIGITS, "--mode=summary", "--models=foo"), "model name must be"),
    ((DIGITS, "--mode=summary", "--models=resnet-21"), "model resnet-21: depth must be 6n+2"),
    ((DIGITS, "--mode=summary", "--models=densenet-121"), "model densenet-121: the name has no"),
    ((DIGITS, "--mode=summary", "--models=,"), "--models=, has an empty element"),
    (("--mode=eval",), "--workdir is missing"),
    (("--mode=eval", "--workdir=~nosuch/x"), HOME),
    (("--mode=eval", "--ensemble=~nosuch/a,b"), "~nosuch is no known home directory"),
    (("--mode=eval", "--ensemble=a,"), "--ensemble=a, has an empty element"),
    (("--mode=eval", "--ensemble="), "--ensemble is empty"),
    (("--mode=eval", "--ensemble=a,./a"), "has the run a twice; give each run once"),
    (("--mode=eval", "--workdir=a", "--ensemble=b,b/../a/"), "has the run a twice"),
    ((DIGITS, "--config.name=../evil"), "name must be one name without '/' and '..', got '../e"),
    (("--mode=predict", "--workdir=x", "--top=" + "9" * 30), "--top must be an integer of 64 bits"),
    (("--flagfile=/nowhere", DIGITS), "flag file '/nowhere' does not exist"),
    (("--flagfile=", DIGITS), "the path of the flag file is empty"),
    (("--flagfile=/", DIGITS), "flag file '/' is a directory"),
    (("--flagfile=/dev/zero", DIGITS), "flag file '/dev/zero' is not a regular file"),
    (("--flagfile=~nosuch/x", DIGITS), "flag file '~nosuch/x' does not exist"),
    (("--flagfile=FIFO", DIGITS), "flag file 'FIFO' is not a regular file"),
    (("--flagfile=BYTES", DIGITS), "a flag file cannot be read"),
]
ADDRESSES = [
    *("localhost", "localhost:", "localhost:-1", "localhost:99999999", "localhost:0", ":1234"),
    *("localhost:x", "[::1:5", "a b:1", "http://a:1", "localhost:1.5", "localhost:\u0661"),
]
NUMBERS = [("0", "0"), ("2", "2"), ("2", "-1"), ("-1", "0"), ("100000000", "0")]
# Program and arguments, part of the message.
OTHERS = [
    ((*DEGRADATION, "--seeds=-1"), "--seeds must be integers from 0 to 2,147,483,647"),
    ((*DEGRADATION, "--seeds=1.5"), "--seeds must be integers"),
    ((*DEGRADATION, "--seeds="), "--seeds is empty"),
    ((*DEGRADATION, "--seeds=0,"), "--seeds=0, has an empty element"),
    ((*DEGRADATION, "--seeds=0,0"), "two runs of the sweep have the name 'plain-20/seed-0'"),
    ((*DEGRADATION, "--seeds=99999999999"), "--seeds must be integers"),
    ((*DEGRADATION, "--workers=0"), "--workers=0"),
    ((*DEGRADATION, "--workers=1000"), "workers must be from 1 to"),
    ((*DEGRADATION, "--retries=-1"), "--retries=-1"),
    ((*DEGRADATION, "--cpus_per_run=0"), "--cpus_per_run=0"),
    ((*DEGRADATION, "--runs_per_gpu=0"), "--runs_per_gpu=0"),
    ((*REPRODUCTION, "--runs_per_gpu=1000"), "--runs_per_gpu=1000"),
    ((*DEGRADATION, "--gpus_per_run=nan"), "--gpus_per_run must be a finite number, got nan"),
    ((*DEGRADATION, "--models="), "--models is empty"),
    ((*DEGRADATION, "--models=foo"), "model name must be"),
    ((*DEGRADATION, "--plot_only=2"), "--plot_only must be true or false, got '2'"),
    ((*REPRODUCTION, "--seeds=1000000"), "--seeds=1000000"),
    ((*REPRODUCTION, "--minutes=nan"), "--minutes must be a finite number, got nan"),
    ((*REPRODUCTION, "--minutes=-1"), "--minutes=-1"),
    ((*REPRODUCTION, "--results=~nosuch/x"), "~nosuch is no known home directory"),
    ((*SWEEP[:1],), "--sweep is missing"),
    ((*SWEEP, "--only="), "--only is empty"),
    ((*SWEEP[:1], "--sweep=width"), "sweep file 'width' does not exist; did you mean 'widths'?"),
    ((*SWEEP, "--only=x"), "--only=x matches none of the 18 runs"),
    (("flaxres.experiments.analyze",), "the first argument must name an analysis"),
    (("flaxres.experiments.analyze", "foo"), "analysis must be one of responses, "),
    (("flaxres.experiments.analyze", "reponses"), "did you mean 'responses'?"),
    (("flaxres.catalog", "modles"), "did you mean 'models'?"),
    (("flaxres.doctor", "x"), "unexpected arguments: x"),
    (("flaxres.doctor", "--timeout=-1"), "--timeout must be a number of seconds above 0, got -1"),
    (("flaxres.experiments.analyze", "responses", "--workdir="), "--workdir is empty"),
    (("flaxres.experiments.analyze", "responses", "--workdir=~nosuch"), "no known home directory"),
    (
        ("flaxres.experiments.analyze", "landscape", "--reach=nan"),
        "--reach must be a finite number",
    ),
    (("flaxres.experiments.report", "--workdir=~nosuch"), "no known home directory"),
    (("flaxres.experiments.sweeps.throughput",), "--config is missing"),
    (("flaxres.data.prepare",), "--name is missing"),
    (("flaxres.data.prepare", "--name="), "--name is missing"),
    (("flaxres.data.prepare", "--nme=x"), "nme"),
    (("flaxres.data.prepare", "--name=huggingface:x"), "is from a community"),
    (("flaxres.data.prepare", "--name=a/../b"), "must be NAME, NAME/CONFIG or NAME:VERSION"),
    (("flaxres.data.prepare", "--name=x", "--data_dir=~nosuch/x"), "no known home directory"),
    (("flaxres.data.prepare", "--name=x", "y"), "unexpected arguments: y"),
    (("flaxres.data.prepare", "--name=x_jpeg101"), "must be 1 to 100, got 'x_jpeg101'"),
    (("flaxres.cpu", "x"), "unexpected arguments: x"),
    (("benchmarks.memory", "--models=foo"), "model name must be"),
]


@pytest.mark.parametrize("half", [0, 1])
def test_flaxres_main(tmp_path, half):
    os.mkfifo(tmp_path / "FIFO")
    (tmp_path / "BYTES").write_bytes(b"\xff\xfe\n")
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    for arguments, part in MAIN[half::2]:
        assert_error(run_command("flaxres.main", *arguments, cwd=tmp_path), part, code=2)
    assert not (tmp_path / "runs").exists()


def test_addresses_and_numbers_of_processes(tmp_path):
    settings = [(address, "2", "1") for address in ADDRESSES]
    settings += [("localhost:1234", *numbers) for numbers in NUMBERS]
    for address, count, index in settings:
        outcome = run_command(
            *("flaxres.main", DIGITS, f"--coordinator_address={address}"),
            *(f"--num_processes={count}", f"--process_id={index}", f"--workdir={tmp_path}/run"),
        )
        assert_error(outcome, "HOST:PORT with a port from 1 to 65535", code=2)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("half", [0, 1])
def test_other_programs(tmp_path, half):
    for command, part in OTHERS[half::2]:
        given = any("workdir" in argument for argument in command)
        is_other = not command[0].startswith("flaxres.experiments.") or "throughput" in command[0]
        workdir = () if given or is_other else (f"--workdir={tmp_path / 'run'}",)
        assert_error(run_command(*command, *workdir), part, code=2)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("dataset.name=digit", "'digits'"),
        ("dataset.name=cifar-10", "'cifar10'"),
        ("dataset.train_split=trian[:9]", "'train[:9]'"),
    ],
)
def test_names_of_data_sets_and_splits(tmp_path, override, nearest):
    outcome = run_command("flaxres.main", DIGITS, f"--config.{override}", "--mode=summary")
    if "split" in override:  # a summary reads no images
        workdir = f"--workdir={tmp_path / 'run'}"
        outcome = run_command("flaxres.main", DIGITS, f"--config.{override}", workdir)
    assert_error(outcome, f"; did you mean {nearest}?", code=1)
    assert not (tmp_path / "run").exists()


def test_a_data_set_without_tensorflow(tmp_path):
    outcome = run_command("flaxres.data.prepare", "--name=cifar10", f"--data_dir={tmp_path}")
    assert_error(outcome, "TensorFlow is not installed; run `pip install", code=1)


@pytest.mark.parametrize(
    ("variables", "part"),
    [
        ({"JAX_PLATFORMS": "cuda"}, "JAX finds no device for JAX_PLATFORMS=cuda"),
        ({"JAX_DISABLE_JIT": "1"}, "JAX_DISABLE_JIT=1 is set"),
    ],
)
def test_environments_of_jax(tmp_path, variables, part):
    outcome = run_command("flaxres.main", DIGITS, f"--workdir={tmp_path / 'run'}", env=variables)
    assert_error(outcome, part, code=2)


def test_a_package_named_configs_in_the_current_directory(tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/__init__.py").touch()
    config = f"--config={ROOT / 'configs/digits.py'}"
    for program in ("flaxres.experiments.degradation", "flaxres.experiments.reproduction"):
        outcome = run_command(program, config, "--models=foo", cwd=tmp_path)
        assert_error(outcome, "model name must be", code=2)


def test_a_current_directory_in_which_nothing_can_be_written():
    config = f"--config={ROOT / 'configs/digits.py'}:resnet-8"
    outcome = run_command("flaxres.main", config, cwd="/proc")
    assert_error(outcome, "workdir runs/digits/resnet-8-seed0 cannot be written", code=1)
