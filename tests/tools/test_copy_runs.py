"""Copies of a run are runs of a sweep."""

from flaxres.experiments.results.plan_file import planned_runs
from flaxres.experiments.results.runs import find_runs
from tests.conftest import ROOT
from tests.experiments.results.test_runs import write_run

SCRIPT = ROOT / "tools" / "copy_runs.py"


def test_copies_are_runs_of_a_sweep(tmp_path, python):
    write_run(tmp_path, "plain-20")
    source = tmp_path / "plain-20" / "seed-0"
    done = python(SCRIPT, source, tmp_path / "many", "--runs=6")
    assert done.returncode == 0, done.stderr
    runs = find_runs(tmp_path / "many")
    seeds = {variant: [run.config["seed"] for run in group] for variant, group in runs.items()}
    assert seeds == {"variant-0": [0, 1, 2, 3], "variant-1": [0, 1]}
    assert len({run.last("test_error") for group in runs.values() for run in group}) == 6
    assert len(planned_runs(tmp_path / "many")) == 6
    again = python(SCRIPT, source, tmp_path / "many")
    assert (again.returncode, "exists; name a new directory" in again.stderr) == (2, True)
