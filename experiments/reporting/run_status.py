"""Status of the runs in a workdir: state, progress, configs and results."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flaxres.errors import DamagedFileError, DivergedError, WorkdirError, print_note
from flaxres.experiments.results.logs import LOG_FILE, Log, Start, read_log
from flaxres.experiments.results.plan_file import PLAN_FILE, FlatConfig, read_plan
from flaxres.experiments.results.run_names import check_inside, run_directories, sweep_hint
from flaxres.experiments.results.runs import Run, group_by_variant, read_run
from flaxres.experiments.results.tables import describe_settings, result_rows, run_rows
from flaxres.run.config_changes import FieldChange, read_config_changes
from flaxres.run.records import MetricColumns
from flaxres.run.workdir import CONFIG_FILE, read_config

PEERS = "pytorch"  # directory in a workdir with PyTorch runs of the same models
STATES = FINISHED, UNFINISHED, DIVERGED, FAILED, DAMAGED, NOT_BEGUN = (
    *("finished", "unfinished", "diverged", "failed", "damaged", "not begun"),
)


@dataclasses.dataclass(frozen=True)
class RunStatus:
    """Status of one run.

    Attributes:
      name: VARIANT/seed-N in a sweep, otherwise the name of the run's directory.
      state: one of STATES.
      step: last step with metrics; 0 without metrics.
      config: values by dotted field name; {} if the config of a damaged run cannot be read.
      row: the run's row of `experiments.results.tables.run_rows`; only 'state' without metrics.
      failure: error of the last start in one line, or why a damaged run cannot be read; otherwise
        empty.
      starts: starts of the run in order, as far as output.log has them.
      metrics: the records of the run; None without metrics.
      changes: config fields that changed when the run resumed, in order.
    """

    name: str
    state: str
    step: int
    config: dict[str, Any]
    row: dict[str, Any]
    failure: str = ""
    starts: tuple[Start, ...] = ()
    metrics: MetricColumns | None = None
    changes: Sequence[FieldChange] = ()

    @property
    def variant(self) -> str:
        """Name of the model, or of the variant of it in a sweep."""
        return _variant(self.name)

    @property
    def num_steps(self) -> int:
        """Number of steps of the finished run; 0 without a config."""
        num_steps: int = self.config.get("num_steps", 0)
        return num_steps

    @property
    def commands(self) -> list[str]:
        """Commands that started the run, without duplicates, in order."""
        return list(dict.fromkeys(start.command for start in self.starts))

    @property
    def percent(self) -> int:
        """Percentage of steps done; rounded down, so that 100 means all of them."""
        return 100 * self.step // max(1, self.num_steps)


@dataclasses.dataclass(frozen=True)
class WorkdirStatus:
    """Status of all runs in a workdir.

    Attributes:
      name: name of the directory.
      runs_by_variant: runs with metrics, grouped and ordered as in
        `experiments.results.runs.find_runs`.
      runs: status of every run, including planned ones.
      results: rows of `experiments.results.tables.result_rows`; empty before the first metrics.
      notes: what is wrong with sweep.json, one line for each entry.
    """

    name: str
    runs_by_variant: dict[str, list[Run]]
    runs: list[RunStatus]
    results: list[dict[str, Any]]
    notes: list[str]

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
        num_steps = sum(run.num_steps for run in self.runs)
        return 100 * sum(run.step for run in self.runs) // max(1, num_steps)

    @property
    def configured(self) -> list[RunStatus]:
        """Runs whose config is known."""
        return [run for run in self.runs if run.config]

    @property
    def settings(self) -> list[str]:
        """Training settings of the runs, one line for each distinct setting."""
        return list(dict.fromkeys(describe_settings(run.config) for run in self.configured))

    @functools.cached_property
    def differing_fields(self) -> list[str]:
        """Config fields whose values differ between runs."""
        configs = [run.config for run in self.configured]
        return [
            field
            for field in sorted(set().union(*configs))
            if any(config.get(field) != configs[0].get(field) for config in configs)
        ]

    @property
    def shared_fields(self) -> dict[str, Any]:
        """Config fields with the same value in all runs, and these values."""
        config = self.configured[0].config if self.configured else {}
        return {
            field: config[field] for field in sorted(config.keys() - set(self.differing_fields))
        }


def read_status(workdir: Path) -> WorkdirStatus:
    """Reads the status of the runs in a workdir.

    A run that cannot be read hides none of the others: its state is 'damaged'.

    Args:
      workdir: directory of a sweep or of one run, finished or not, or a directory of results.

    Raises:
      WorkdirError: there is no run.
    """
    if workdir.exists() and not workdir.is_dir():
        raise WorkdirError(f"workdir must be a directory, but {workdir} is a file")
    directories, (planned, plan_damage) = _directories(workdir), read_plan(workdir)
    if not directories and not planned:
        raise WorkdirError(
            next(iter(plan_damage.values()), None)
            or f"{workdir} holds no run: there is no {CONFIG_FILE} in it or in NAME/seed-N below "
            f"it, and no {PLAN_FILE}"
            + (sweep_hint(workdir) or "; set --workdir to the directory of a run or a sweep")
        )
    started, configs, damaged = _read_directories(workdir, directories)
    configs = planned | configs
    for reason in (*plan_damage.values(), *damaged.values()):
        print_note(reason)
    runs_by_variant = group_by_variant(started.values())
    names = {id(run): name for name, run in started.items()}
    ordered_names = [names[id(run)] for group in runs_by_variant.values() for run in group]
    rows: dict[str, dict[str, Any]]
    rows = dict(zip(ordered_names, run_rows(runs_by_variant, {}), strict=True))
    row: dict[str, Any]
    runs = []
    for name in dict.fromkeys([*ordered_names, *configs, *damaged]):
        config = {field: _as_json(value) for field, value in configs.get(name, {}).items()}
        if name in damaged:
            row = {"state": DAMAGED}
            runs.append(RunStatus(name, DAMAGED, 0, config, row, damaged[name]))
            continue
        log = _read_log(directories.get(name, workdir / name), workdir)
        has_started = name in directories or log.starts
        row = rows.get(name, {"state": UNFINISHED if has_started else NOT_BEGUN})
        # A run that did all its steps has not failed, whatever a later start logged.
        failure = log.failure if row["state"] != FINISHED else ""
        state = row["state"]
        if failure:
            state = DIVERGED if failure.startswith(DivergedError.PREFIX) else FAILED
        metrics = started[name].metrics if name in started else None
        step = row.get("step", 0)
        changes = _read_changes(directories[name]) if name in directories else ()
        runs.append(
            RunStatus(name, state, step, config, row, failure, log.starts, metrics, changes)
        )
    planned_names = [f"{run.variant}/{run.name.rpartition('/')[2]}" for run in runs]
    results: list[dict[str, Any]] = []
    if runs_by_variant:
        results = result_rows(runs_by_variant, planned_names, _read_peers(workdir))
    return WorkdirStatus(
        workdir.resolve().name, runs_by_variant, runs, results, list(plan_damage.values())
    )


def _read_directories(
    workdir: Path, directories: Mapping[str, Path]
) -> tuple[dict[str, Run], dict[str, FlatConfig], dict[str, str]]:
    """Returns runs with metrics, configs, and why a run cannot be read; each by run name."""
    started: dict[str, Run] = {}
    configs: dict[str, FlatConfig] = {}
    damaged: dict[str, str] = {}
    for name, path in directories.items():
        try:
            check_inside(path, workdir)
            configs[name] = read_config(path)
            if run := read_run(path, configs[name]):
                started[name] = dataclasses.replace(run, variant=_variant(name))
        except DamagedFileError as error:
            damaged[name] = str(error)
    return started, configs, damaged


def _directories(workdir: Path) -> dict[str, Path]:
    """Returns the run directories by run name: of a sweep, one run, or several seeds of one run."""
    if not (workdir / CONFIG_FILE).exists():
        return {str(path.relative_to(workdir)): path for path in run_directories(workdir)}
    path = workdir.resolve()
    seed_directories = [file.parent for file in path.glob(f"seed-*/{CONFIG_FILE}")]
    if seed_directories:  # num_replicas seeds, trained in one program
        in_order = sorted(seed_directories, key=lambda seed: (len(seed.name), seed.name))
        return {f"{path.name}/{seed.name}": seed for seed in in_order}
    in_sweep = path.name.startswith("seed-")
    return {f"{path.parent.name}/{path.name}" if in_sweep else path.name: path}


def _variant(name: str) -> str:
    return name.partition("/")[0]


def _read_log(directory: Path, workdir: Path) -> Log:
    """Reads a run's log; seeds that were trained in one program share the log of their parent."""
    try:
        check_inside(directory, workdir)
    except DamagedFileError:
        return Log()
    log = read_log(directory / LOG_FILE)
    if not log.starts and directory.name.startswith("seed-"):
        log = read_log(directory.parent / LOG_FILE)
    return log


def _read_changes(directory: Path) -> Sequence[FieldChange]:
    try:
        return read_config_changes(directory)
    except DamagedFileError as error:
        print_note(f"{error}; the file is ignored")
        return ()


def _read_peers(workdir: Path) -> dict[str, list[Run]]:
    """Reads the PyTorch runs in a workdir, grouped by model name, without the damaged ones."""
    peers: dict[str, list[Run]] = {}
    for path in run_directories(workdir / PEERS):
        try:
            check_inside(path, workdir)
            if run := read_run(path):
                peers.setdefault(run.variant, []).append(run)
        except DamagedFileError as error:
            print_note(f"{path} is left out: {error}")
    return peers


def _as_json(value: object) -> object:
    """Converts a value to what it would be after a round trip through JSON."""
    return list(value) if isinstance(value, tuple) else value
