"""What there is to tell of a workdir: how its runs stand, and in what their configs differ."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from experiments.results.logs import Log, Start, read_log
from experiments.results.run_names import run_directories, run_name
from experiments.results.runs import PLAN_FILE, Run, group_by_net, planned_runs, read_run
from experiments.results.tables import result_rows, run_rows, settings
from experiments.sweeps.plan import LOG_FILE
from flaxres.config import default_config, flatten
from flaxres.errors import WorkdirError
from flaxres.run.workdir import CONFIG_FILE, read_config

PEERS = "pytorch"  # below a workdir: the same nets in PyTorch (`experiments.reproduction`)
STATES = FINISHED, UNFINISHED, FAILED, NOT_BEGUN = ("finished", "unfinished", "failed", "not begun")


@dataclasses.dataclass(frozen=True)
class RunStatus:
    """A run as it stands.

    Attributes:
      name: NET/seed-N; that of its directory if it is not part of a sweep.
      state: one of STATES.
      step: steps of which there are metrics.
      config: fields by dotted name.
      row: of `experiments.results.tables.run_rows`; of a run without metrics its state alone.
      failure: why it failed; empty if it has not.
      starts: in their order, as far as they are known.
    """

    name: str
    state: str
    step: int
    config: dict[str, object]
    row: dict[str, object]
    failure: str = ""
    starts: tuple[Start, ...] = ()

    @property
    def net(self) -> str:
        """The net, or the variant that a sweep made of it."""
        return _net(self.name)

    @property
    def num_steps(self) -> int:
        """Those that it is to make."""
        return self.config["num_steps"]

    @property
    def commands(self) -> list[str]:
        """Those of the starts, each once, in their order."""
        return list(dict.fromkeys(start.command for start in self.starts))

    @property
    def percent(self) -> int:
        """Of its steps, those made; rounded down, so that 100 means all of them."""
        return 100 * self.step // self.num_steps


@dataclasses.dataclass(frozen=True)
class WorkdirStatus:
    """What there is to tell of a workdir.

    Attributes:
      name: of the directory.
      by_net: the runs that have metrics, as `experiments.results.runs.find_runs` has them.
      runs: all of them, also those that are only planned.
      results: rows of `experiments.results.tables.result_rows`; empty before the first metrics.
    """

    name: str
    by_net: dict[str, list[Run]]
    runs: list[RunStatus]
    results: list[dict[str, object]]

    def count(self, state: str) -> int:
        """Runs in this state."""
        return sum(run.state == state for run in self.runs)

    @property
    def incomplete(self) -> list[RunStatus]:
        """The runs that are not finished."""
        return [run for run in self.runs if run.state != FINISHED]

    @property
    def percent(self) -> int:
        """Of the steps of all runs, those made; rounded down."""
        return 100 * sum(run.step for run in self.runs) // sum(run.num_steps for run in self.runs)

    @property
    def settings(self) -> list[str]:
        """How the runs were trained, a line for each way."""
        lines = (settings(Run(run.net, run.config, {}, [])) for run in self.runs)
        return list(dict.fromkeys(lines))

    @property
    def differing(self) -> list[str]:
        """Fields of the configs in which the runs differ."""
        fields = sorted(set().union(*(run.config for run in self.runs)))
        first = self.runs[0].config
        return [
            field
            for field in fields
            if any(run.config.get(field) != first.get(field) for run in self.runs)
        ]

    @property
    def shared(self) -> dict[str, object]:
        """Fields of the configs that are the same in all runs, with their values."""
        config = self.runs[0].config
        return {field: config[field] for field in sorted(config.keys() - set(self.differing))}


def read_status(workdir: Path) -> WorkdirStatus:
    """Reads the runs of a workdir.

    Args:
      workdir: of a sweep or of one run, finished or not, or a directory of results.

    Raises:
      WorkdirError: there is no run, or one cannot be read.
    """
    if workdir.exists() and not workdir.is_dir():
        raise WorkdirError(f"workdir must be a directory, but {workdir} is a file")
    directories, planned = _directories(workdir), _planned(workdir)
    if not directories and not planned:
        raise WorkdirError(
            f"{workdir} holds no run: there is no {CONFIG_FILE} in it or in NET/seed-N below it, "
            f"and no {PLAN_FILE}; give --workdir that of a run or a sweep"
        )
    begun = {
        name: dataclasses.replace(run, net=_net(name))
        for name, path in directories.items()
        if (run := read_run(path))
    }
    by_net = group_by_net(begun.values())
    names = {id(run): name for name, run in begun.items()}
    in_order = [names[id(run)] for group in by_net.values() for run in group]
    rows = dict(zip(in_order, run_rows(by_net, {}), strict=True))
    configs = planned | {name: read_config(path) for name, path in directories.items()}
    runs = []
    for name in dict.fromkeys([*in_order, *configs]):
        config = {field: _plain(value) for field, value in configs[name].items()}
        log = _log(directories.get(name, workdir / name))
        begun_without_metrics = name in directories or log.starts
        row = rows.get(name, {"state": UNFINISHED if begun_without_metrics else NOT_BEGUN})
        # What became of the log of a run that made all its steps does not matter.
        failure = log.failure if row["state"] != FINISHED else ""
        state = FAILED if failure else row["state"]
        runs.append(RunStatus(name, state, row.get("step", 0), config, row, failure, log.starts))
    in_sweep = [f"{run.net}/{run.name.rpartition('/')[2]}" for run in runs]
    results = result_rows(by_net, in_sweep, _peers(workdir)) if by_net else []
    return WorkdirStatus(workdir.resolve().name, by_net, runs, results)


def _directories(workdir: Path) -> dict[str, Path]:
    """Directories of runs, by name: those of a sweep, or one that is a run's, or its seeds'."""
    if not (workdir / CONFIG_FILE).exists():
        return {run_name(path): path for path in run_directories(workdir)}
    path = workdir.resolve()
    seeds = [seed.parent for seed in path.glob(f"seed-*/{CONFIG_FILE}")]
    if seeds:  # trained in one program
        seeds.sort(key=lambda seed: read_config(seed)["seed"])
        return {f"{path.name}/{seed.name}": seed for seed in seeds}
    in_sweep = path.name.startswith("seed-")
    return {f"{path.parent.name}/{path.name}" if in_sweep else path.name: path}


def _planned(workdir: Path) -> dict[str, dict[str, object]]:
    """Fields of the runs that a sweep is for; those that are newer than it have their defaults.

    Raises:
      WorkdirError: the list of them cannot be read.
    """
    defaults = flatten(default_config())
    try:
        return {name: {**defaults, **fields} for name, fields in planned_runs(workdir).items()}
    except (AttributeError, TypeError):
        raise WorkdirError(
            f"{workdir / PLAN_FILE} cannot be read (it must hold the fields of each run by name); "
            "remove it"
        ) from None


def _net(name: str) -> str:
    return name.partition("/")[0]


def _log(directory: Path) -> Log:
    """That of a run; of one of several seeds in one program, theirs."""
    log = read_log(directory / LOG_FILE)
    if not log.starts and directory.name.startswith("seed-"):
        log = read_log(directory.parent / LOG_FILE)
    return log


def _peers(workdir: Path) -> dict[str, list[Run]]:
    """The same nets in PyTorch, where they stand beside the runs."""
    peers: dict[str, list[Run]] = {}
    for path in run_directories(workdir / PEERS):
        if run := read_run(path):
            peers.setdefault(run.net, []).append(run)
    return peers


def _plain(value: object) -> object:
    """A value as JSON would keep it."""
    return list(value) if isinstance(value, tuple) else value
