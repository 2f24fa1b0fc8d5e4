import json
from pathlib import Path

import pytest

from flaxres.config import flatten
from flaxres.errors import ConfigError
from flaxres.experiments.sweeps.plan import grid, load_sweep, make_plans
from flaxres.parallel import replicas
from tests.conftest import ROOT

DIGITS = "configs/digits.py:resnet-8"


@pytest.fixture(autouse=True)
def root(monkeypatch):
    monkeypatch.chdir(ROOT)


def entry(name="a/seed-0", config=DIGITS, **overrides):
    return {"name": name, "config": config, "overrides": overrides}


def test_grid():
    runs = grid("c.py", {"slow": ("resnet-20", {"learning_rate": 0.01})}, (0, 3))
    assert runs == [
        {
            "name": f"slow/seed-{seed}",
            "config": "c.py:resnet-20",
            "overrides": {"learning_rate": 0.01, "seed": seed},
        }
        for seed in (0, 3)
    ]


def test_grid_of_models():
    models = {"plain-8": ("plain-8", {}), "resnet-8": ("resnet-8", {})}
    assert grid("digits", ["plain-8", "resnet-8"]) == grid("digits", models, seeds=[0])


@pytest.mark.parametrize("path", sorted(Path("configs/sweeps").glob("[a-z]*.py")), ids=str)
@pytest.mark.parametrize("config", ["digits", "cifar10"])
def test_sweep_files(path, config):
    plans = load_sweep(f"{path}:configs/{config}.py", {})
    assert sum(plan.config.num_replicas for plan in plans) >= 6
    seeds = {seed for plan in plans for seed in replicas.seeds(plan.config)}
    assert seeds == {0, 1, 2}
    assert {plan.config.dataset.name for plan in plans} == {config}
    assert len({json.dumps(flatten(plan.config)) for plan in plans}) == len(plans)


def test_overrides_for_all_runs_take_precedence():
    steps = {"num_steps": 30, "boundaries": (5, 9)}
    entries = [entry(**steps), entry("b/seed-1", seed=1, **steps)]
    first, second = make_plans(entries, {"num_steps": 12, "boundaries": (3,)})
    assert (first.config.num_steps, first.config.boundaries, second.config.seed) == (12, (3,), 1)


def test_params_and_macs():
    (plan,) = make_plans([entry()], {})
    weights = (144, 4_608, 4_608 + 9_216, 18_432 + 36_864, 640)  # 3x3 convolutions and dense layer
    positions = (64, 64, 16, 4, 1)
    norms = 32 + 2 * 32 + 2 * 64 + 2 * 128
    params = sum(weights) + norms + 10
    macs = sum(w * p for w, p in zip(weights, positions, strict=True))
    assert plan.count_params_and_macs() == (params, macs) == (75_002, 747_136)


def test_the_command_of_a_run_has_its_config(python, tmp_path):
    overrides = {
        "seed": 4,
        "boundaries": (1, 2),
        "num_steps": 3,
        "model.widths": (4, 4, 4),
        "model.norm": "none",
        "augment.flip": True,
        "learning_rate": 1e-3,
        "batch_size": 8,
        "dataset.train_split": "train[:50%]",
    }
    (plan,) = make_plans([entry("a/seed-4", **overrides)], {})
    task = plan.task(tmp_path)
    done = python(*task.command[1:])
    assert done.returncode == 0, done.stderr
    saved = json.loads((tmp_path / "a/seed-4/config.json").read_text())
    assert flatten(saved) == flatten(plan.config)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([entry(), entry()], "two runs of the sweep have the name 'a/seed-0'"),
        ([entry(lerning_rate=1)], "run 'a/seed-0': unknown config field 'lerning_rate'; did you"),
        ([entry(batch_size="x")], "run 'a/seed-0': batch_size must be like 128, got 'x'"),
        ([entry(batch_size=0)], "run 'a/seed-0': batch_size must be at least 1, got 0"),
        ([entry(config="configs/digits.py:vgg")], "run 'a/seed-0': model name must be"),
        ([entry(config="nowhere.py")], "config file 'nowhere.py' does not exist"),
        ([entry("../a/seed-0")], "the name of a run must be VARIANT/seed-N"),
        ([entry("a")], "the name of a run must be VARIANT/seed-N"),
        (["a"], "a run of a sweep must be a dict with 'name', 'config' and 'overrides', got 'a'"),
        ([], "the sweep has no runs"),
    ],
)
def test_invalid_runs(entries, message):
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        make_plans(entries, {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import nothing_of_this_name", "fails: ModuleNotFoundError: No module named"),
        ("def get_sweep(): return 1 / 0", "fails: ZeroDivisionError: division by zero"),
        ("x = 1", r"has no get_sweep\(\)"),
    ],
)
def test_failing_sweep_files(tmp_path, text, message):
    path = tmp_path / "sweep.py"
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"sweep file '{path}' {message}"):
        load_sweep(str(path), {})
