"""Metric writers for experiment trackers: Weights & Biases and MLflow (`config.metric_writers`).

A run has one run in each tracker. tracking.json in its workdir keeps their ids, so a resume
continues them. metrics.jsonl is the source: a tracker receives each of its records once, also those
that were written while the tracker could not be reached or was not chosen yet. The trackers' own
environment variables choose the server, such as WANDB_MODE=offline and MLFLOW_TRACKING_URI.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from ml_collections import ConfigDict

from flaxres.config import flatten, model_name
from flaxres.errors import ConfigError, WorkdirError, one_line, print_note
from flaxres.files import write_atomically
from flaxres.run.records import Record, records_from_end
from flaxres.run.schemas import read_document

TRACKING_FILE = "tracking.json"
MLFLOW_MAX_PARAMS = 100  # parameters in one call of log_batch
MLFLOW_MAX_LENGTH = 6_000  # characters of a parameter


class TrackerError(WorkdirError):
    """A run of an experiment tracker cannot be started or continued."""


def check_metric_writers(config: ConfigDict) -> None:
    """Checks that the packages of the chosen trackers are installed.

    Raises:
      ConfigError: one is missing.
    """
    for name in TRACKERS:
        if name in config.metric_writers and importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"metric_writers has {name!r}, but its package is not installed: pip install {name}"
            )


class Tracker(Protocol):
    """A run of an experiment tracker."""

    state: dict[str, Any]

    def last_step(self) -> int:
        """Returns the last step whose record the tracker has; 0 if it has none."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Sends the values of one step. May raise any exception."""

    def finish(self, failed: bool) -> None:
        """Ends the run. May raise any exception."""


class WandbRun:
    """A run of Weights & Biases. The project is WANDB_PROJECT, or the `name` of the config.

    Attributes:
      state: what tracking.json keeps: 'id' and 'step', the last step that was sent.
    """

    def __init__(self, workdir: Path, config: ConfigDict, state: dict[str, Any]):
        """Starts the run, or continues the one in `state`."""
        import wandb

        self.state: dict[str, Any] = {"id": secrets.token_hex(4), "step": 0} | state
        self._workdir = workdir
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or config.name,
            name=os.environ.get("WANDB_NAME") or f"{model_name(config.model)}-seed{config.seed}",
            id=self.state["id"],
            resume="allow",
            dir=workdir,
            config=config.to_dict(),
            reinit="create_new",  # replicas have one run each
            settings=wandb.Settings(console="off", silent=True),
        )

    def last_step(self) -> int:
        """Returns the last step that was sent. Files of W&B's offline mode cannot be asked."""
        return int(self.state["step"])

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Sends the values of one step."""
        # The step is on disk first: after a kill, no step is sent twice.
        self.state["step"] = step
        write_state(self._workdir, "wandb", self.state)
        self._run.log(dict(values), step=step)

    def finish(self, failed: bool) -> None:
        """Waits until everything is sent, and ends the run."""
        self._run.finish(exit_code=int(failed))


class MlflowRun:
    """A run of MLflow. The experiment is MLFLOW_EXPERIMENT_NAME, or the `name` of the config.

    Attributes:
      state: what tracking.json keeps: 'id' and 'tracking_uri'.
    """

    def __init__(self, workdir: Path, config: ConfigDict, state: dict[str, Any]):
        """Starts the run, or continues the one in `state`."""
        import mlflow
        from mlflow.entities import Param

        for name in ("mlflow", "alembic"):  # notes on the creation of tables
            logging.getLogger(name).setLevel(logging.WARNING)
        default = state.get("tracking_uri") or mlflow.get_tracking_uri()
        uri = os.environ.get("MLFLOW_TRACKING_URI") or default
        self._client = client = mlflow.MlflowClient(uri)
        if "id" in state:
            client.update_run(state["id"], status="RUNNING")
            self.state = state | {"tracking_uri": uri}
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or config.name
        experiment = client.get_experiment_by_name(name)
        experiment_id = experiment.experiment_id if experiment else client.create_experiment(name)
        run_name = f"{model_name(config.model)}-seed{config.seed}"
        run_id = client.create_run(experiment_id, run_name=run_name).info.run_id
        self.state = {"id": run_id, "tracking_uri": uri}
        params = [
            Param(field, str(value)[:MLFLOW_MAX_LENGTH]) for field, value in flatten(config).items()
        ]
        for start in range(0, len(params), MLFLOW_MAX_PARAMS):
            client.log_batch(run_id, params=params[start : start + MLFLOW_MAX_PARAMS])

    def last_step(self) -> int:
        """Returns the last step in the store."""
        history = self._client.get_metric_history(self.state["id"], "train_loss")
        return max((metric.step for metric in history), default=0)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Sends the values of one step in one call, so that the store has all of them or none."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, float(value), now, step) for name, value in values.items()]
        self._client.log_batch(self.state["id"], metrics=metrics)

    def finish(self, failed: bool) -> None:
        """Ends the run."""
        self._client.set_terminated(self.state["id"], "FAILED" if failed else "FINISHED")


TRACKERS: dict[str, type[WandbRun] | type[MlflowRun]] = {"mlflow": MlflowRun, "wandb": WandbRun}


class TrackerWriter:
    """Writer of records to an experiment tracker.

    A failure to send does not stop the training. The records wait and are sent with the next one,
    or when the run resumes.
    """

    def __init__(self, name: str, workdir: Path, config: ConfigDict):
        """Starts or continues the tracker's run, and sends records that it does not have.

        Args:
          name: 'wandb' or 'mlflow'.
          workdir: directory of the run. Its metrics.jsonl has no record after the step from which
            the run resumes.
          config: config of the run.

        Raises:
          TrackerError: the tracker's run cannot be started or continued.
        """
        self._name = name
        self._pending: list[Record] = []
        try:
            self._tracker: Tracker = TRACKERS[name](workdir, config, _read_state(workdir, name))
            write_state(workdir, name, self._tracker.state)
            last = self._last = self._tracker.last_step()
        except (OSError, WorkdirError):
            raise
        except Exception as error:  # of the tracker's package or its server
            advice = "log in with `wandb login` or set WANDB_MODE=offline"
            if name == "mlflow":
                advice = "check MLFLOW_TRACKING_URI"
            raise TrackerError(
                f"metric_writers: the {name} run of {workdir} cannot be started or continued "
                f"({one_line(error)}); {advice}, or remove {TRACKING_FILE} to start another one"
            ) from error
        for _, record in records_from_end(workdir):
            if record["step"] <= last:
                break
            self._pending.append(record)
        self._pending.reverse()
        self._send()

    def write(self, record: Record) -> None:
        """Sends a record, unless the tracker has its step from before a restart."""
        if record["step"] > self._last:
            self._pending.append(record)
            self._send()

    def _send(self) -> None:
        try:
            while self._pending:
                record = self._pending[0]
                self._last = int(record["step"])
                self._tracker.log(self._last, {k: v for k, v in record.items() if k != "step"})
                del self._pending[0]
        except Exception as error:
            print_note(
                f"{self._name} cannot be reached ({one_line(error)}); training continues, and "
                "metrics.jsonl keeps the records"
            )

    def sync(self) -> None:
        """Does nothing: metrics.jsonl holds the same records."""

    def close(self, failed: bool = False) -> None:
        """Ends the tracker's run.

        Args:
          failed: True if training ends before its last step.
        """
        self._send()
        try:
            self._tracker.finish(failed)
        except Exception as error:
            print_note(f"{self._name}: its run cannot be ended ({one_line(error)})")


def _read_state(workdir: Path, name: str) -> dict[str, Any]:
    """Returns what tracking.json keeps of a tracker; {} if the run is new there.

    Raises:
      TrackerError: the file is damaged.
    """
    try:
        state = read_document(workdir / TRACKING_FILE).get(name, {})
        if not isinstance(state, dict):
            raise TypeError(f"{name} must be an object")
    except FileNotFoundError:
        return {}
    except Exception as error:  # damage raises many types
        raise TrackerError(
            f"{workdir / TRACKING_FILE} is damaged ({one_line(error)}); remove it to start other "
            "runs in the trackers"
        ) from error
    return state


def write_state(workdir: Path, name: str, state: Mapping[str, Any]) -> None:
    """Writes the state of one tracker to tracking.json, beside those of others.

    Raises:
      OSError: the file cannot be written.
    """
    path = workdir / TRACKING_FILE
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        content = {}
    write_atomically(path, json.dumps(content | {name: dict(state)}, indent=2) + "\n")
