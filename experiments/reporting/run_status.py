"""Status of the runs in a workdir: state, progress, configs and results."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from experiments.results.logs import Log, Start, read_log
from experiments.results.run_names import run_directories, run_name
from experiments.results.runs import PLAN_FILE, Run, group_by_variant, planned_runs, read_run
from experiments.results.tables import describe_settings, result_rows, run_rows
from experiments.sweeps.plan import LOG_FILE
from flaxres.config import default_config, flatten
from flaxres.errors import WorkdirError
from flaxres.run.workdir import CONFIG_FILE, read_config

PEERS = "pytorch"  # directory in a workdir with PyTorch runs of the same models
STATES = FINISHED, UNFINISHED, FAILED, NOT_BEGUN = ("finished", "unfinished", "failed", "not begun")


@dataclasses.dataclass(frozen=True)
class RunStatus:
    """Status of one run.

    Attributes:
      name: VARIANT/seed-N in a sweep, otherwise the name of the run's directory.
      state: one of STATES.
      step: last step with metrics; 0 without metrics.
      config: values by dotted field name.
      row: the run's row of `experiments.results.tables.run_rows`; only 'state' without metrics.
      failure: error of the last start in one line; empty if the run has not failed.
      starts: starts of the run in order, as far as output.log has them.
    """

    name: str
    state: str
    step: int
    config: dict[str, Any]
    row: dict[str, Any]
    failure: str = ""
    starts: tuple[Start, ...] = ()

    @property
    def variant(self) -> str:
        """Name of the model, or of the variant of it in a sweep."""
        return _variant(self.name)

    @property
    def num_steps(self) -> int:
        """Number of steps of the finished run."""
        num_steps: int = self.config["num_steps"]
        return num_steps

    @property
    def commands(self) -> list[str]:
        """Commands that started the run, without duplicates, in order."""
        return list(dict.fromkeys(start.command for start in self.starts))

    @property
    def percent(self) -> int:
        """Percentage of steps done; rounded down, so that 100 means all of them."""
        return 100 * self.step // self.num_steps


@dataclasses.dataclass(frozen=True)
class WorkdirStatus:
    """Status of all runs in a workdir.

    Attributes:
      name: name of the directory.
      runs_by_variant: runs with metrics, grouped and ordered as in
        `experiments.results.runs.find_runs`.
      runs: status of every run, including planned ones.
      results: rows of `experiments.results.tables.result_rows`; empty before the first metrics.
    """

    name: str
    runs_by_variant: dict[str, list[Run]]
    runs: list[RunStatus]
    results: list[dict[str, Any]]

    def count(self, state: str) -> int:
        """Returns the number of runs in a state."""
        return sum(run.state == state for run in self.runs)

    @property
    def incomplete(self) -> list[RunStatus]:
        """Runs that are not finished."""
        return [run for run in self.runs if run.state != FINISHED]

    @property
    def percent(self) -> int:
        """Percentage of the steps of all runs that are done, rounded down."""
        return 100 * sum(run.step for run in self.runs) // sum(run.num_steps for run in self.runs)

    @property
    def settings(self) -> list[str]:
        """Training settings of the runs, one line for each distinct setting."""
        lines = (describe_settings(Run(run.variant, run.config, {}, [])) for run in self.runs)
        return list(dict.fromkeys(lines))

    @property
    def differing_fields(self) -> list[str]:
        """Config fields whose values differ between runs."""
        fields = sorted(set().union(*(run.config for run in self.runs)))
        first = self.runs[0].config
        return [
            field
            for field in fields
            if any(run.config.get(field) != first.get(field) for run in self.runs)
        ]

    @property
    def shared_fields(self) -> dict[str, Any]:
        """Config fields with the same value in all runs, and these values."""
        config = self.runs[0].config
        return {
            field: config[field] for field in sorted(config.keys() - set(self.differing_fields))
        }


def read_status(workdir: Path) -> WorkdirStatus:
    """Reads the status of the runs in a workdir.

    Args:
      workdir: directory of a sweep or of one run, finished or not, or a directory of results.

    Raises:
      WorkdirError: there is no run, or a run cannot be read.
    """
    if workdir.exists() and not workdir.is_dir():
        raise WorkdirError(f"workdir must be a directory, but {workdir} is a file")
    directories, planned = _directories(workdir), _planned(workdir)
    if not directories and not planned:
        raise WorkdirError(
            f"{workdir} holds no run: there is no {CONFIG_FILE} in it or in NAME/seed-N below it, "
            f"and no {PLAN_FILE}; set --workdir to the directory of a run or a sweep"
        )
    started = {
        name: dataclasses.replace(run, variant=_variant(name))
        for name, path in directories.items()
        if (run := read_run(path))
    }
    runs_by_variant = group_by_variant(started.values())
    names = {id(run): name for name, run in started.items()}
    ordered_names = [names[id(run)] for group in runs_by_variant.values() for run in group]
    rows: dict[str, dict[str, Any]]
    rows = dict(zip(ordered_names, run_rows(runs_by_variant, {}), strict=True))
    configs = planned | {name: read_config(path) for name, path in directories.items()}
    runs = []
    for name in dict.fromkeys([*ordered_names, *configs]):
        config = {field: _as_json(value) for field, value in configs[name].items()}
        log = _read_log(directories.get(name, workdir / name))
        has_started = name in directories or log.starts
        row = rows.get(name, {"state": UNFINISHED if has_started else NOT_BEGUN})
        # A run that did all its steps has not failed, whatever a later start logged.
        failure = log.failure if row["state"] != FINISHED else ""
        state = FAILED if failure else row["state"]
        runs.append(RunStatus(name, state, row.get("step", 0), config, row, failure, log.starts))
    planned_names = [f"{run.variant}/{run.name.rpartition('/')[2]}" for run in runs]
    results: list[dict[str, Any]] = []
    if runs_by_variant:
        results = result_rows(runs_by_variant, planned_names, _read_peers(workdir))
    return WorkdirStatus(workdir.resolve().name, runs_by_variant, runs, results)


def _directories(workdir: Path) -> dict[str, Path]:
    """Returns the run directories by run name: of a sweep, one run, or several seeds of one run."""
    if not (workdir / CONFIG_FILE).exists():
        return {run_name(path): path for path in run_directories(workdir)}
    path = workdir.resolve()
    seed_directories = [file.parent for file in path.glob(f"seed-*/{CONFIG_FILE}")]
    if seed_directories:  # num_replicas seeds, trained in one program
        return {f"{path.name}/{seed.name}": seed for seed in sorted(seed_directories, key=_seed)}
    in_sweep = path.name.startswith("seed-")
    return {f"{path.parent.name}/{path.name}" if in_sweep else path.name: path}


def _seed(directory: Path) -> int:
    config: dict[str, Any] = read_config(directory)
    seed: int = config["seed"]
    return seed


def _planned(workdir: Path) -> dict[str, dict[str, Any]]:
    """Returns configs of a sweep's planned runs by name; fields newer than it have their defaults.

    Raises:
      WorkdirError: the plan cannot be read.
    """
    defaults = flatten(default_config())
    try:
        return {name: {**defaults, **fields} for name, fields in planned_runs(workdir).items()}
    except (AttributeError, TypeError):
        raise WorkdirError(
            f"{workdir / PLAN_FILE} cannot be read (it must hold the fields of each run by name); "
            "remove it"
        ) from None


def _variant(name: str) -> str:
    return name.partition("/")[0]


def _read_log(directory: Path) -> Log:
    """Reads a run's log; seeds that were trained in one program share the log of their parent."""
    log = read_log(directory / LOG_FILE)
    if not log.starts and directory.name.startswith("seed-"):
        log = read_log(directory.parent / LOG_FILE)
    return log


def _read_peers(workdir: Path) -> dict[str, list[Run]]:
    """Reads the PyTorch runs in a workdir, grouped by model name."""
    peers: dict[str, list[Run]] = {}
    for path in run_directories(workdir / PEERS):
        if run := read_run(path):
            peers.setdefault(run.variant, []).append(run)
    return peers


def _as_json(value: object) -> object:
    """Converts a value to what it would be after a round trip through JSON."""
    return list(value) if isinstance(value, tuple) else value
