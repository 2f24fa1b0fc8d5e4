import json

import pytest

from flaxres.errors import DamagedFileError
from flaxres.experiments.sweeps.plan import grid, make_plans
from flaxres.experiments.sweeps.run_progress import (
    RunState,
    macs_per_step,
    read_progress,
    training_macs,
)
from tests.conftest import ROOT
from tests.experiments.results.test_runs import write_run


@pytest.fixture
def make_sweep(monkeypatch):
    """Returns plans of the digits for the models, 300 steps of 128 images each."""
    monkeypatch.chdir(ROOT)
    return lambda *models: make_plans(
        grid("configs/digits.py", {model: (model, {}) for model in models}, [0]), {}
    )


def write_records(workdir, records):
    workdir.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(record) + "\n" for record in records]
    (workdir / "metrics.jsonl").write_text("".join(lines))


def test_the_most_costly_run_comes_first_unless_in_order(make_sweep, tmp_path):
    plans = make_sweep("plain-8", "resnet-20", "plain-14")
    names = [run.plan.name for run in read_progress(plans, tmp_path)]
    assert names == ["resnet-20/seed-0", "plain-14/seed-0", "plain-8/seed-0"]
    in_order = read_progress(plans, tmp_path, in_order=True)
    assert [run.plan for run in in_order] == plans
    assert {run.state for run in in_order} == {RunState.WAITING}


def test_cost_of_a_step(make_sweep):
    (plan,) = make_sweep("plain-8")
    _, macs = plan.count_params_and_macs()
    assert macs_per_step(plan) == 128 * macs
    assert training_macs(plan) == 3 * 300 * 128 * macs


def test_the_newest_record_and_the_newest_test_error_are_read(make_sweep, tmp_path):
    (run,) = read_progress(make_sweep("plain-8"), tmp_path)
    run.refresh()
    assert (run.step, run.fraction(), run.test_error) == (0, 0, None)
    records = [{"step": 50, "train_error": 9.0, "test_error": 12.5}, {"step": 75}]
    write_records(run.workdir, records)
    run.refresh()
    assert (run.step, run.fraction(), run.test_error) == (75, 0.25, 12.5)
    write_records(run.workdir, [*records, {"step": 150, "test_error": 10.0}, {"step": 300}])
    run.refresh()
    assert (run.step, run.fraction(), run.test_error) == (300, 1, 10.0)


def test_a_damaged_metrics_file_leaves_the_progress_as_it_is(make_sweep, tmp_path):
    (run,) = read_progress(make_sweep("plain-8"), tmp_path)
    write_records(run.workdir, [{"step": 75}])
    run.refresh()
    (run.workdir / "metrics.jsonl").write_text("[]\n")
    with pytest.raises(DamagedFileError):
        run.refresh()
    assert run.step == 75


def test_a_run_that_cannot_be_read_has_failed_and_hides_no_other(make_sweep, tmp_path):
    write_run(tmp_path, "plain-8")
    (tmp_path / "plain-8/seed-0/config.json").write_text("{")
    failed, waiting = read_progress(make_sweep("plain-8", "plain-14"), tmp_path, in_order=True)
    assert failed.state is RunState.FAILED
    assert "config.json" in failed.message
    assert waiting.state is RunState.WAITING
