"""Sweep files and overrides of sweeps that cannot be used: one line each, nothing written."""

import os

import pytest

from tests.commands import assert_error, run_command

HEAD = "from flaxres.experiments.sweeps import grid\nC = 'configs/digits.py:resnet-8'\n"
RETURN = "def get_sweep(): return "
LIST = "must return a list of runs, as flaxres.experiments.sweeps.grid does, got "
NAME = "the name of a run must be VARIANT/seed-N of letters, digits and . _ = + -, got "
GRID = "grid('configs/digits.py', "

# Text after HEAD, part of the message.
FILES = [
    ("def get_sweep(): pass", LIST + "None; is its return statement missing?"),
    (RETURN + "5", LIST + "5"),
    (RETURN + "'abc'", LIST + "'abc'"),
    (RETURN + "{'name': 'a/seed-0'}", LIST + "{'name'"),
    (RETURN + "[]", "the sweep has no runs"),
    ("def get_sweep():\n  yield {}\n  raise ValueError('half')", "fails: ValueError: half"),
    ("1 / 0", "fails: ZeroDivisionError: division by zero"),
    ("import sys; sys.exit(0)", "fails: SystemExit: 0"),
    ("def get_sweep(:", "fails: SyntaxError: invalid syntax"),
    ("x = 1", "has no get_sweep()"),
    ("get_sweep = 5", "fails: TypeError"),
    ("def get_sweep(a, b): return []", "fails: TypeError"),
    ("def get_sweep():\n  import sys; sys.exit()", "fails: SystemExit"),
    ("def get_sweep(): raise GeneratorExit", "fails: GeneratorExit"),
    (RETURN + GRID + "{'a': ('resnet-8', {})}, [])", "the sweep has no runs"),
    (RETURN + GRID + "{}, [0])", "the sweep has no runs"),
    (RETURN + GRID + "{'a': 'resnet-8'}, [0])", "variants must be names of models"),
    (
        RETURN + GRID + "{'a': ('resnet-8', {})}, ['x'])",
        "seeds must be integers, such as [0, 1], got ['x']",
    ),
    (RETURN + GRID + "{'a': ('resnet-8', {})}, [-1])", "seed must be from 0 to"),
    (RETURN + GRID + "{'a': ('resnet-8', {})}, [0, 0])", "two runs of the sweep have the name"),
    (RETURN + GRID + "{'a': ('resnet-8', {})}, [0, 5], True)", "must be consecutive"),
    (RETURN + GRID + "{'a': ('resnet-8', {})}, [], True)", "must be consecutive"),
]
# An entry of the sweep, part of the message.
ENTRIES = [
    ("5", "a run of a sweep must be a dict with 'name', 'config' and 'overrides', got 5"),
    ("None", "a run of a sweep must be a dict"),
    ("{'name': 'a/seed-0'}", "a run of a sweep must be a dict"),
    ("{'name': 5, 'config': C}", "the name of a run must be text, VARIANT/seed-N, got 5"),
    ("{'name': None, 'config': C}", "the name of a run must be text, VARIANT/seed-N, got None"),
    ("{'name': b'a/seed-0', 'config': C}", "the name of a run must be text"),
    ("{'name': '', 'config': C}", NAME + "''"),
    ("{'name': 'a' * 300 + '/seed-0', 'config': C}", "must have at most 200 bytes"),
    ("{'name': '../a/seed-0', 'config': C}", NAME + "'../a/seed-0'"),
    ("{'name': 'a/b/seed-0', 'config': C}", NAME),
    ("{'name': '/a/seed-0', 'config': C}", NAME),
    ("{'name': 'a\\0/seed-0', 'config': C}", NAME + r"'a\x00/seed-0'"),
    ("{'name': 'a/seed-0\\n', 'config': C}", NAME + r"'a/seed-0\n'"),
    ("{'name': './seed-0', 'config': C}", NAME),
    ("{'name': 'a/seed-00', 'config': C}", NAME),
    ("{'name': 'a/seed-\u0663', 'config': C}", NAME),
    ("{'name': 'a/seed-1', 'config': C}", "run 'a/seed-1' must have the seed of its name, got"),
    ("{'name': 'a/seed-0', 'config': 5}", "the config must be a path with a model, such as"),
    ("{'name': 'a/seed-0', 'config': ''}", "the path of the config file is empty"),
    ("{'name': 'a/seed-0', 'config': 'nowhere.py'}", "'nowhere.py' does not exist"),
    ("{'name': 'a/seed-0', 'config': 'a\\0.py'}", "cannot be read (embedded null byte)"),
    ("{'name': 'a/seed-0', 'config': 'configs'}", "'configs' is a directory"),
    ("{'name': 'a/seed-0', 'config': C, 'overrides': 5}", "the overrides must be a dict"),
    ("{'name': 'a/seed-0', 'config': C, 'overrides': None}", "the overrides must be a dict"),
    ("{'name': 'a/seed-0', 'config': C, 'overrides': {5: 1}}", "the overrides must be a dict"),
    ("{'name': 'a/seed-0', 'config': C, 'overrides': {'sed': 1}}", "did you mean 'seed'?"),
    (
        "{'name': 'a/seed-0', 'config': C, 'overrides': {'batch_size': None}}",
        "run 'a/seed-0': batch_size must be an integer, got None",
    ),
    (
        "{'name': 'a/seed-0', 'config': C, 'overrides': {'learning_rate': 10**400}}",
        "learning_rate must be like 0.1, got 1000",
    ),
    (
        "{'name': 'a/seed-0', 'config': C, 'overrides': {'model': 5}}",
        "unknown config field 'model'",
    ),
    (
        "{'name': 'a/seed-0', 'config': C, 'override': {}}",
        "unknown key 'override' besides 'name', 'config' and 'overrides'; did you mean",
    ),
]
PAIRS = [
    ("a/seed-0", "{}", "b/seed-0", "{}", "the runs 'a/seed-0' and 'b/seed-0' of the sweep have"),
    (
        *("a", "{'num_replicas': 2}", "a/seed-1", "{'seed': 1}"),
        "the runs 'a' and 'a/seed-1' of the sweep have the same directory a/seed-1",
    ),
]
WIDTHS = ("flaxres.experiments.sweep", "--sweep=configs/sweeps/widths.py")
DEGRADATION = ("flaxres.experiments.degradation", "--config=configs/digits.py")
REPRODUCTION = ("flaxres.experiments.reproduction", "--config=configs/digits.py")
OVERRIDES = [
    (WIDTHS, "--config.seed=7", "--config.seed=7 cannot be set for all runs", "configs/sweeps/w"),
    (DEGRADATION, "--config.seed=7", "choose the seeds with --seeds, e.g. --seeds=7"),
    (REPRODUCTION, "--config.seed=7", "choose their number with --seeds"),
    (WIDTHS, "--config.num_replicas=3", "--config.num_replicas=3 cannot be set"),
    (DEGRADATION, "--config.num_replicas=3", "--config.num_replicas=3 cannot be set"),
    (WIDTHS, "--config.model.widths=(4,4,4)", "(8, 16, 32) for plain-20-width8/seed-0 and"),
    (
        (*DEGRADATION, "--models=plain-20"),
        "--config.model.depth=32",
        "--config.model.depth would train plain-32 under the name plain-20/seed-0",
    ),
    (
        (*DEGRADATION, "--models=resnet-20"),
        "--config.model.shortcut=B",
        "would train resnet-20-B under the name resnet-20/seed-0",
    ),
    (
        DEGRADATION,
        "--models=resnet-20,resnet-20-A",
        "the runs 'resnet-20/seed-0' and 'resnet-20-A/seed-0' of the sweep have the same config",
    ),
]


def run_sweep(tmp_path, text, *flags):
    path = tmp_path / "sweep.py"
    path.write_text(HEAD + text + "\n")
    workdir = f"--workdir={tmp_path / 'run'}"
    return run_command("flaxres.experiments.sweep", f"--sweep={path}", workdir, *flags)


def test_sweep_files(tmp_path):
    for text, part in FILES:
        assert_error(run_sweep(tmp_path, text), part, code=2)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("half", [0, 1])
def test_entries(tmp_path, half):
    for entry, part in ENTRIES[half::2]:
        assert_error(run_sweep(tmp_path, f"{RETURN}[{entry}]"), part, code=2)
    assert not (tmp_path / "run").exists()


def test_runs_that_are_the_same(tmp_path):
    for first, first_overrides, second, second_overrides, part in PAIRS:
        text = (
            f"{RETURN}[{{'name': '{first}', 'config': C, 'overrides': {first_overrides}}}, "
            f"{{'name': '{second}', 'config': C, 'overrides': {second_overrides}}}]"
        )
        assert_error(run_sweep(tmp_path, text), part, code=2)


def test_overrides_that_make_runs_equal_or_their_names_wrong(tmp_path):
    for command, flag, *parts in OVERRIDES:
        outcome = run_command(*command, flag, f"--workdir={tmp_path / 'run'}")
        assert_error(outcome, *parts, code=2)
    assert not (tmp_path / "run").exists()


def test_paths_of_sweep_files(tmp_path):
    os.mkfifo(tmp_path / "fifo.py")
    for path, part in (
        (tmp_path / "nowhere.py", "does not exist; give a Python file"),
        (tmp_path, "is a directory"),
        (tmp_path / "fifo.py", "is not a regular file"),
        ("", "--sweep is empty"),
        ("configs/digits.py", "has no get_sweep()"),
        ("configs/sweeps/widths.py:nowhere.py", "config file 'nowhere.py' does not exist"),
    ):
        workdir = f"--workdir={tmp_path / 'run'}"
        assert_error(
            run_command("flaxres.experiments.sweep", f"--sweep={path}", workdir), part, code=2
        )


def test_a_sweep_in_the_place_of_a_run_and_a_run_in_the_place_of_a_sweep(tmp_path):
    run = tmp_path / "sweep/resnet-8/seed-0"
    run.mkdir(parents=True)
    (run / "config.json").write_text("{}")
    sweep, config = f"--workdir={tmp_path / 'sweep'}", "--config=configs/digits.py:resnet-8"
    for flags in ((config,), (config, "--mode=eval"), ("--mode=eval",), ("--mode=predict",)):
        images = ("--images=a.png",) if "predict" in flags[0] else ()
        outcome = run_command("flaxres.main", sweep, *flags, *images)
        assert_error(outcome, "holds a sweep; give one of its runs, e.g. ", run, code=1)
    outcome = run_command(*WIDTHS, f"--workdir={run}")
    assert_error(outcome, f"workdir {run} holds a run; choose another --workdir", code=1)


def test_data_that_are_missing_are_reported_once_before_the_runs_start(tmp_path):
    flags = (f"--config.dataset.data_dir={tmp_path / 'none'}", "--config.dataset.name=folder")
    outcome = run_command(*WIDTHS, *flags, f"--workdir={tmp_path / 'run'}")
    assert_error(outcome, "folder", str(tmp_path / "none"), code=1)
    outcome = run_command(*WIDTHS, "--config.batch_size=1000000000000", f"--workdir={tmp_path}/run")
    assert_error(outcome, "run 'plain-20-width32/seed-0': the run needs at least", code=2)
    assert not (tmp_path / "run").exists()
