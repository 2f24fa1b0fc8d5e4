"""Weights & Biases and MLflow: each step once, also after a restart, a failure and a late start."""

import importlib.util
import json

import pytest

from flaxres.config import check_config
from flaxres.errors import ConfigError, WorkdirError
from flaxres.run import trackers
from flaxres.run.metric_writers import MetricWriters
from flaxres.run.trackers import TRACKING_FILE, check_metric_writers
from tests.conftest import small_config

NAMES = ("wandb", "mlflow")


def make_records(*steps):
    return [{"step": step, "train_loss": 1 / step, "train_error": 50.0} for step in steps]


def write(workdir, step, *steps, names=NAMES, error=None):
    """Writes records of a run that resumes after `step`; ends with `error` if it is given."""
    config = small_config()
    config.metric_writers = names
    with MetricWriters([workdir], step, configs=[config]) as writers:
        for record in make_records(*steps):
            writers.write([record])
        if error:
            raise error


@pytest.fixture
def services(tmp_path, monkeypatch):
    """Selects the offline mode of W&B and a database of MLflow in a file."""
    for name in NAMES:
        pytest.importorskip(name, reason="pip install -r requirements-tracking.txt")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")


def log_entries(data, block_size=1 << 15, header_size=7):
    """Yields the entries of a log file of LevelDB, in which W&B's offline mode writes."""
    position, entry = 7, b""  # after the header of W&B
    while position + header_size <= len(data):
        left = block_size - position % block_size
        if left < header_size:
            position += left
            continue
        size = int.from_bytes(data[position + 4 : position + 6], "little")
        kind = data[position + 6]  # 1: whole, 2: first part, 3: middle, 4: last
        position += header_size
        entry += data[position : position + size]
        position += size
        if kind in (1, 4):
            yield entry
            entry = b""


def wandb_steps(workdir):
    """Returns the steps in the files of W&B's offline mode, and the ids of their runs."""
    from wandb.proto import wandb_internal_pb2

    steps, ids = [], set()
    for path in sorted(workdir.glob("wandb/offline-run-*/*.wandb")):
        for entry in log_entries(path.read_bytes()):
            record = wandb_internal_pb2.Record.FromString(entry)
            if record.WhichOneof("record_type") == "run":
                ids.add(record.run.run_id)
            if record.WhichOneof("record_type") == "history":
                items = {i.key or i.nested_key[0]: i.value_json for i in record.history.item}
                steps.append(record.history.step.num or int(items["_step"]))
                assert float(items["train_loss"]) == 1 / steps[-1]
    return steps, ids


def mlflow_run(workdir, tmp_path):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    run_id = json.loads((workdir / TRACKING_FILE).read_text())["mlflow"]["id"]
    return client.get_metric_history(run_id, "train_loss"), client.get_run(run_id)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # those of the trackers
def test_each_step_is_sent_once(services, tmp_path):
    workdir = tmp_path / "run"
    workdir.mkdir()
    write(workdir, 0, 1, names=("tensorboard",))  # the trackers are chosen later
    with pytest.raises(KeyboardInterrupt):
        write(workdir, 1, 2, 3, 4, error=KeyboardInterrupt)
    history, run = mlflow_run(workdir, tmp_path)
    assert [metric.step for metric in history] == [1, 2, 3, 4]
    assert run.info.status == "FAILED"
    write(workdir, 2, 3, 4, 5)  # resumes from a checkpoint of step 2
    history, run = mlflow_run(workdir, tmp_path)
    assert [(metric.step, metric.value) for metric in history] == [(s, 1 / s) for s in range(1, 6)]
    assert (run.info.status, run.info.run_name) == ("FINISHED", "resnet-8-seed0")
    assert run.data.params["model.depth"] == "8"
    steps, ids = wandb_steps(workdir)
    assert steps == [1, 2, 3, 4, 5]
    assert ids == {json.loads((workdir / TRACKING_FILE).read_text())["wandb"]["id"]}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_failures_of_a_server(services, tmp_path, monkeypatch, capfd):
    log, fails = trackers.MlflowRun.log, {2, 3}

    def log_sometimes(self, step, values):
        if step in fails:
            fails.remove(step)
            raise ConnectionError("no route to host")
        log(self, step, values)

    monkeypatch.setattr(trackers.MlflowRun, "log", log_sometimes)
    write(tmp_path, 0, 1, 2, 3, 4, names=("mlflow",))
    history, _ = mlflow_run(tmp_path, tmp_path)
    assert [metric.step for metric in history] == [1, 2, 3, 4]
    assert capfd.readouterr().err.count("mlflow cannot be reached (no route to host)") == 1
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/other.db")
    with pytest.raises(WorkdirError, match=r"the mlflow run of .* cannot be .*MLFLOW_TRACKING_URI"):
        write(tmp_path, 4, 5, names=("mlflow",))


def test_mistakes(tmp_path, monkeypatch, config):
    config.metric_writers = ("tensorbord",)
    message = (
        "metric_writers must be one of tensorboard, wandb, mlflow, got 'tensorbord'; did you mean "
        "'tensorboard'"
    )
    with pytest.raises(ConfigError, match=message):
        check_config(config)
    config.metric_writers = ()
    check_config(config)
    config.metric_writers = ("mlflow",)
    check_config(config)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"'mlflow', but .* not installed: pip install mlflow$"):
        check_metric_writers(config)
    (tmp_path / TRACKING_FILE).write_text("[]")
    with pytest.raises(WorkdirError, match=r"tracking\.json is damaged .*; remove it to start"):
        write(tmp_path, 0, 1)


def test_no_tensorboard(tmp_path):
    write(tmp_path, 0, 1, names=())
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
