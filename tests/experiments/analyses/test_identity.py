"""What became of nets made of trained ones: rows and figures, and all of it by its command line."""

import csv
import json
import re

import jax
import numpy as np
import pytest

from experiments.analyses.base import TrainedRun
from experiments.analyses.identity import Start, Variant, collect
from experiments.analyses.identity_runs import Pair
from flaxres.pretrained.load import read_variables
from flaxres.run.workdir import open_workdir
from flaxres.training.initial_weights import read_run_variables
from flaxres.training.train import train_and_evaluate
from tests.conftest import small_config

ERRORS = {
    "shallow": {"train_error": 1.0, "test_error": 3.0},
    "made": {"train_error": 1.5, "test_error": 3.5},
    "random": {"train_error": 90.0, "test_error": 91.0},
}


def plain(depth, seed=0):
    config = small_config()
    config.model.name, config.model.shortcut, config.model.depth = "plain", "none", depth
    config.seed = seed
    return config


def write_run(directory, config, errors):
    """A run with a record every 10 steps."""
    with open_workdir(directory, config, {}):
        pass
    records = [
        {"step": 10 * i, "train_error": error, "test_error": error + 1}
        for i, error in enumerate(errors, start=1)
    ]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))


def variants_of(workdir, seed, made=(40.0, 2.0)):
    """The runs of a pair, with a seed; the trained net has logged 0.5 and 1.5%."""
    directory = workdir / "plain-8" / f"seed-{seed}"
    write_run(directory, plain(8, seed), (60.0, 0.5))
    pair = Pair(directory, "plain-8", "plain-14", plain(14, seed))
    trained = TrainedRun(f"plain-8/seed-{seed}", plain(8, seed), directory, None, {}, 20)
    start = Start(pair, trained, workdir / "net.msgpack", ERRORS, 1e-6, 12.0)
    variants = []
    for name, origin, errors in (
        ("plain-14", "random", (80.0, 70.0)),
        ("plain-14-from-plain-8", "made", made),
    ):
        own = workdir / "identity" / name / f"seed-{seed}"
        if errors:
            write_run(own, plain(14, seed), errors)
        variants.append(Variant(name, plain(14, seed), own, start, origin))
    return variants


def rows_of(output):
    lines = (output / "identity.csv").read_text().splitlines()
    return {row["run"]: row for row in csv.DictReader(lines)}


def test_rows_and_figure(tmp_path):
    files = collect(variants_of(tmp_path, 0) + variants_of(tmp_path, 1, made=()), tmp_path)
    assert [path.name for path in files] == ["identity.csv", "identity.png", "identity.svg"]
    rows = rows_of(tmp_path)
    assert list(rows) == [
        f"{net}/seed-{seed}"
        for seed in (0, 1)
        for net in ("plain-8", "plain-14", "plain-14-from-plain-8")
    ]
    assert rows["plain-8/seed-0"] | {"learning_rate": ""} == {
        **dict.fromkeys(rows["plain-8/seed-0"], ""),
        **{"run": "plain-8/seed-0", "step": "20"},
        **{"final_train_error": "0.5", "final_test_error": "1.5"},  # as it was logged
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
    assert rows["plain-14-from-plain-8/seed-1"]["step"] == "0"  # it has not begun
    assert rows["plain-14-from-plain-8/seed-1"]["final_test_error"] == ""
    text = re.sub(r"\s+", " ", (tmp_path / "identity.svg").read_text())
    assert "incomplete: 3 of 4 runs finished" in text


def run_command(python, workdir, *flags):
    return python(
        *("-m", "experiments.analyze", "identity", f"--workdir={workdir}", "--deeper=14"),
        *("--rate_factors=1", *flags),
    )


@pytest.mark.slow
def test_made_and_trained_on_by_the_command_line(tmp_path, python):
    workdir = tmp_path / "runs"
    config = plain(8)
    config.eval_batch_size = 350  # divides neither split
    record = train_and_evaluate(config, workdir / "plain-8" / "seed-0")
    config.model.depth = 14  # the one from random weights is there already
    random = train_and_evaluate(config, workdir / "plain-14" / "seed-0")
    done = run_command(python, workdir)
    assert done.returncode == 0, done.stderr
    output = workdir / "analyses"
    assert done.stdout.splitlines() == [
        str(output / f"identity.{suffix}") for suffix in ("csv", "png", "svg")
    ]
    rows = rows_of(output)
    made, shallow = rows["plain-14-from-plain-8/seed-0"], rows["plain-8/seed-0"]
    assert float(shallow["final_test_error"]) == pytest.approx(record["test_error"], rel=1e-5)
    assert made["initial_test_error"] == shallow["final_test_error"]
    assert float(made["logits_difference"]) < 1e-5 * float(made["largest_logit"])
    assert [row["step"] for row in rows.values()] == ["20"] * 3

    (file,) = (output / "identity" / "weights").glob("*.msgpack")
    given, trained = read_variables(file), read_run_variables(workdir / "plain-8" / "seed-0")
    for collection, own in trained.items():
        for name, leaves in own.items():
            jax.tree.map(np.testing.assert_array_equal, given[collection][name], leaves)
    (path,) = (output / "identity").glob("*/seed-0")
    there = json.loads((path / "config.json").read_text())
    assert path.parent.name == "plain-14-from-plain-8"
    assert (there["model"]["depth"], there["init_from"]) == (14, str(file))
    error = float(rows["plain-14/seed-0"]["final_test_error"])
    assert error == pytest.approx(random["test_error"], rel=1e-5)

    before = (path / "metrics.jsonl").stat().st_mtime_ns
    again = run_command(python, workdir)
    assert again.returncode == 0, again.stderr
    assert (path / "metrics.jsonl").stat().st_mtime_ns == before
    assert "1 runs, 1 finished" in again.stderr
