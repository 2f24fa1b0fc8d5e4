"""Model pairs of the identity analysis, and the configs that train the deeper models."""

import json

import pytest

from flaxres.config import flatten
from flaxres.configs import cifar10, digits, imagenet
from flaxres.errors import ConfigError
from flaxres.experiments.analyses.identity_runs import (
    deepened_configs,
    find_finished_run,
    find_pairs,
    sweep_entry,
)
from flaxres.experiments.analyses.identity_schedule import parse_learning_rate_factors
from flaxres.experiments.analyses.model_sources import RunSource
from flaxres.experiments.sweeps.plan import make_plans
from flaxres.run.workdir import open_workdir
from tests.conftest import ROOT
from tests.experiments.results.test_runs import write_run


@pytest.fixture(autouse=True)
def _run_in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def write_config(directory, config, **fields):
    config.update_from_flattened_dict(fields)
    with open_workdir(directory, config, {}):
        pass
    return directory


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Runs of plain and residual models, one of them with another learning rate."""
    workdir = tmp_path_factory.mktemp("sweep")
    for model in ("plain-20", "plain-32", "resnet-32-B", "resnet-56-B"):
        for seed in (0, 1):
            config = digits.get_config(model)
            write_config(workdir / model / f"seed-{seed}", config, seed=seed)
    config = digits.get_config("plain-32")
    write_config(workdir / "plain-32-slow" / "seed-0", config, learning_rate=0.02)
    return [RunSource(directory) for directory in sorted(workdir.glob("*/seed-*"))]


def summarize(pairs):
    return [(p.shallow, p.deeper, p.config.seed, p.config.model.depth) for p in pairs]


def test_default_is_the_shallowest_model_of_each_kind(sweep):
    assert summarize(find_pairs(sweep, [], ["56"])) == [
        ("plain-20", "plain-56", 0, 56),
        ("plain-20", "plain-56", 1, 56),
        ("plain-32-slow", "plain-56-slow", 0, 56),
        ("resnet-32-B", "resnet-56-B", 0, 56),
        ("resnet-32-B", "resnet-56-B", 1, 56),
    ]


def test_models_selected_by_name_and_depth(sweep):
    sources = [source for source in sweep if source.directory.name == "seed-0"]
    assert summarize(find_pairs(sources, ["32", "plain-20"], ["plain-44", "plain-56"])) == [
        ("plain-32", "plain-44", 0, 44),
        ("plain-32", "plain-56", 0, 56),
        ("plain-32-slow", "plain-44-slow", 0, 44),
        ("plain-32-slow", "plain-56-slow", 0, 56),
        ("plain-20", "plain-44", 0, 44),
        ("plain-20", "plain-56", 0, 56),
    ]
    (pair,) = find_pairs(sources, ["resnet-32-B"], ["resnet-110-B"])
    before = flatten(digits.get_config("resnet-32-B"))
    after = flatten(pair.config)
    assert {f: after[f] for f in after if after[f] != before[f]} == {
        "model.depth": 110,
        "warmup.enabled": True,  # He15, section 4.2
    }


def test_a_single_run_and_a_variant_without_a_model_name(tmp_path):
    single = write_config(tmp_path / "mine", digits.get_config("plain-8"))
    assert summarize(find_pairs([RunSource(single)], [], ["14"])) == [
        ("plain-8", "plain-14", 0, 14)
    ]
    variant = write_config(tmp_path / "slow" / "seed-3", digits.get_config("plain-8"), seed=3)
    assert summarize(find_pairs([RunSource(variant)], [], ["14"])) == [
        ("slow", "plain-14-slow", 3, 14)
    ]


@pytest.mark.parametrize(
    ("shallow", "deeper", "message"),
    [
        ([], ["20"], "must be deeper than plain-20, got plain-20"),
        ([], ["57"], r"depth must be 6n\+2"),
        ([], ["other-56"], "model name must be FAMILY-DEPTH"),
        ([], ["preact-56"], "same kind as plain-20, plain-32-slow, resnet-32-B, got 'preact-56'"),
        (["plain-20"], ["resnet-56-B"], "same kind as plain-20, got 'resnet-56-B'"),
        ([], [], "--deeper must be depths or models of the same kind"),
        (["plain-44"], ["56"], "--shallow=plain-44 matches none of the runs; there are plain-20, "),
    ],
)
def test_models_that_cannot_be_built(sweep, shallow, deeper, message):
    with pytest.raises(ConfigError, match=message) as caught:
        find_pairs(sweep, shallow, deeper)
    assert "\n" not in str(caught.value)


def test_configs_of_deepened_models(sweep, tmp_path, monkeypatch):
    (pair,) = find_pairs([sweep[0]], [], ["56"])
    monkeypatch.chdir(tmp_path)
    weights_file = tmp_path / "weights" / "model.msgpack"
    runs = deepened_configs(pair, weights_file, [1, 0.1, 1 / 3])
    assert list(runs) == [
        "plain-56-from-plain-20",
        "plain-56-from-plain-20-lr0.01",
        "plain-56-from-plain-20-lr0.0333333",
    ]
    learning_rates = [config.learning_rate for config in runs.values()]
    assert learning_rates == [0.1, 0.01, 0.0333333]
    assert {config.init_from for config in runs.values()} == {"weights/model.msgpack"}
    assert pair.config.init_from is None
    pair.config.warmup.enabled = True
    (config,) = deepened_configs(pair, weights_file, [1]).values()
    assert not config.warmup.enabled


@pytest.mark.parametrize("values", [[], ["0"], ["-1"], ["x"], ["nan"], ["inf"], ["1", ""]])
def test_invalid_learning_rate_factors(values):
    message = "--learning_rate_factors must be positive numbers, got '"
    with pytest.raises(ConfigError, match=message):
        parse_learning_rate_factors(values)
    assert parse_learning_rate_factors(["1", "1e-2"]) == [1.0, 0.01]


@pytest.mark.parametrize(
    ("config", "fields", "num_overrides"),
    [
        (digits.get_config("plain-56"), {}, 0),
        (digits.get_config("plain-56"), {"init_from": "a b.msgpack", "learning_rate": 1e-3}, 2),
        (
            digits.get_config("resnet-14-B"),
            {"boundaries": (), "model.widths": (4, 8, 8), "seed": 3, "augment.flip": True},
            4,
        ),
        (cifar10.get_config("resnet-110"), {"name": "my own", "num_steps": 5}, 2),
        (digits.get_config("plain-20"), {"name": "elsewhere"}, None),
        (imagenet.get_config("resnet-34"), {"name": "elsewhere"}, None),
        (imagenet.get_config("plain-34"), {"dataset.validation_split": "train[:9]"}, 1),
    ],
)
def test_a_sweep_entry_reproduces_a_config(config, fields, num_overrides):
    config.update_from_flattened_dict(fields)
    entry = sweep_entry(f"a/seed-{config.seed}", config)
    assert num_overrides is None or len(entry["overrides"]) == num_overrides
    (plan,) = make_plans([entry], {})
    assert json.dumps(flatten(plan.config)) == json.dumps(flatten(config))
    assert plan.source.startswith("configs/")


def test_only_a_finished_run_with_the_same_config_is_reused(tmp_path):
    write_run(tmp_path, "plain-56")
    write_run(tmp_path, "plain-44", errors=(50.0,))
    directories = [tmp_path / model / "seed-0" for model in ("plain-44", "plain-56")]
    for model, expected in (("plain-56", directories[1]), ("plain-44", None), ("plain-32", None)):
        config = digits.get_config(model)
        config.num_steps, config.boundaries = 30, (15, 20)
        assert find_finished_run(directories, config) == expected
