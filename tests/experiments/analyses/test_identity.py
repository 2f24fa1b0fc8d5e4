"""Rows and figure of the identity analysis, and the whole analysis from its command line."""

import csv
import json
import re

import jax
import numpy as np
import pytest

from flaxres.experiments.analyses.base import TrainedRun
from flaxres.experiments.analyses.identity import write_results
from flaxres.experiments.analyses.identity_runs import DeepenedModel, DeeperRun, ModelPair
from flaxres.experiments.analyses.model_sources import RunSource
from flaxres.pretrained.load import read_variables
from flaxres.run.workdir import open_workdir
from flaxres.training.initial_weights import read_run_variables
from flaxres.training.train import train_and_evaluate
from tests.conftest import small_config

ERRORS = {
    "shallow": {"train_error": 1.0, "test_error": 3.0},
    "deepened": {"train_error": 1.5, "test_error": 3.5},
    "random": {"train_error": 90.0, "test_error": 91.0},
}


def plain_config(depth, seed=0):
    config = small_config()
    config.model.name, config.model.shortcut, config.model.depth = "plain", "none", depth
    config.seed = seed
    return config


def write_run(directory, config, errors):
    """Writes a run with a record every 10 steps."""
    with open_workdir(directory, config, {}):
        pass
    records = [
        {"step": 10 * i, "train_error": error, "test_error": error + 1}
        for i, error in enumerate(errors, start=1)
    ]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))


def write_pair(workdir, seed, deepened_errors=(40.0, 2.0)):
    """Writes the runs of a model pair; the trained run has logged errors of 0.5% and 1.5%."""
    directory = workdir / "plain-8" / f"seed-{seed}"
    write_run(directory, plain_config(8, seed), (60.0, 0.5))
    pair = ModelPair(RunSource(directory), "plain-8", "plain-14", plain_config(14, seed))
    config = plain_config(8, seed)
    trained = TrainedRun(f"plain-8/seed-{seed}", config, None, {}, 20)
    model = DeepenedModel(pair, trained, workdir / "model.msgpack", ERRORS, 1e-6, 12.0)
    runs = []
    for variant, origin, errors in (
        ("plain-14", "random", (80.0, 70.0)),
        ("plain-14-from-plain-8", "deepened", deepened_errors),
    ):
        directory = workdir / "identity" / variant / f"seed-{seed}"
        if errors:
            write_run(directory, plain_config(14, seed), errors)
        runs.append(DeeperRun(variant, plain_config(14, seed), directory, model, origin))
    return runs


def read_rows(output):
    lines = (output / "identity.csv").read_text().splitlines()
    return {row["run"]: row for row in csv.DictReader(lines)}


def test_rows_and_figure(tmp_path):
    runs = write_pair(tmp_path, 0) + write_pair(tmp_path, 1, deepened_errors=())
    files = write_results(runs, tmp_path)
    assert [path.name for path in files] == ["identity.csv", "identity.png", "identity.svg"]
    rows = read_rows(tmp_path)
    assert list(rows) == [
        f"{variant}/seed-{seed}"
        for seed in (0, 1)
        for variant in ("plain-8", "plain-14", "plain-14-from-plain-8")
    ]
    assert rows["plain-8/seed-0"] | {"learning_rate": ""} == {
        **dict.fromkeys(rows["plain-8/seed-0"], ""),
        **{"run": "plain-8/seed-0", "step": "20"},
        **{"final_train_error": "0.5", "final_test_error": "1.5"},  # the logged errors
    }
    assert rows["plain-14-from-plain-8/seed-0"] == {
        **{"run": "plain-14-from-plain-8/seed-0", "begins_with": "plain-8/seed-0"},
        **{"learning_rate": "0.1", "step": "20"},
        **{"initial_train_error": "1.5", "initial_test_error": "3.5"},
        **{"final_train_error": "2", "final_test_error": "3"},
        **{"logits_difference": "1e-06", "largest_logit": "12"},
    }
    assert rows["plain-14/seed-1"]["begins_with"] == "random weights"
    assert rows["plain-14/seed-1"]["logits_difference"] == ""
    assert rows["plain-14-from-plain-8/seed-1"]["step"] == "0"  # not begun
    assert rows["plain-14-from-plain-8/seed-1"]["final_test_error"] == ""
    text = re.sub(r"\s+", " ", (tmp_path / "identity.svg").read_text())
    assert "incomplete: 3 of 4 runs finished" in text
    for label in ("from random weights, learning rate 0.1", "from plain-8, learning rate 0.1"):
        assert label in text
    assert "dotted: the learning rate drops" in text


def run_command(python, workdir, *flags):
    return python(
        *("-m", "experiments.analyze", "identity", f"--workdir={workdir}", "--deeper=14"),
        *("--learning_rate_factors=1", *flags),
    )


@pytest.mark.slow
def test_command_line(tmp_path, python):
    workdir = tmp_path / "runs"
    config = plain_config(8)
    config.eval_batch_size = 350  # divides neither split
    record = train_and_evaluate(config, workdir / "plain-8" / "seed-0")
    config.model.depth = 14  # the workdir already has the deeper model from random weights
    random = train_and_evaluate(config, workdir / "plain-14" / "seed-0")
    done = run_command(python, workdir)
    assert done.returncode == 0, done.stderr
    output = workdir / "analyses"
    assert done.stdout.splitlines() == [
        str(output / f"identity.{suffix}") for suffix in ("csv", "png", "svg")
    ]
    rows = read_rows(output)
    deepened, shallow = rows["plain-14-from-plain-8/seed-0"], rows["plain-8/seed-0"]
    assert float(shallow["final_test_error"]) == pytest.approx(record["test_error"], rel=1e-5)
    assert deepened["initial_test_error"] == shallow["final_test_error"]
    assert float(deepened["logits_difference"]) < 1e-5 * float(deepened["largest_logit"])
    assert [row["step"] for row in rows.values()] == ["20"] * 3

    (weights_file,) = (output / "identity" / "weights").glob("*.msgpack")
    initial = read_variables(weights_file)
    trained = read_run_variables(workdir / "plain-8" / "seed-0")
    for collection, layers in trained.items():
        for name, leaves in layers.items():
            jax.tree.map(np.testing.assert_array_equal, initial[collection][name], leaves)
    (directory,) = (output / "identity").glob("*/seed-0")
    fields = json.loads((directory / "config.json").read_text())
    assert directory.parent.name == "plain-14-from-plain-8"
    assert (fields["model"]["depth"], fields["init_from"]) == (14, str(weights_file))
    error = float(rows["plain-14/seed-0"]["final_test_error"])
    assert error == pytest.approx(random["test_error"], rel=1e-5)

    modified = (directory / "metrics.jsonl").stat().st_mtime_ns
    rerun = run_command(python, workdir)
    assert rerun.returncode == 0, rerun.stderr
    assert (directory / "metrics.jsonl").stat().st_mtime_ns == modified
    assert "1 run, 1 finished" in rerun.stderr
